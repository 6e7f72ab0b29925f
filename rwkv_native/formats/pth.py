"""The .pth containers of PyTorch: the zip of 1.6 and later, and the chain of pickles before it.

Owns every check of what they claim about places in the file; pickles.py owns the pickles. Called by
checkpoint.py. Never runs code from a file and never imports torch.
"""

from __future__ import annotations

import itertools
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..printable import printable
from . import pickles
from .tensor import DTYPES, Refused, Tensor, check_name, is_extent

MAX_MEMBERS = 1_000_000
# What trainers wrap around the dict of tensors.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int  # of the member's bytes in the file
    size: int


# -- the zip of PyTorch 1.6 and later


def read_zip(file: BinaryIO, path: str, size: int) -> dict[str, Tensor]:
    """The tensors of a zip, by the names that they have in it."""
    members = _zip_members(file, size)
    pickled = [n for n in members if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickled) != 1:
        raise Refused("is a zip without a data.pkl, so not a PyTorch checkpoint")
    top = pickled[0].removesuffix("data.pkl")
    order = members.get(top + "byteorder")
    if order and (text := _member_bytes(file, order, 16)) != b"little":
        raise Refused(f"was saved with byte order {text!a}; little is read")
    try:
        found = pickles.parse(_member_bytes(file, members[pickled[0]], pickles.MAX_BYTES))
    except pickles.PickleError as error:
        raise Refused(str(error)) from None
    tensors = {}
    for name, view in _state_dict(found).items():
        place = members.get(f"{top}data/{view.storage.key}")
        tensors[name] = _row(name, view, place, path)
    return tensors


def _zip_members(file: BinaryIO, size: int) -> dict[str, _Member]:
    """Where each member's bytes lie: sizes from the directory, places from the local headers."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        if str(error) == "File is not a zip file":  # whose directory, at its end, is not there
            raise Refused("is cut off: the end of its zip is missing; fetch it again") from None
        raise Refused(f"is a damaged zip: {printable(error, 200)}") from None
    if len(infos) > MAX_MEMBERS:
        raise Refused(f"has more than {MAX_MEMBERS} members")
    members: dict[str, _Member] = {}
    places = []
    for info in infos:
        name = info.orig_filename
        if name in members:
            raise Refused(f"has two members named {name[:80]!a}")
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise Refused(f"has a member with a suspicious name: {name[:80]!a}")
        if info.flag_bits & 0x41:
            raise Refused(f"member {name[:80]!a} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused(f"member {name[:80]!a} is compressed; checkpoints are stored plain")
        start = _local_data(file, info, size)
        members[name] = _Member(start, info.file_size)
        places.append((info.header_offset, start + info.file_size, name))
    places.sort()
    for (_, end, name), (begin, _, other) in itertools.pairwise(places):
        if end > begin:
            raise Refused(f"members {name[:80]!a} and {other[:80]!a} overlap")
    return members


def _local_data(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> int:
    name = info.orig_filename
    if not 0 <= info.header_offset <= size - 30:
        raise Refused(f"member {name[:80]!a} lies outside the file")
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise Refused(f"member {name[:80]!a} is not where the directory says")
    n_name, n_extra = struct.unpack_from("<HH", header, 26)
    raw = file.read(n_name)
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if raw.decode(encoding, "replace") != name:
        raise Refused(f"member {name[:80]!a} has another name in its own header")
    start = info.header_offset + 30 + n_name + n_extra
    if start + info.file_size > size:
        raise Refused(f"member {name[:80]!a} lies outside the file, which is cut off or damaged")
    return start


def _member_bytes(file: BinaryIO, member: _Member, limit: int) -> bytes:
    if member.size > limit:
        raise Refused(f"an index of {member.size} bytes is more than {limit}")
    file.seek(member.offset)
    return file.read(member.size)


# -- the chain of pickles before PyTorch 1.6

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# The first pickle of the chain, whatever its protocol: the magic number as LONG1, then STOP.
_MAGIC_PICKLE = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."


def is_legacy(head: bytes) -> bool:
    return head.startswith(b"\x80") and head[2:15] == _MAGIC_PICKLE


def read_legacy(file: BinaryIO, path: str, size: int) -> dict[str, Tensor]:
    """The tensors of magic, protocol, system, object, storage keys (pickles), then the storages."""
    file.seek(0)
    head = file.read(pickles.MAX_BYTES)
    try:
        chain = pickles.Chain(head)
        if chain.next() != _MAGIC or chain.next() != _PROTOCOL:
            raise Refused(f"is a .pth of PyTorch before 1.6, but not of its protocol {_PROTOCOL}")
        system = chain.next()
        if type(system) is not dict or system.get("little_endian") is not True:
            raise Refused("was saved on a big-endian machine; little is read")
        found = chain.next()
        storages = chain.storages
        keys = chain.next()
    except pickles.PickleError as error:
        raise Refused(str(error)) from None
    places = _legacy_places(file, size, chain.at, keys, storages)
    return {
        name: _row(name, view, places.get(view.storage.key), path)
        for name, view in _state_dict(found).items()
    }


def _legacy_places(
    file: BinaryIO, size: int, at: int, keys: Any, storages: dict[str, pickles.Storage]
) -> dict[str, _Member]:
    """Where each storage's bytes lie: one after the other, each after its count of elements."""
    if type(keys) is not list or not all(type(k) is str for k in keys):
        raise Refused("its list of storages is not a list of texts")
    places: dict[str, _Member] = {}
    for key in keys:
        storage = storages.get(key)
        if storage is None or key in places:
            kind = "twice" if key in places else "but no tensor uses it"
            raise Refused(f"storage {key[:80]!a} is in the list of storages {kind}")
        file.seek(at)
        raw = file.read(8)
        if len(raw) != 8:
            raise Refused("is cut off: not all storages are there")
        (count,) = struct.unpack("<q", raw)
        if count != storage.numel:
            raise Refused(f"storage {key[:80]!a} holds {count} elements and claims {storage.numel}")
        places[key] = _Member(at + 8, count * storage.item_size)
        at += 8 + count * storage.item_size
        if at > size:
            raise Refused(f"is cut off: storage {key[:80]!a} ends beyond the file")
    return places


