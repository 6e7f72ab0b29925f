"""The two vocabularies of the MIDI models: which instruments they have, and how loud a velocity is.

Owns the tables of instruments, programs and velocities. Called by `writer.py` and `transcript.py`.
The ids of the tokens are in `rwkv_native/tokenizers/vocabularies.py`; here are only their words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PERCUSSION = 9  #: the channel of drums, whatever its program


@dataclass(frozen=True, slots=True)
class Instrument:
    """One bin: its word in tokens, and how a file plays it."""

    short: str
    channel: int
    program: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """programs: program of a file -> bin, where it has one; steps: velocity bins, 0 is note off;
    curve: loudness over velocity, the nearer to 1 the straighter."""

    instruments: Sequence[Instrument]
    programs: Mapping[int, int]
    steps: int
    curve: float

    def bin_of(self, channel: int, program: int) -> int | None:
        """The instrument that plays, an index of `instruments`; None: it has no tokens."""
        if channel != PERCUSSION:
            return self.programs.get(program)
        return 0 if self.instruments[0].channel == PERCUSSION else None

    def step_of(self, velocity: float) -> int:
        """ceil(128 (E^(v / 128) - 1) / (E - 1) / B), with B = 128 / (steps - 1)."""
        part = min(max(velocity, 0), 127) / 128
        loudness = 128 * ((self.curve**part - 1) / (self.curve - 1))
        return math.ceil(loudness / self._width)

    def velocity_of(self, step: int) -> int:
        """The largest whole velocity of a step: the inverse of `step_of`, rounded up, less one."""
        part = ((self.curve - 1) * self._width * step) / 128 + 1
        return max(0, math.ceil(128 * (math.log(part) / math.log(self.curve)) - 1))

    @property
    def _width(self) -> float:
        return 128 / (self.steps - 1)


_P, _D, _T, _M, _B, _G, _V, _TR, _PI, _S, _F, _L, _PA = range(13)

_RANGES = (
    *((_PI, range(0, 8)), (_M, range(8, 17)), (_PI, range(17, 24)), (_G, range(24, 32))),
    *((_B, range(32, 40)), (_V, range(40, 42)), (_B, range(42, 44)), (_V, range(44, 47))),
    *((_D, range(47, 48)), (_V, range(48, 55)), (_TR, range(56, 57)), (_T, range(57, 59))),
    *((_TR, range(59, 64)), (_S, range(64, 69)), (_TR, range(69, 70)), (_S, range(70, 72))),
    *((_F, range(72, 80)), (_L, range(80, 85)), (_V, range(85, 86)), (_L, range(86, 88))),
    *((_PA, range(88, 91)), (_V, range(91, 92)), (_PA, range(92, 96)), (_G, range(104, 109))),
    *((_S, range(109, 110)), (_V, range(110, 111)), (_S, range(111, 112))),
    *((_M, range(112, 116)), (_D, range(116, 119))),
)

DEFAULT = Vocabulary(
    instruments=(
        Instrument("p", PERCUSSION, 0),
        Instrument("d", 0, 118),
        Instrument("t", 1, 58),
        Instrument("m", 2, 12),
        Instrument("b", 3, 32),
        Instrument("g", 4, 25),
        Instrument("v", 5, 40),
        Instrument("tr", 6, 56),
        Instrument("pi", 7, 0),
        Instrument("s", 8, 66),
        Instrument("f", 10, 73),
        Instrument("l", 11, 80),
        Instrument("pa", 12, 88),
    ),
    programs={program: bin for bin, programs in _RANGES for program in programs},
    steps=12,
    curve=0.5,
)
PIANO = Vocabulary(
    instruments=(Instrument("p", 0, 0),),
    programs=dict.fromkeys((*range(0, 8), *range(17, 24)), 0),
    steps=16,
    curve=0.33,
)

VOCABULARIES = {"default": DEFAULT, "piano": PIANO}
