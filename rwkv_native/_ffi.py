"""The compiled C interface and the mapping of its status codes to exceptions.

Every other module calls C through `lib` and wraps the status in `check`. Nothing here blocks longer
than the C function that is called; cffi releases the GIL around each call.
"""

from __future__ import annotations

import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import errors

try:
    from ._rn import ffi, lib
except ModuleNotFoundError as missing:
    if missing.name != f"{__package__}._rn":
        raise
    raise ImportError(
        f"{__package__}: the engine is not built here: run make, or leave the source checkout",
        name=missing.name,
    ) from None

__all__ = ["check", "ffi", "float_pointer", "id_array", "lib", "text"]

_EXCEPTIONS: dict[int, type[errors.Error]] = {
    lib.RWKV_INVALID: errors.InvalidError,
    lib.RWKV_IO: errors.FileError,
    lib.RWKV_NO_MEMORY: errors.OutOfMemoryError,
    lib.RWKV_UNSUPPORTED: errors.UnsupportedError,
    lib.RWKV_BUSY: errors.QueueFull,
    lib.RWKV_STOPPED: errors.Stopped,
    lib.RWKV_INTERNAL: errors.InternalError,
}
_IDS = ffi.typeof("int32_t[]")


def check(status: int) -> None:
    """Raises what a negative status means, with the message of this thread's last call."""
    if status != 0:
        message = text(lib.rwkv_last_error()) or f"status {status} without a message"
        raise _EXCEPTIONS.get(status, errors.InternalError)(message)


def text(pointer: Any) -> str:
    """A zero-terminated C string, or a char array, as str."""
    return ffi.string(pointer).decode("utf-8", "replace")


def float_pointer(values: np.ndarray) -> Any:
    """`float *` to a C-contiguous float32 array, without a copy; the array must outlive the use."""
    return ffi.from_buffer("float[]", values)


def id_array(name: str, ids: Iterable[int] | np.ndarray, limit: int | None = None) -> Any:
    """`int32_t[]` with its own memory, from a list of ints or an array of them: numpy's,
    array.array or `int32_t[]`, which take 3 ms per million ids where a list takes 30.

    Raises InvalidError that says `name` when the values are no integers or leave [0, limit).
    """
    if isinstance(ids, array.array):
        ids = np.asarray(ids)
    elif isinstance(ids, ffi.CData) and ffi.typeof(ids) is _IDS:
        ids = np.frombuffer(ffi.buffer(ids), np.int32)
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise errors.InvalidError(
                f"{name} must be a list of integers, not an array of {ids.dtype}"
            )
        found = ids
    elif isinstance(ids, (str, bytes, bytearray, memoryview)):
        # array() would take the bytes as raw machine integers.
        raise errors.InvalidError(f"{name} must be a list of integers, not {type(ids).__name__}")
    else:
        try:
            found = np.asarray(array.array("i", ids))
        except TypeError as error:
            raise errors.InvalidError(f"{name} must be a list of integers: {error}") from None
        except OverflowError:
            raise errors.InvalidError(f"{name} holds a number that is not a token id") from None
    if found.size:
        low, high = int(found.min()), int(found.max())
        top = limit - 1 if limit is not None else (1 << 31) - 1
        if low < 0 or high > top:
            wrong = low if low < 0 else high
            raise errors.InvalidError(f"{name}: {wrong} is outside 0 to {top}")
    # A copy in any case: nobody else may change what has been checked.
    return ffi.from_buffer("int32_t[]", np.array(found, np.int32, order="C"))
