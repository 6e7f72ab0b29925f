"""The index of a checkpoint file: which tensor lies where. Python reads the index, C++ the bytes.

Owns the containers (.pth zip, .safetensors) and every check of what they claim; pickles.py owns the
pickle inside a .pth. Called by model.py and state.py. Never runs code from a file, never imports
torch, and reads tensor bytes only in Tensor.to_numpy (tuned states, tests).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from . import pickles
from .errors import CheckpointError, MissingFileError

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
MAX_NAME = 512
MAX_MEMBERS = 1_000_000
# The format allows 100 MB; an index of 100 000 tensors fits here, and parsing it stays short.
MAX_HEADER = 16 << 20
# What trainers wrap around the dict of tensors, and put in front of every name (taken off while all
# names share one).
WRAPPERS = ("state_dict", "model", "module")
PREFIXES = ("_forward_module.", "module.", "model.")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the index. `strides` count elements, `offset` and `nbytes` bytes of the file."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    path: str
    offset: int  # of element 0
    nbytes: int  # from `offset` to the end of the last element

    def to_numpy(self) -> np.ndarray:
        """A copy of the elements, C-contiguous; BF16 becomes float32, which is exact."""
        stored = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        size = DTYPES[self.dtype]
        flat = np.fromfile(self.path, stored, self.nbytes // size, offset=self.offset)
        if flat.size * size != self.nbytes:
            raise CheckpointError(f"{self.path}: the file has become shorter while it was read")
        strides = [s * size for s in self.strides]
        array = np.lib.stride_tricks.as_strided(flat, self.shape, strides).copy()
        if self.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every tensor of a file by official name, and its metadata (safetensors only)."""

    path: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The index of a .pth (zip) or .safetensors file, told apart by content.

    Raises CheckpointError with the file and the reason, FileNotFoundError, or another OSError.
    """
    name = os.fspath(path)
    try:
        mode = Path(name).stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its other end
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
            raise _Refused(f"is {kind}, not a checkpoint file")
        with Path(name).open("rb") as file:
            return _read(file, name)
    except FileNotFoundError:
        raise MissingFileError(f"{name}: no such file") from None
    except _Refused as refusal:
        raise CheckpointError(f"{name}: {refusal}") from None
    except OSError:
        raise
    except Exception as error:  # the last line of defence against a file made to confuse a parser
        raise CheckpointError(f"{name}: damaged file ({type(error).__name__}: {error})") from error


class _Refused(ValueError):
    """A reason without the file's name, which `read` adds."""


