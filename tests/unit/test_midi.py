"""Text <-> MIDI: RWKV Runner's own answers, bit for bit, and pieces that come back as they were.

`data/midi.json` holds what its converter answered, for the inputs beside them.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import mido
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_native.tokenizers import vocabularies
from web.midi.limits import LIMITS, Limits, MidiError
from web.midi.reader import recording
from web.midi.transcript import NothingHeard, midi_to_text, pieces
from web.midi.vocabulary import DEFAULT, PIANO, VOCABULARIES, Vocabulary
from web.midi.writer import text_to_midi

CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "midi.json").read_text()
)
GUIDE = (
    "p:24:a p:2a:a p:31:a p:39:a p:3b:a p:45:a b:26:a g:3e:a g:3e:a g:42:a g:42:a g:45:a g:45:a "
    "pi:3e:a pi:42:a pi:45:a t14 p:24:0 p:2a:0 p:31:0 p:39:0 p:3b:0 p:45:0 t2 p:2a:a p:3b:a p:45:a "
    "t14 p:2a:0 p:3b:0 p:45:0 b:26:0 g:3e:0"
)


# What RWKV Runner refuses or loses, and we read: docs/compatibility.md lists why.
OURS: dict[str, str] = {
    "raw_smpte": "<start> pi:3c:a t125 pi:3c:0 <end>",
    "raw_unknown_meta_with_time": "<start> pi:3c:a t125 pi:3c:0 <end>",
    "raw_extra_chunk": "<start> pi:3c:a t62 pi:3c:0 <end>",
    "err_newline_inside": "pi:3c:a pi:40:a",  # becomes the file of this text
}


def by_name(case: dict[str, Any]) -> str:
    return case["name"]


@pytest.mark.parametrize("case", CASES["text_to_midi"], ids=by_name)
def test_texts_become_the_same_bytes(case: dict[str, Any]) -> None:
    vocabulary = VOCABULARIES[case["vocabulary"]]
    if case["name"] in OURS:
        assert text_to_midi(case["text"]) == text_to_midi(OURS[case["name"]])
    elif case["file"] is None:
        with pytest.raises(MidiError, match=r"token 1, .* at character 0"):
            text_to_midi(case["text"], vocabulary)
    else:
        assert text_to_midi(case["text"], vocabulary).hex() == case["file"]


@pytest.mark.parametrize("case", CASES["midi_to_text"], ids=by_name)
def test_files_become_the_same_text(case: dict[str, Any]) -> None:
    vocabulary = VOCABULARIES[case["vocabulary"]]
    data = bytes.fromhex(case["file"])
    if case["name"] in OURS:
        assert midi_to_text(data) == OURS[case["name"]]
        return
    if case["pieces"] is None:
        with pytest.raises(MidiError) as caught:
            midi_to_text(data, vocabulary)
        assert not isinstance(caught.value, NothingHeard)
        return
    assert pieces(recording(data, LIMITS), vocabulary) == case["pieces"]
    if case["pieces"]:
        assert midi_to_text(data, vocabulary) == case["pieces"][0]
    else:
        with pytest.raises(NothingHeard):
            midi_to_text(data, vocabulary)


@pytest.mark.parametrize(
    ("text", "size", "digest"),
    [
        ("", 107, None),
        (GUIDE, 221, "25a39d8007c641e33fe222edaa0b8afe3e8769ae8a29754c1df54f8b555ee800"),
        (
            "p:24:a p:2a:a p:31:a",
            117,
            "28d184061dccb112c0a23d57de0fb4fcbb28db83592894421b12a89d519d3a6e",
        ),
        (
            "<start> p:24:a p:2a:a p:31:a <end>",
            128,
            "11f5b120ca32119d2855de798c49339d91aad7d945d38879690cbd059c93985d",
        ),
    ],
)
def test_the_texts_of_the_guide(text: str, size: int, digest: str | None) -> None:
    data = text_to_midi(text)
    assert len(data) == size
    assert digest is None or hashlib.sha256(data).hexdigest() == digest


def test_one_chord_there_and_back() -> None:
    text = "p:24:a p:2a:a t14 p:24:0 p:2a:0"
    assert midi_to_text(text_to_midi(text)) == f"<start> {text} <end>"
    with pytest.raises(NothingHeard):
        midi_to_text(text_to_midi("p:24:a"))


def test_the_words_are_those_of_the_tokenizer() -> None:
    for vocabulary, shorts, steps in (
        (DEFAULT, vocabularies.MIDI_INSTRUMENTS, vocabularies.MIDI_VELOCITIES),
        (PIANO, vocabularies.PIANO_INSTRUMENTS, vocabularies.PIANO_VELOCITIES),
    ):
        assert tuple(one.short for one in vocabulary.instruments) == shorts
        assert vocabulary.steps == steps


@pytest.mark.parametrize(
    ("vocabulary", "largest"),
    [
        (DEFAULT, [0, 8, 17, 27, 37, 47, 58, 70, 83, 97, 111, 127]),
        (PIANO, [0, 5, 10, 16, 22, 29, 36, 43, 51, 59, 68, 78, 88, 100, 113, 127]),
    ],
)
def test_velocities(vocabulary: Vocabulary, largest: list[int]) -> None:
    assert [vocabulary.velocity_of(step) for step in range(vocabulary.steps)] == largest
    for velocity in range(128):
        step = vocabulary.step_of(velocity)
        assert largest[step] >= velocity and (step == 0 or largest[step - 1] < velocity)


def test_programs() -> None:
    none = [n for n in range(128) if DEFAULT.bin_of(0, n) is None]
    assert none == [55, *range(96, 104), *range(119, 128)]
    assert DEFAULT.bin_of(9, 120) == 0 and PIANO.bin_of(9, 0) is None
    assert [n for n in range(128) if PIANO.bin_of(3, n) == 0] == [*range(8), *range(17, 24)]
    for bin, one in enumerate(DEFAULT.instruments):  # what is written is read as the same
        assert DEFAULT.bin_of(one.channel, one.program) == bin


# Volumes and long waits, as runner-api.md tells of them.


def played(*messages: tuple[int, mido.Message | mido.MetaMessage]) -> str:
    """What is heard of messages, each so many ticks of 1 ms after the one before it."""
    track = mido.MidiTrack(message.copy(time=time) for time, message in messages)
    raw = io.BytesIO()
    mido.MidiFile(ticks_per_beat=500, tracks=[track]).save(file=raw)
    return midi_to_text(raw.getvalue())


def on(note: int, velocity: int = 100) -> mido.Message:
    return mido.Message("note_on", note=note, velocity=velocity)


def control(number: int, value: int) -> mido.Message:
    return mido.Message("control_change", control=number, value=value)


def test_volume_and_expression() -> None:
    loud = [(0, on(60)), (0, control(7, 64)), (80, on(61)), (0, control(11, 64)), (80, on(62))]
    last = [(0, control(39, 0)), (80, on(63)), (80, on(60, 0))]
    assert (
        played(*loud, *last)
        == "<start> pi:3c:a t10 pi:3d:6 t10 pi:3e:3 t10 pi:3f:0 t10 pi:3c:0 <end>"
    )


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (5, "t1"),
        (1000, "t125"),
        (1500, "t125 t62"),
        (3000, "t125 t125 t125"),
        (1999, "t125 t125"),
        (15000, " ".join(["t125"] * 10)),
    ],
)
def test_waits(milliseconds: int, words: str) -> None:
    assert (
        played((0, on(60)), (milliseconds, on(60, 0))) == f"<start> pi:3c:a {words} pi:3c:0 <end>"
    )


def test_a_long_silence_begins_another_piece() -> None:
    raw = io.BytesIO()
    track = mido.MidiTrack()
    for start in (0, 10_000_001):
        track += [on(60).copy(time=start), on(60, 0).copy(time=80)]
    mido.MidiFile(ticks_per_beat=500, tracks=[track]).save(file=raw)
    heard = recording(raw.getvalue(), LIMITS)
    assert pieces(heard, DEFAULT) == ["<start> pi:3c:a t10 pi:3c:0 <end>"] * 2


# Errors name the place.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pi:3c:a  zz", "token 2, 'zz' at character 9, is no note"),
        ("\n pi:3c:a t5x", "token 2, 't5x' at character 10, is no wait"),
        ("x:3c:a", "token 1, 'x:3c:a' at character 0, names no instrument of p, d,"),
        ("<pad> pi:80:a", "token 2, 'pi:80:a' at character 6, has a note above 7f"),
        ("pi:3c:c", "token 1, 'pi:3c:c' at character 0, has a velocity above b"),
        ("pi:3c:-1", "is no note"),
        ("pi:+3:1", "is no note"),
        ("pi:3_c:1", "is no note"),
        ("pi::1", "is no note"),
        ("pi:3c:a:0", "is no note"),
        (":3c:a", "names no instrument"),
        ("t\u0663", "is no wait"),
        ("t\u00b2", "is no wait"),
        ("t1 t10800000 t1", "token 2, .* makes it longer than 86400 s"),
        ("t" + "9" * 5000, "is too long a wait"),
        ("z" * 9000, "'" + "z" * 40 + "...'"),
    ],
)
def test_malformed_texts(text: str, said: str) -> None:
    with pytest.raises(MidiError, match=said):
        text_to_midi(text)


def test_what_is_lenient_stays_so() -> None:
    assert text_to_midi("pi:3C:A t007 pi:03c:00") == text_to_midi("pi:3c:a t7 pi:3c:0")
    assert text_to_midi("< <pad> <anything>") == text_to_midi("")
    lines = "pi:3c:a\tt62\r\npi:3c:0\n\n pi:40:a\u3000t62\npi:40:0\n"
    assert text_to_midi(lines) == text_to_midi("pi:3c:a t62 pi:3c:0 pi:40:a t62 pi:40:0")
    with pytest.raises(MidiError, match="token 2, 'zz' at character 8"):
        text_to_midi("pi:3c:a\nzz")


TRACK = b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"RIFF\0\0\0\6\0\1\0\1\1\xe0", "no MThd in its first 1024 bytes"),
        (bytes(2000) + TRACK, "no MThd in its first 1024 bytes"),
        (TRACK[:12], "its header at byte 0|in the middle of its header"),
        (TRACK[:7] + b"\4" + TRACK[8:], "header at byte 0 is shorter than 6 bytes"),
        (TRACK + b"\0\0\0\4\0\x90\x3c", "ends at byte 25, in the middle of a track"),
        (TRACK + b"\0\0\0\x40\0\x90\x3c\x40", "ends at byte 26, in the middle of a track"),
        (TRACK + b"\0\0\0\3\0\x90\x3c\x40", "track at byte 14 ends at byte 25, in the middle"),
        (TRACK + b"\0\0\0\4\0\x90\x80\x3c", "byte 24 is 80, in the place of a number to 7f"),
        (TRACK + b"\0\0\0\3\0\xc0\xff", "byte 24 is ff, in the place of a number to 7f"),
        (TRACK + b"\0\0\0\4\0\x3c\x3c\0", "byte 23 is an event without a status"),
        (TRACK + b"\0\0\0\2\0\xf4", "byte 23 is f4, which is no event"),
        (TRACK + b"\0\0\0\5\0\xff\1\x10a", "ends at byte 27, in the middle of a track"),
        (b"MThd\0\0\0\6\0\1\0\1\0\0MTrk\0\0\0\0", "bytes 12 and 13 say that .* no length"),
        (b"MThd\0\0\0\6\0\1\0\1\xe7\0MTrk\0\0\0\0", "byte 13 says that a frame has no ticks"),
        (b"MThd\0\0\0\6\0\1\0\0\1\xe0", "no tracks"),
        (TRACK[:-4], "no tracks"),
        (TRACK[:-4] + b"<html>\xff\xff\xff\xff", "at byte 14 no chunk begins, and only 0 of 1"),
        (TRACK + b"\0\0\0\xa4" + b"\xff" * 160 + b"\0\x90\x3c\x40", "too long for a number"),
    ],
)  # fmt: skip
def test_malformed_files(data: bytes, said: str) -> None:
    with pytest.raises(MidiError, match=said):
        midi_to_text(data)


def test_limits() -> None:
    piece = "pi:3c:a t5 pi:3c:0"
    data = text_to_midi(piece)
    for limits, said in (
        (Limits(text=17), "has 18 characters; at most 17"),
        (Limits(events=2), "more than 2 tokens"),
    ):
        with pytest.raises(MidiError, match=said):
            text_to_midi(piece, limits=limits)
    for limits, said in (
        (Limits(file=len(data) - 1), "at most"),
        (Limits(tracks=0), "more than 0 tracks"),
        (Limits(events=17), "more than 17 events"),
        (Limits(text=31), "more than 31 characters"),
    ):
        with pytest.raises(MidiError, match=said):
            midi_to_text(data, limits=limits)
    assert text_to_midi(piece, limits=Limits(text=18, events=3)) == data
    most = Limits(file=len(data), tracks=1, events=18, text=32)
    assert midi_to_text(data, limits=most) == f"<start> {piece} <end>"


# There and back.


def waits(steps: int) -> list[str]:
    return ["t125"] * (steps // 125) + [f"t{steps % 125}"] * (steps % 125 > 0)


@st.composite
def music(draw: st.DrawFn) -> tuple[str, Vocabulary]:
    """A piece whose notes all end, after 1 to 625 steps of 8 ms."""
    vocabulary = draw(st.sampled_from([DEFAULT, PIANO]))
    shorts = [one.short for one in vocabulary.instruments]
    words: list[str] = []
    ends: dict[str, int] = {}  # what sounds -> when it ends
    now = 0
    for _ in range(draw(st.integers(1, 30))):
        note = f"{draw(st.sampled_from(shorts))}:{draw(st.integers(0, 127)):x}"
        if note not in ends:
            words.append(f"{note}:{draw(st.integers(1, vocabulary.steps - 1)):x}")
            ends[note] = now + draw(st.integers(1, 625))
        until = now + draw(st.integers(0, 300))
        now = _pass(words, ends, now, until)
    _pass(words, ends, now, max(ends.values(), default=now))
    return " ".join(words), vocabulary


def _pass(words: list[str], ends: dict[str, int], now: int, until: int) -> int:
    """Says what happens until then."""
    for then in sorted({end for end in ends.values() if end <= until} | {until}):
        words += waits(then - now)
        now = then
        over = [note for note, end in ends.items() if end == now]
        words += [f"{note}:0" for note in over]
        for note in over:
            del ends[note]
    return now


@settings(max_examples=100)
@given(music())
def test_pieces_come_back(piece: tuple[str, Vocabulary]) -> None:
    """After one round a text is its own: waits and the order of a chord are settled then."""
    text, vocabulary = piece
    once = midi_to_text(text_to_midi(text, vocabulary), vocabulary)
    assert midi_to_text(text_to_midi(once, vocabulary), vocabulary) == once
    assert sorted(notes_of(text)) == sorted(notes_of(once))
    assert steps_of(text) == steps_of(once)


def notes_of(text: str) -> list[str]:
    return [word for word in text.split() if ":" in word]


def steps_of(text: str) -> int:
    """The time up to the last note."""
    text = text[: text.rindex(":")]
    return sum(int(word[1:]) for word in text.split() if word[1:].isdigit())
