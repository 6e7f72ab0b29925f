"""MIDI -> text: what a file plays, as the tokens of the MIDI models.

Follows the tempo, programs, volumes and the pedal of every channel; waits are rounded to 8 ms, one
by one. Called by the server and the commands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from web.midi.limits import LIMITS, Limits, MidiError
from web.midi.reader import Event, Kind, Recording, recording
from web.midi.vocabulary import DEFAULT, Vocabulary

_SPLIT = 10_000_000  # milliseconds of silence after which another piece begins
_LONGEST_WAIT = 10_000  # milliseconds; a longer wait becomes this one
_SECOND = "t125"

# Controls that matter; the fine volume, which few files use, acts as the volume.
_VOLUMES, _EXPRESSION, _PEDAL, _ALL_NOTES_OFF = (7, 39), 11, 64, 123


class NothingHeard(MidiError):
    """A file in which no note follows another."""


def midi_to_text(data: bytes, vocabulary: Vocabulary = DEFAULT, limits: Limits = LIMITS) -> str:
    """The first piece of a file: `<start> pi:3c:a t62 pi:3c:0 <end>`. Raises MidiError."""
    found = pieces(recording(data, limits), vocabulary, limits)
    if not found:
        raise NothingHeard("it plays no note after another")
    return found[0]


def pieces(heard: Recording, vocabulary: Vocabulary, limits: Limits = LIMITS) -> list[str]:
    """The texts between long silences, as far as time passes in them."""
    text = _Text(vocabulary, limits)
    channels = [_Channel(number) for number in range(16)]
    for seconds, event in heard.timed():
        text.wait += seconds * 1000
        if event.kind in _ACTIONS:
            _ACTIONS[event.kind](text, channels, event)
    return text.end()


@dataclass(slots=True)
class _Channel:
    """What the messages of one channel have set. The dicts are sets that keep their order."""

    number: int
    program: int = 0
    volume: int = 127
    expression: int = 127
    pedal: bool = False
    held: dict[int, None] = field(default_factory=dict)  # notes
    pending: dict[tuple[int, int], None] = field(default_factory=dict)  # (note, program)

    def strike(self, text: _Text, note: int, velocity: int) -> None:
        self.pending.pop((note, self.program), None)
        loud = velocity * (self.volume / 127) * (self.expression / 127)
        text.add(self.number, self.program, note, loud)
        if note not in self.held:
            self.held[note] = None
            text.held += 1

    def release(self, text: _Text, note: int, program: int) -> None:
        """The program is the one in force now, so a change under a note ends another one."""
        if self.pedal:
            self.pending[note, program] = None
            return
        text.add(self.number, program, note, 0)
        if note in self.held:
            del self.held[note]
            text.held -= 1

    def tread(self, text: _Text, pressed: bool) -> None:
        self.pedal = pressed
        if not pressed:
            for note, program in self.pending:
                self.release(text, note, program)
            self.pending.clear()


class _Text:
    """The pieces so far. `wait` is the time since the last token, in milliseconds; `held` the
    number of notes that are held on any channel."""

    def __init__(self, vocabulary: Vocabulary, limits: Limits) -> None:
        self._vocabulary = vocabulary
        self._most = limits.text  # characters
        self._room = self._most + 1  # no blank follows the last word
        self._pieces: list[str] = []
        self.wait = 0.0
        self.held = 0
        self._begin()

    def _begin(self) -> None:
        self._words: list[str] = []
        self._say(["<start>"])
        self._chord: list[tuple[int, int, int]] = []  # notes of one instant: (bin, note, step)
        self._length = 0.0  # milliseconds
        self._started = False

    def add(self, channel: int, program: int, note: int, velocity: float) -> None:
        """A note of this instant; 0: its end. One without an instrument lets the time run on."""
        bin = self._vocabulary.bin_of(channel, program)
        if bin is None:
            return
        if self.wait > _SPLIT and not self.held:
            self._finish()
            self._begin()
        if self._started and (waits := _waits(self.wait)):
            self._flush()
            self._length += self.wait
            self._say(waits)
        self.wait = 0.0  # what was too short for a wait is lost, also without one
        self._chord.append((bin, note, self._vocabulary.step_of(velocity)))
        self._started = True

    def end(self) -> list[str]:
        self._finish()
        return self._pieces

    def _finish(self) -> None:
        self._flush()
        self._say(["<end>"])
        if self._length > 0:
            self._pieces.append(" ".join(self._words))

    def _flush(self) -> None:
        instruments = self._vocabulary.instruments  # percussion is the first
        self._chord.sort(key=lambda one: one[:2])
        self._say(
            [f"{instruments[bin].short}:{note:x}:{step:x}" for bin, note, step in self._chord]
        )
        self._chord.clear()

    def _say(self, words: list[str]) -> None:
        self._words += words
        self._room -= sum(map(len, words)) + len(words)
        if self._room < 0:
            raise MidiError(f"its text has more than {self._most} characters")


def _waits(wait: float) -> list[str]:
    """The tokens of a time in milliseconds: whole seconds, and what is left in steps of 8 ms, a
    half rounded down."""
    wait = min(wait, _LONGEST_WAIT)
    words = [_SECOND] * math.floor(wait / 1000)
    steps = math.ceil((wait % 1000) / 8 - 0.5)
    return [*words, f"t{steps}"] if steps > 0 else words


def _note_on(text: _Text, channels: list[_Channel], event: Event) -> None:
    if event.value > 0:
        channels[event.channel].strike(text, event.number, event.value)
    else:
        _note_off(text, channels, event)


def _note_off(text: _Text, channels: list[_Channel], event: Event) -> None:
    channel = channels[event.channel]
    channel.release(text, event.number, channel.program)


def _program_change(text: _Text, channels: list[_Channel], event: Event) -> None:
    channels[event.channel].program = event.number


def _control_change(text: _Text, channels: list[_Channel], event: Event) -> None:
    channel = channels[event.channel]
    if event.number in _VOLUMES:
        channel.volume = event.value
    elif event.number == _EXPRESSION:
        channel.expression = event.value
    elif event.number == _PEDAL:
        channel.tread(text, event.value >= 64)
    elif event.number == _ALL_NOTES_OFF:
        for each in channels:  # of all, whichever channel it names
            for note in list(each.held):
                each.release(text, note, each.program)


_ACTIONS: dict[Kind, Callable[[_Text, list[_Channel], Event], None]] = {
    Kind.NOTE_ON: _note_on,
    Kind.NOTE_OFF: _note_off,
    Kind.PROGRAM: _program_change,
    Kind.CONTROL: _control_change,
}
