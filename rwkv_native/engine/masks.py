"""Which tokens may come next, said by a Python function before each draw.

Owns the call from C into Python and the forms that a mask may have. Called by requests.py; C calls
on the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._ffi import ffi
from ..errors import InvalidError

Mask = Callable[[list[int]], np.ndarray | None]


class MaskCall:
    """A mask function as C calls it, to be kept until its requests have ended."""

    __slots__ = ("failure", "function", "handle", "vocab")

    def __init__(self, function: Mask, vocab: int) -> None:
        if not callable(function):
            raise InvalidError(f"mask must be a function, not {type(function).__name__}")
        self.function = function
        self.vocab = vocab
        self.failure: BaseException | None = None  # what it raised
        self.handle = ffi.new_handle(self)

    def fill(self, bits: Any, tokens: list[int]) -> None:
        """Writes the bits of the next token; all are set before."""
        given = self.function(tokens)
        if given is not None:
            packed = self._packed(given)
            ffi.memmove(bits, packed, packed.nbytes)

    def _packed(self, given: Any) -> np.ndarray:
        found = np.asarray(given)
        if found.dtype == bool and found.shape == (self.vocab,):
            return np.packbits(found, bitorder="little")
        sizes = {"uint8": -(-self.vocab // 8), "uint64": -(-self.vocab // 64)}
        if found.shape == (sizes.get(found.dtype.name),):
            return np.ascontiguousarray(found)
        forms = [f"bool [{self.vocab}]", *(f"{kind} [{size}]" for kind, size in sizes.items())]
        raise InvalidError(
            f"a mask must be {', '.join(forms)}, not {found.dtype} {list(found.shape)}"
        )


@ffi.def_extern(name="rn_mask", error=-1)
def _call(payload: Any, bits: Any, tokens: Any, n: int) -> int:
    call = ffi.from_handle(payload)
    try:
        call.fill(bits, ffi.unpack(tokens, n) if n else [])
    except BaseException as problem:  # it is raised where the event is read
        call.failure = problem
        return -1
    return 0
