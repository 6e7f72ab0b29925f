"""Text <-> MIDI for requests: a thread converts what is small, a process of its own
(`sandbox/process.py`, which runs `converter_child.py`) what could take long or much memory.

Owns the choice of the vocabulary. Called by the resources that take or give music.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from web import errors
from web.admission import Turns
from web.midi.limits import LIMITS, MidiError
from web.midi.piece import FAMILIES
from web.midi.transcript import NothingHeard, midi_to_text
from web.midi.vocabulary import VOCABULARIES
from web.midi.writer import text_to_midi
from web.sandbox import process
from web.threadpool import in_thread

if TYPE_CHECKING:
    from web.engine.model_host import Runtime

TYPE = "audio/midi"

_CONVERTER = Path(__file__).with_name("converter_child.py")
_SMALL = 32 << 10  # bytes or characters that a thread converts: 0.05 s for 5000 tokens
# A file of 4 MiB needs at most 0.6 GB, and 12 s on a busy core; the longest piece 7 s.
_ALLOWANCE = process.Allowance(seconds=30, memory=1 << 30, output=64 << 20)
_AT_WORK = 2  # children at one time
_MOST_WAITING = 32  # requests that wait for one, each with its piece in memory
_WRONG, _SILENT = 1, 2  # exit codes of the child


class Conversions:
    """Converts for all requests. `field` is what errors call the piece; each raises a Refusal: 400
    for the piece, 429 if too many wait; and ClientGone."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._turns = Turns(_AT_WORK, _MOST_WAITING)

    def to_midi(
        self,
        text: str,
        field: str,
        client: process.Client,
        vocabulary: str | None = None,
        quote: bool = True,
    ) -> bytes:
        """The file of a text, in the vocabulary of the served model unless another is named.
        Without `quote` errors show nothing of the text, which may be a file of somebody else's."""
        vocabulary = vocabulary or self._vocabulary()
        try:
            if _is_quick(len(text), LIMITS.text):
                return in_thread(text_to_midi, text, VOCABULARIES[vocabulary], LIMITS, quote)
            kind = "midi" if quote else "midi unquoted"
            return self._by_child(kind, vocabulary, text.encode(), client)
        except MidiError as problem:
            raise errors.invalid(field, f"cannot be converted: {problem}") from None

    def to_text(self, data: bytes, field: str, client: process.Client) -> str:
        """The first piece of a file."""
        vocabulary = self._vocabulary()
        try:
            if _is_quick(len(data), LIMITS.file):
                return in_thread(midi_to_text, data, VOCABULARIES[vocabulary])
            return self._by_child("text", vocabulary, data, client).decode()
        except MidiError as problem:
            raise _bad_file(field, problem) from None

    def _vocabulary(self) -> str:
        """As RWKV Runner chooses: that of the piano only while its model is loaded."""
        return FAMILIES.get(self._runtime.family, "default")

    def _by_child(self, kind: str, vocabulary: str, data: bytes, client: process.Client) -> bytes:
        with (
            self._turns.take(),
            process.memory_file("piece") as given,
            process.memory_file("converted") as got,
        ):
            process.fill(given, data)
            os.lseek(given, 0, os.SEEK_SET)
            code = process.run(_CONVERTER, (kind, vocabulary), given, got, _ALLOWANCE, client)
            made = process.contents(got) if code in (0, _WRONG, _SILENT) else b""
        if code == 0:
            return made
        if code == _SILENT:
            raise NothingHeard(made.decode())
        if code == _WRONG:
            raise MidiError(made.decode())
        raise MidiError(
            f"it takes more than {_ALLOWANCE.seconds} s or {_ALLOWANCE.memory >> 20} MiB of memory"
        )


def _is_quick(size: int, most: int) -> bool:
    """What is larger than any piece may be is refused at once, so that is quick, too."""
    return size <= _SMALL or size > most


def _bad_file(field: str, problem: MidiError) -> errors.Refusal:
    """400 with RWKV Runner's `detail` where it has one."""
    said = f"bad midi file: {problem}"
    return errors.unreadable(
        field, said, "bad midi file" if isinstance(problem, NothingHeard) else said
    )
