"""Text -> MIDI: the tokens of a piece as the events of a file of one track.

A token that is no note, wait or mark, or that would make the piece too long, is a MidiError with
its position. Called by the server and the commands.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import mido

from web.midi.limits import LIMITS, Limits, MidiError
from web.midi.vocabulary import DEFAULT, PERCUSSION, Vocabulary

_TEMPO = 500_000  # microseconds of a quarter note
_RESOLUTION = 480  # ticks of a quarter note
_STEP = 8  # milliseconds of t1
_LONGEST_NOTE = 5000  # milliseconds; a longer one ends at the next wait
_LAST_RING = 3000  # milliseconds between <end> and the end of the notes
_LETTERS = 40  # of a token, in errors

_TOKEN = re.compile(r"\S+")
_NOTE = re.compile(r"([^:]*):([0-9a-fA-F]+):([0-9a-fA-F]+)")
_WAIT = re.compile(r"t0*([0-9]+)")
_DIGITS = 12  # of a wait that can be in any limit


def text_to_midi(
    text: str, vocabulary: Vocabulary = DEFAULT, limits: Limits = LIMITS, quote: bool = True
) -> bytes:
    """The file of a text. White space separates tokens: `pi:3c:a t62 pi:3c:0`. A note that no
    token ends is not ended, except by `<end>` or after 5 s. Raises MidiError, which shows the
    token that is wrong unless `quote` is false: whoever names a file may not know it."""
    if len(text) > limits.text:
        raise MidiError(f"it has {len(text)} characters; at most {limits.text} are taken")
    score = _Score(vocabulary)
    for count, (position, token) in enumerate(_tokens(text), 1):
        if count > limits.events:
            raise MidiError(f"it has more than {limits.events} tokens")
        problem = score.play(token)
        if problem is None and score.now > limits.seconds * 1000:
            problem = f"makes it longer than {limits.seconds} s"
        if problem is not None:
            told = f", {shown(token)}" if quote else ""
            raise MidiError(f"token {count}{told} at character {position}, {problem}")
    return score.file()


def _tokens(text: str) -> Iterable[tuple[int, str]]:
    """(position, token): texts of people have lines."""
    return ((found.start(), found[0]) for found in _TOKEN.finditer(text))


def shown(token: str) -> str:
    """As errors repeat it."""
    return repr(token if len(token) <= _LETTERS else token[:_LETTERS] + "...")


class _Score:
    """The events so far, and the notes that sound."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._instruments = {one.short: one.channel for one in vocabulary.instruments}
        self._velocities = [vocabulary.velocity_of(step) for step in range(vocabulary.steps)]
        self._track = mido.MidiTrack(_prologue(vocabulary))
        self._silence = 0.0  # milliseconds since the last event
        self.now = 0.0  # milliseconds since the beginning
        self._sounding: dict[tuple[int, int], float] = {}  # (channel, note) -> when it began

    def file(self) -> bytes:
        midi = mido.MidiFile(type=1, ticks_per_beat=_RESOLUTION, tracks=[self._track])
        raw = io.BytesIO()
        midi.save(file=raw)
        return raw.getvalue()

    def play(self, token: str) -> str | None:
        """Takes a token, or says what is wrong with it."""
        if token.startswith("<"):
            if token == "<end>":
                self._end()
            return None
        if token[0] == "t" and token[1:2].isdigit():
            return self._wait(token)
        return self._note(token)

    def _end(self) -> None:
        self._pass(_LAST_RING)
        for key in list(self._sounding):
            self._release(key)

    def _wait(self, token: str) -> str | None:
        wait = _WAIT.fullmatch(token)
        if wait is None:
            return "is no wait: t and a number, of 8 ms each"
        if len(wait[1]) > _DIGITS:
            return "is too long a wait"
        self._pass(_STEP * int(wait[1]))
        for key, begun in self._sounding.items():
            if self.now - begun > _LONGEST_NOTE:
                self._release(key)
                break
        return None

    def _note(self, token: str) -> str | None:
        note = _NOTE.fullmatch(token)
        if note is None:
            return "is no note: instrument:note:velocity, both in hexadecimal"
        channel = self._instruments.get(note[1])
        pitch, step = int(note[2], 16), int(note[3], 16)
        if channel is None:
            return f"names no instrument of {', '.join(self._instruments)}"
        if pitch > 127:
            return "has a note above 7f"
        if step >= len(self._velocities):
            return f"has a velocity above {len(self._velocities) - 1:x}"
        key = (channel, pitch)
        if step == 0:
            self._release(key)
            return None
        if key in self._sounding:
            self._release(key)
        self._write("note_on", key, self._velocities[step])
        self._sounding[key] = self.now
        return None

    def _release(self, key: tuple[int, int]) -> None:
        self._sounding.pop(key, None)
        self._write("note_off", key, 64)

    def _write(self, kind: str, key: tuple[int, int], velocity: int) -> None:
        # Each event is rounded on its own, to the even tick at a half.
        ticks = round((self._silence / 1000) / (_TEMPO * 1e-6 / _RESOLUTION))
        channel, note = key
        self._track.append(
            mido.Message(kind, channel=channel, note=note, velocity=velocity, time=ticks)
        )
        self._silence = 0.0

    def _pass(self, milliseconds: int) -> None:
        self._silence += milliseconds
        self.now += milliseconds


def _prologue(vocabulary: Vocabulary) -> list[mido.Message | mido.MetaMessage]:
    """What every file begins with; the text is part of the bytes that others compare."""
    programs = {one.channel: one.program for one in vocabulary.instruments} | {PERCUSSION: 0}
    order = sorted(programs, key=lambda channel: (channel == PERCUSSION, channel))
    return [
        mido.MetaMessage("text", text="Generated by MIDI-LLM-tokenizer", time=0),
        mido.MetaMessage("set_tempo", tempo=_TEMPO, time=0),
        *(
            mido.Message("program_change", channel=channel, program=programs[channel], time=0)
            for channel in order
        ),
    ]
