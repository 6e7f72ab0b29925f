"""Files as programs and people leave them: each plays all its notes, as a text and as a sound."""

from __future__ import annotations

import io
from pathlib import Path

import mido
import numpy as np
import pytest
from midi_files import BASS_NOTE, KINDS, PLAIN, Notes
from test_sound import RATE, fundamental, hertz, played

from web.midi import renderer_child, sound
from web.midi.limits import LIMITS
from web.midi.reader import Kind, recording
from web.midi.transcript import midi_to_text
from web.midi.vocabulary import DEFAULT

INPUTS = Path(__file__).parents[3] / "shared" / "review" / "inputs"


def notes_of(events: list[tuple[float, int, int, int]]) -> Notes:
    """Of (second, channel, note, velocity; 0: its end), each with its end, by time and pitch."""
    notes: list[list[float]] = []
    sounding: dict[tuple[int, int], list[float]] = {}
    for now, channel, note, velocity in events:
        if velocity:
            sounding[channel, note] = [now, -1, note, velocity]
            notes.append(sounding[channel, note])
        elif (begun := sounding.pop((channel, note), None)) is not None:
            begun[1] = now - begun[0]
    return sorted((begin, length, int(note), int(loud)) for begin, length, note, loud in notes)


def as_events(events: list[tuple[float, object]]) -> list[tuple[float, int, int, int]]:
    found = []
    for now, event in events:
        if event.kind is Kind.NOTE_ON:
            found.append((now, event.channel, event.number, event.value))
        elif event.kind is Kind.NOTE_OFF:
            found.append((now, event.channel, event.number, 0))
    return found


def of_text(text: str) -> list[tuple[float, int, int, int]]:
    """The events of a text; its velocities are steps."""
    now, events = 0, []
    for word in text.split():
        if ":" in word:
            _, note, step = word.split(":")
            events.append((now * 0.008, 0, int(note, 16), int(step, 16)))
        elif word[0] == "t":
            now += int(word[1:])
    return events


def assert_alike(found: Notes, expected: Notes, most: float) -> None:
    expected = sorted(expected)
    assert [note[2:] for note in found] == [note[2:] for note in expected]
    for one_note, other in zip(found, expected, strict=True):
        assert one_note[:2] == pytest.approx(other[:2], abs=most)


@pytest.mark.parametrize("kind", KINDS)
def test_all_notes_are_read_and_rendered(kind: str) -> None:
    data, expected = KINDS[kind]
    events, seconds = renderer_child.played(data)
    assert_alike(notes_of(as_events(events)), expected, 1e-6)
    assert seconds == pytest.approx(max(begin + length for begin, length, *_ in expected))
    steps = [(*note[:3], DEFAULT.step_of(note[3])) for note in expected]
    assert_alike(notes_of(of_text(midi_to_text(data))), steps, 0.017)


# What the review has found, in its own files: "C then E for half a second each" but for these.
OTHERS: dict[str, Notes] = {
    "databyte": [(0, 0.5, 60, 127)],
    "f7": PLAIN[:1],
    "m_meta_delta": [(0, 1, 60, 100), (1, 1, 64, 100)],
    "m_under2": BASS_NOTE + PLAIN,
    "run_sysex": PLAIN[:1],
    "smpte": [(0, 0.5, 60, 100), (0.5, 1.3, 64, 100)],
    "unknown_meta": [(0, 1, 60, 100), (1, 0.5, 64, 100)],
}


@pytest.mark.parametrize("path", sorted(INPUTS.glob("*.mid")), ids=lambda path: path.stem)
def test_the_files_of_the_review(path: Path) -> None:
    data = path.read_bytes()
    if not data:
        return  # test_midi.py has it
    expected = OTHERS.get(path.stem, PLAIN)
    assert_alike(notes_of(as_events(renderer_child.played(data)[0])), expected, 1e-6)
    steps = [(*note[:3], DEFAULT.step_of(note[3])) for note in expected]
    assert_alike(notes_of(of_text(midi_to_text(data))), steps, 0.017)


def test_what_mido_reads_is_read_alike() -> None:
    """Every event of a file of three tracks, by another reader."""
    chance = np.random.default_rng(5)
    tracks = []
    for channel in range(3):
        events = []
        for note in chance.integers(30, 90, 40):
            wait = int(chance.integers(0, 3000))
            events.append(mido.Message("note_on", channel=channel, note=int(note), time=wait))
            events.append(mido.MetaMessage("lyrics", text="la", time=wait // 3))
            events.append(mido.MetaMessage("set_tempo", tempo=int(chance.integers(1, 1 << 24))))
            events.append(mido.Message("polytouch", channel=channel, note=1, time=5))
            events.append(mido.Message("note_off", channel=channel, note=int(note), time=wait))
        tracks.append(mido.MidiTrack(events))
    raw = io.BytesIO()
    mido.MidiFile(type=1, ticks_per_beat=96, tracks=tracks).save(file=raw)
    now, theirs = 0.0, []
    for message in mido.MidiFile(file=io.BytesIO(raw.getvalue())):
        now += message.time
        if message.type in ("note_on", "note_off"):
            loud = message.velocity if message.type == "note_on" else 0
            theirs.append((now, message.channel, message.note, loud))
    ours, seconds = renderer_child.played(raw.getvalue())
    assert [event[1:] for event in as_events(ours)] == [event[1:] for event in theirs]
    assert [event[0] for event in as_events(ours)] == pytest.approx([one[0] for one in theirs])
    assert seconds == pytest.approx(now)
    ends = [event for event in recording(raw.getvalue(), LIMITS).events if event.kind is Kind.END]
    assert len(ends) == 1


@pytest.mark.skipif(sound.missing(), reason=sound.MISSING)
@pytest.mark.parametrize("kind", ["in RIFF with names before and behind", "24 frames of 4 ticks"])
def test_they_sound(kind: str) -> None:
    frames = played(KINDS[kind][0])
    assert fundamental(frames, 0.1, 0.45) == pytest.approx(hertz(60), rel=0.01)
    assert fundamental(frames, 0.6, 0.95) == pytest.approx(hertz(64), rel=0.01)
    assert len(frames) >= 3 * RATE - 64