def _read(file: BinaryIO, path: str) -> Checkpoint:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    metadata: dict[str, str] = {}
    if head.startswith(b"PK\x03\x04"):
        tensors = _read_zip(file, path, size)
    elif len(head) > 8 and head[8:9] == b"{":
        tensors, metadata = _read_safetensors(file, path, size)
    else:
        raise _Refused(_what_it_is(head))
    if not tensors:
        raise _Refused("holds no tensors")
    return Checkpoint(path, _without_prefix(tensors), metadata)


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.startswith(b"\x80") and head[2:14] == b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19":
        return "is a .pth of PyTorch before 1.6; save it again with a newer PyTorch"
    if head.startswith(b"GGUF"):
        return "is a GGUF file; give the .pth or .safetensors file"
    if head.startswith(b"version https://"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint: the download went wrong"
    return "is neither a .pth nor a .safetensors file"


def _check_name(name: str) -> None:
    # C sees names as zero-terminated UTF-8.
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _Refused(
            f"a tensor's name is not 1 to {MAX_NAME} printable characters: {name[:80]!a}"
        )


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off what all names start with; wrappers may be nested."""
    cut = 0
    names = list(tensors)
    for _ in range(4):
        found = next((p for p in PREFIXES if all(n.startswith(p, cut) for n in names)), "")
        cut += len(found)
    if not cut:
        return tensors
    return {
        n[cut:]: Tensor(n[cut:], t.dtype, t.shape, t.strides, t.path, t.offset, t.nbytes)
        for n, t in tensors.items()
    }


# -- safetensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise _Refused(f"the header has the key {twice[:80]!a} twice")
    return found


def _read_safetensors(
    file: BinaryIO, path: str, size: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise _Refused(f"the header claims {length} bytes of a file of {size}: cut off or damaged")
    if length > MAX_HEADER:
        raise _Refused(f"the header has {length} bytes, more than {MAX_HEADER}")
    raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except _Refused:
        raise
    except RecursionError:
        raise _Refused("the header is nested too deeply") from None
    except ValueError as error:
        raise _Refused(f"the header is not valid JSON: {error}") from None
    if type(header) is not dict:
        raise _Refused("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise _Refused("__metadata__ is not an object of strings")

    start = 8 + length
    tensors = {}
    for name, entry in header.items():
        tensors[name] = _safetensors_row(name, entry, path, start, size - start)
    # The format has neither overlaps nor holes.
    end = start
    for row in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if row.offset != end:
            kind = "overlaps another one" if row.offset < end else "leaves a hole before it"
            raise _Refused(f"tensor {row.name!a} {kind}")
        end = row.offset + row.nbytes
    if tensors and end != size:
        raise _Refused(f"{size - end} bytes after the last tensor belong to none")
    return tensors, metadata


def _safetensors_row(name: str, entry: Any, path: str, start: int, available: int) -> Tensor:
    _check_name(name)
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Refused(f"tensor {name!a} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise _Refused(
            f"tensor {name!a} has dtype {str(dtype)[:20]!a}; read are {', '.join(DTYPES)}"
        )
    if type(shape) is not list or len(shape) > 8 or not all(_is_extent(n) for n in shape):
        raise _Refused(f"tensor {name!a} has a shape that is not at most 8 numbers from 1 up")
    if type(offsets) is not list or len(offsets) != 2 or not all(type(o) is int for o in offsets):
        raise _Refused(f"tensor {name!a} has data_offsets that are not two numbers")
    begin, end = offsets
    if not 0 <= begin <= end <= available:
        raise _Refused(f"tensor {name!a} lies outside the file, which is cut off or damaged")
    nbytes = math.prod(shape) * DTYPES[dtype]
    if end - begin != nbytes:
        raise _Refused(f"tensor {name!a} needs {nbytes} bytes for its shape and has {end - begin}")
    return Tensor(name, dtype, tuple(shape), _contiguous(shape), path, start + begin, nbytes)


def _is_extent(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 48


def _contiguous(shape: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * shape[i]
    return tuple(strides)


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes float32 arrays as a .safetensors file; a reader never sees half of it."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    blobs, at = [], 0
    for name, array in arrays.items():
        blob = np.ascontiguousarray(array, dtype="<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data by padding the header
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            file.writelines(blobs)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


# -- .pth, zip


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int  # of the member's bytes in the file
    size: int


def _read_zip(file: BinaryIO, path: str, size: int) -> dict[str, Tensor]:
    members = _zip_members(file, size)
    pickled = [n for n in members if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickled) != 1:
        raise _Refused("is a zip without a data.pkl, so not a PyTorch checkpoint")
    top = pickled[0].removesuffix("data.pkl")
    order = members.get(top + "byteorder")
    if order and (text := _member_bytes(file, order, 16)) != b"little":
        raise _Refused(f"was saved with byte order {text!a}; little is read")
    try:
        found = pickles.parse(_member_bytes(file, members[pickled[0]], pickles.MAX_BYTES))
    except pickles.PickleError as error:
        raise _Refused(str(error)) from None
    return {
        name: _zip_row(name, view, members, top, path) for name, view in _state_dict(found).items()
    }


def _zip_members(file: BinaryIO, size: int) -> dict[str, _Member]:
    """Where each member's bytes lie: sizes from the directory, places from the local headers."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise _Refused(f"is a damaged or incomplete zip: {error}") from None
    if len(infos) > MAX_MEMBERS:
        raise _Refused(f"has more than {MAX_MEMBERS} members")
    members: dict[str, _Member] = {}
    places = []
    for info in infos:
        name = info.orig_filename
        if name in members:
            raise _Refused(f"has two members named {name[:80]!a}")
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise _Refused(f"has a member with a suspicious name: {name[:80]!a}")
        if info.flag_bits & 0x41:
            raise _Refused(f"member {name[:80]!a} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _Refused(f"member {name[:80]!a} is compressed; checkpoints are stored plain")
        start = _local_data(file, info, size)
        members[name] = _Member(start, info.file_size)
        places.append((info.header_offset, start + info.file_size, name))
    places.sort()
    for (_, end, name), (begin, _, other) in itertools.pairwise(places):
        if end > begin:
            raise _Refused(f"members {name[:80]!a} and {other[:80]!a} overlap")
    return members


def _local_data(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> int:
    name = info.orig_filename
    if not 0 <= info.header_offset <= size - 30:
        raise _Refused(f"member {name[:80]!a} lies outside the file")
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise _Refused(f"member {name[:80]!a} is not where the directory says")
    n_name, n_extra = struct.unpack_from("<HH", header, 26)
    raw = file.read(n_name)
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if raw.decode(encoding, "replace") != name:
        raise _Refused(f"member {name[:80]!a} has another name in its own header")
    start = info.header_offset + 30 + n_name + n_extra
    if start + info.file_size > size:
        raise _Refused(f"member {name[:80]!a} lies outside the file, which is cut off or damaged")
    return start


def _member_bytes(file: BinaryIO, member: _Member, limit: int) -> bytes:
    if member.size > limit:
        raise _Refused(f"an index of {member.size} bytes is more than {limit}")
    file.seek(member.offset)
    return file.read(member.size)


def _state_dict(found: Any) -> dict[str, pickles.View]:
    """The names and tensors of what the pickle holds, out of wrappers such as {"state_dict": …}."""
    for _ in range(4):
        if type(found) is not dict:
            raise _Refused("the pickle holds no dict of tensors")
        inner = next((found[k] for k in WRAPPERS if type(found.get(k)) is dict), None)
        if inner is None:
            break
        found = inner
    if "_strategy" in found:
        raise _Refused(
            "was converted by the rwkv package for one strategy; give the original checkpoint"
        )
    views = {name: value for name, value in found.items() if type(value) is pickles.View}
    for name in views:
        if type(name) is not str:
            raise _Refused("a tensor's name is not a text")
        _check_name(name)
    return views


def _zip_row(
    name: str, view: pickles.View, members: dict[str, _Member], top: str, path: str
) -> Tensor:
    storage = view.storage
    if storage.dtype not in DTYPES:
        raise _Refused(f"tensor {name!a} has dtype {storage.dtype}; read are {', '.join(DTYPES)}")
    member = members.get(f"{top}data/{storage.key}")
    if member is None:
        raise _Refused(f"tensor {name!a} lies in storage {storage.key[:80]!a}, which is missing")
    if storage.numel * storage.item_size > member.size:
        raise _Refused(
            f"tensor {name!a}: its storage claims {storage.numel} elements, the file has"
            f" {member.size // storage.item_size}"
        )
    if not all(_is_extent(n) for n in view.shape):
        raise _Refused(f"tensor {name!a} has no elements")
    last = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if view.offset + last >= storage.numel:
        raise _Refused(f"tensor {name!a} reaches past the end of its storage")
    # A view that repeats elements would be a small file that unfolds in memory.
    if math.prod(view.shape) > last + 1:
        raise _Refused(f"tensor {name!a} has a shape and strides whose elements overlap")
    size = storage.item_size
    offset = member.offset + view.offset * size
    return Tensor(name, storage.dtype, view.shape, view.strides, path, offset, (last + 1) * size)
