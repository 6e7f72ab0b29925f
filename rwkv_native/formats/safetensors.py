"""The .safetensors container: a JSON header, then the bytes of the tensors.

Owns every check of what the header claims, and the making of headers. Called by
checkpoint.py, state.py and convert.py.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from . import atomic_file, foreign
from .tensor import (
    DTYPES,
    PACKED,
    Refused,
    Tensor,
    check_name,
    contiguous,
    is_extent,
    packed_nbytes,
)

# The format allows 100 MB; an index of 100 000 tensors fits here, and parsing it stays short.
MAX_HEADER = 16 << 20
ALIGNMENT = 64
PACKED_KEY, PACKED_VERSION, TURNED = "rwkv.packed", 2, "transposed"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise Refused(f"the header has the key {twice[:80]!a} twice")
    return found


def read(file: BinaryIO, path: str, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise Refused(f"the header claims {length} bytes of a file of {size}: cut off or damaged")
    if length > MAX_HEADER:
        raise Refused(f"the header has {length} bytes, more than {MAX_HEADER}")
    raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except Refused:
        raise
    except RecursionError:
        raise Refused("the header is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"the header is not valid JSON: {error}") from None
    if type(header) is not dict:
        raise Refused("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise Refused("__metadata__ is not an object of strings")

    if "rwkvq" in metadata:
        raise Refused("is a .rwkvq file (of rwkv-quant), which is not read; give its checkpoint")
    if (refusal := foreign.quantised(header)) is not None:
        raise Refused(refusal)
    start = 8 + length
    packed = _packed(metadata)
    tensors = {}
    for name, entry in header.items():
        row = _row(name, entry, path, start, size - start)
        if row.dtype == "U8":
            if name not in packed:
                raise Refused(f"tensor {name!a} has dtype U8; read are {', '.join(DTYPES)}")
            row = _packed_row(row, *packed.pop(name))
        tensors[name] = row
    if packed:
        raise Refused(f"{PACKED_KEY} names {min(packed)!a}, which is no tensor of bytes")
    # The format has neither overlaps nor holes.
    end = start
    for row in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if row.offset != end:
            kind = "overlaps another one" if row.offset < end else "leaves a hole before it"
            raise Refused(f"tensor {row.name!a} {kind}")
        end = row.offset + row.nbytes
    if tensors and end != size:
        raise Refused(f"{size - end} bytes after the last tensor belong to none")
    return tensors, metadata


def packed_entry(matrices: Mapping[str, tuple[str, tuple[int, ...], bool]]) -> dict[str, str]:
    """The metadata that tells type and shape of every packed matrix.

    One of shape [in, out] whose transpose was packed, as panels want it, has a third member.
    """
    if not matrices:
        return {}
    rows = {n: [kind, shape] + [TURNED] * turned for n, (kind, shape, turned) in matrices.items()}
    entry = {"version": PACKED_VERSION, "tensors": rows}
    return {PACKED_KEY: json.dumps(entry, separators=(",", ":"))}


def _packed(metadata: dict[str, str]) -> dict[str, tuple[str, tuple[int, int], bool]]:
    """What packed_entry wrote: {"version": 1, "tensors": {name: [type, shape]}}."""
    if PACKED_KEY not in metadata:
        return {}
    try:
        entry = json.loads(metadata[PACKED_KEY], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{PACKED_KEY} is not valid JSON") from None
    if type(entry) is not dict or type(tensors := entry.get("tensors")) is not dict:
        raise Refused(f"{PACKED_KEY} is not an object with tensors")
    if entry.get("version") != PACKED_VERSION:
        raise Refused(f"is packed in another version than {PACKED_VERSION}; convert it anew")
    found = {}
    for name, row in tensors.items():
        turned = type(row) is list and row[2:] == [TURNED]
        kind, shape = row[:2] if type(row) is list and len(row) == 2 + turned else (None, None)
        good = type(shape) is list and len(shape) == 2 and all(is_extent(n) for n in shape)
        good = good and not (turned and shape[0] == 1)  # a row lies the same both ways
        if not good or type(kind) is not str or kind not in PACKED:
            raise Refused(f"{PACKED_KEY} does not give {name[:80]!a} a type and two dimensions")
        found[name] = (kind, (shape[0], shape[1]), turned)
    return found


def _packed_row(row: Tensor, kind: str, shape: tuple[int, int], turned: bool) -> Tensor:
    needed = packed_nbytes(kind, shape[::-1] if turned else shape)
    if row.nbytes != needed:
        raise Refused(f"tensor {row.name!a} needs {needed} bytes as {kind} and has {row.nbytes}")
    if row.offset % ALIGNMENT:
        raise Refused(f"tensor {row.name!a} is packed and starts at no multiple of {ALIGNMENT}")
    strides = (1, shape[0]) if turned else contiguous(shape)
    return Tensor(row.name, kind, shape, strides, row.path, row.offset, row.nbytes)


def _row(name: str, entry: Any, path: str, start: int, available: int) -> Tensor:
    check_name(name)
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"tensor {name!a} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or (dtype not in DTYPES and dtype != "U8"):
        raise Refused(
            f"tensor {name!a} has dtype {str(dtype)[:20]!a}; read are {', '.join(DTYPES)}"
        )
    if type(shape) is not list or len(shape) > 8 or not all(is_extent(n) for n in shape):
        raise Refused(f"tensor {name!a} has a shape that is not at most 8 numbers from 1 up")
    if type(offsets) is not list or len(offsets) != 2 or not all(type(o) is int for o in offsets):
        raise Refused(f"tensor {name!a} has data_offsets that are not two numbers")
    begin, end = offsets
    if not 0 <= begin <= end <= available:
        raise Refused(f"tensor {name!a} lies outside the file, which is cut off or damaged")
    nbytes = math.prod(shape) * DTYPES.get(dtype, 1)
    if end - begin != nbytes:
        raise Refused(f"tensor {name!a} needs {nbytes} bytes for its shape and has {end - begin}")
    return Tensor(name, dtype, tuple(shape), contiguous(shape), path, start + begin, nbytes)


def header(rows: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """All that stands before the bytes of tensors (name, dtype, shape) that lie in this order.

    The data starts at a multiple of 64, so that a reader's map has every first element aligned.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape in rows:
        end = at + math.prod(shape) * DTYPES.get(dtype, 1)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format's own way to align
    return struct.pack("<Q", len(text)) + text


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes arrays as float32; a reader never sees half of the file."""
    floats = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
    # ascontiguousarray makes a scalar one-dimensional.
    rows = [(name, "F32", np.shape(arrays[name])) for name in floats]
    with atomic_file.replacing(path) as file:
        file.write(header(rows, metadata))
        for array in floats.values():
            file.write(array.data)