# -- what both have


def _state_dict(found: Any) -> dict[str, pickles.View]:
    """The names and tensors of what the pickle holds, out of wrappers such as {"state_dict": …}."""
    for _ in range(4):
        if type(found) is not dict:
            raise Refused("the pickle holds no dict of tensors")
        inner = next((found[k] for k in WRAPPERS if type(found.get(k)) is dict), None)
        if inner is None:
            break
        found = inner
    if "_strategy" in found:
        raise Refused(
            "was converted by the rwkv package for one strategy; give the original checkpoint"
        )
    views = {name: value for name, value in found.items() if type(value) is pickles.View}
    for name in views:
        if type(name) is not str:
            raise Refused("a tensor's name is not a text")
        check_name(name)
    return views


def _row(name: str, view: pickles.View, place: _Member | None, path: str) -> Tensor:
    """A view of a storage that lies at `place`, checked against it."""
    storage = view.storage
    if storage.dtype not in DTYPES:
        raise Refused(f"tensor {name!a} has dtype {storage.dtype}; read are {', '.join(DTYPES)}")
    if place is None:
        raise Refused(f"tensor {name!a} lies in storage {storage.key[:80]!a}, which is missing")
    if storage.numel * storage.item_size > place.size:
        raise Refused(
            f"tensor {name!a}: its storage claims {storage.numel} elements, the file has"
            f" {place.size // storage.item_size}"
        )
    if not all(is_extent(n) for n in view.shape):
        raise Refused(f"tensor {name!a} has no elements")
    last = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if view.offset + last >= storage.numel:
        raise Refused(f"tensor {name!a} reaches past the end of its storage")
    # A view that repeats elements would be a small file that unfolds in memory.
    if math.prod(view.shape) > last + 1:
        raise Refused(f"tensor {name!a} has a shape and strides whose elements overlap")
    size = storage.item_size
    offset = place.offset + view.offset * size
    return Tensor(name, storage.dtype, view.shape, view.strides, path, offset, (last + 1) * size)
