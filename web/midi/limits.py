"""What a piece of music may cost, and the error for one that costs more or is malformed."""

from __future__ import annotations

from dataclasses import dataclass


class MidiError(ValueError):
    """A text or a file that cannot be converted. Names the token and its position, or the byte."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of one piece. A long symphony has 50 000 notes, so 100 000 events."""

    text: int = 8 << 20  # characters
    file: int = 4 << 20  # bytes
    tracks: int = 1024
    events: int = 400_000  # of a file, or tokens of a text
    seconds: int = 24 * 3600  # that a text plays; a file has room for 77 hours between two events


LIMITS = Limits()
