"""Hostile and damaged checkpoints: each is refused with its reason, at once, and nothing runs.

The pickles are written opcode by opcode, so that they hold exactly what an attacker would choose.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from writers import (
    CANARY,
    GOOD_PICKLE,
    TOUCH,
    archive,
    call,
    entry,
    refused,
    safetensors,
    sequence,
    state_dict,
    storage,
    tensor,
    text,
)

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.formats import pickles


def patched(raw: bytes, signature: bytes, which: int, at: int, value: bytes) -> bytes:
    """`raw` with `value` at byte `at` of its `which`-th record that starts with `signature`."""
    position = -1
    for _ in range(which + 1):
        position = raw.index(signature, position + 1)
    position += at
    return raw[:position] + value + raw[position + len(value) :]


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def overlapping_zip() -> bytes:
    """Two directory entries for one place: data/0 claims the bytes of data.pkl as its own."""
    raw = archive(GOOD_PICKLE)
    return patched(raw, CENTRAL, 2, 42, struct.pack("<I", 0))


def nested_member_zip() -> bytes:
    """A member whose bytes contain another member, local header and all."""
    inner = b"archive/data/1"
    header = LOCAL + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 4, 4, len(inner), 0) + inner
    raw = archive(GOOD_PICKLE, numbers=header + b"\0\0\0\0", extra={"archive/data/1": b"\0\0\0\0"})
    place = raw.index(header)
    return patched(raw, CENTRAL, 4, 42, struct.pack("<I", place))


def zip64_zip(size: int) -> bytes:
    """Data/0 with a zip64 extra field that claims `size` bytes."""
    raw = archive(GOOD_PICKLE)
    first = raw.index(CENTRAL)
    entries = []
    at = first
    while raw[at : at + 4] == CENTRAL:
        n, extra, comment = struct.unpack_from("<3H", raw, at + 28)
        end = at + 46 + n + extra + comment
        entries.append(raw[at:end])
        at = end
    entry = bytearray(entries[2])
    field = struct.pack("<HHQQ", 1, 16, size, size)
    struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(field))
    entries[2] = bytes(entry) + field
    directory = b"".join(entries)
    end = bytearray(raw[at:])
    struct.pack_into("<II", end, 12, len(directory), first)
    return raw[:first] + directory + bytes(end)


# -- the attacks: (file, words of the refusal)


def runs(command: bytes) -> bytes:
    """A whole pickle around something that runs if anything does."""
    return archive(b"\x80\x02" + command + b".")


PICKLES = {
    "os.system": (b"cos\nsystem\n" + text(TOUCH) + b"\x85R", "asks for os.system"),
    "posix.system": (b"cposix\nsystem\n" + text(TOUCH) + b"\x85R", "asks for posix.system"),
    "eval": (
        b"c__builtin__\neval\n" + text(f"open('{CANARY}', 'w')") + b"\x85R",
        "asks for __builtin__.eval",
    ),
    "builtins.exec": (
        b"cbuiltins\nexec\n" + text(f"open('{CANARY}', 'w')") + b"\x85R",
        "asks for builtins.exec",
    ),
    "getattr": (
        b"cbuiltins\ngetattr\n" + b"cos\nsystem\n" + text("__call__") + b"\x86R",
        "asks for builtins.getattr",
    ),
    "functools.partial": (
        b"cfunctools\npartial\n" + b"cos\nsystem\n" + text(TOUCH) + b"\x86R",
        "asks for functools.partial",
    ),
    "subprocess.Popen": (
        b"csubprocess\nPopen\n(" + text("touch") + text(CANARY) + b"t\x85R",
        "asks for subprocess.Popen",
    ),
    "torch.load, nested": (b"ctorch\nload\n" + text(CANARY) + b"\x85R", "asks for torch.load"),
    "dotted name": (
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n",
        "asks for torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "allowed module, other name": (b"ccollections\nCounter\n)R", "asks for collections.Counter"),
    "name with control bytes": (b"cos\n\x1b[2Jsystem\n)R", r"asks for os.\x1b[2Jsystem"),
    "STACK_GLOBAL": (
        text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R",
        "asks for os.system",
    ),
    "STACK_GLOBAL of numbers": (b"K\x01K\x02\x93", "name is not a text"),
    "INST": (b"(" + text(TOUCH) + b"ios\nsystem\n", "asks for os.system"),
    "INST of an allowed name": (b"(icollections\nOrderedDict\n", "INST"),
    "OBJ": (b"(ccollections\nOrderedDict\no", "opcode OBJ"),
    "OBJ of os.system": (b"(cos\nsystem\n" + text(TOUCH) + b"o", "asks for os.system"),
    "NEWOBJ": (b"ccollections\nOrderedDict\n)\x81", "opcode NEWOBJ"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92", "opcode NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "opcode EXT1"),
    "EXT2": (b"\x83\x01\x00", "opcode EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
    "PERSID": (b"Pstorage\n", "opcode PERSID"),
    "NEXT_BUFFER": (b"\x97", "opcode NEXT_BUFFER"),
    "unknown opcode": (b"\xff", "opcode 0xff"),
    "BUILD on a tensor": (
        tensor() + b"}" + text("__setstate__") + b"cos\nsystem\nsb",
        "asks for os.system",
    ),
    "BUILD with slots": (b"ctorch\nFloatStorage\n}" + text("name") + text("x") + b"sb", "set the"),
    "BUILD without a dict": (b"}" + text("x") + b"b", "a state that is not a dict"),
    "REDUCE of a text": (text("x") + b")R", "calls something"),
    "REDUCE of a storage class": (b"ctorch\nFloatStorage\n)R", "calls something"),
    "REDUCE without a tuple": (b"ccollections\nOrderedDict\n]R", "calls something"),
    "OrderedDict with pairs": (b"ccollections\nOrderedDict\n]\x85R", "made with arguments"),
    "tensor of a text": (
        call("torch._utils._rebuild_tensor_v2", b"(" + text("x") + b"K\x00))\x89Nt"),
        "not a storage",
    ),
    "tensor of one argument": (
        call("torch._utils._rebuild_tensor_v2", storage() + b"\x85"),
        "1 arguments",
    ),
    "parameter of a text": (
        call("torch._utils._rebuild_parameter", text("x") + b"\x89N\x87"),
        "not a tensor",
    ),
    "persistent id that is no storage": (text("module") + b"\x85Q", "persistent id"),
    "persistent id of os.system": (
        b"(" + text("storage") + b"cos\nsystem\n" + text("0") + text("cpu") + b"K\x06tQ",
        "asks for os.system",
    ),
    "storage that is a view": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06"
        + sequence((0, 6)) + b"tQ",
        "view of another",
    ),
    "negative element count": (tensor(of=storage(numel=-6)), "element count"),
    "boolean element count": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"\x88tQ",
        "element count",
    ),
    "no STOP": (b"}", "cut off"),
    "text longer than the file": (b"X\xff\xff\xff\xff", "cut off"),
    "BINUNICODE8 of 2**63 bytes": (b"\x8d" + b"\xff" * 8, "BINUNICODE8"),
    "LONG4 of 2 GiB": (b"\x8b\xff\xff\xff\x7f", "LONG4"),
    "protocol 0": (b"(dp0\nVx\n", "opcode DICT"),
    "text that is not UTF-8": (b"X\x01\x00\x00\x00\xff", "not UTF-8"),
    "memo never written": (b"h\x07", "never stored"),
    "empty stack": (b"R", "more from its stack"),
    "mark never set": (b"t", "did not open"),
    "pop through a mark": (b"}(s", "more from its stack"),
    "key without a value": (b"}(K\x01u", "without a value"),
    "list as a key": (b"}]K\x01s", "a key is a list"),
    "SETITEM on a list": (b"]K\x01K\x02s", "not a dict"),
    "APPEND to a dict": (b"}K\x01a", "not a list"),
    "deep tuple as a key": (b"}K\x01" + b"\x85" * 200_000 + b"K\x01s", "a key is a tuple"),
    "deep lists": (b"](" * 100_000 + b".", "uneven stack"),
    "a cycle": (b"}q\x00" + text("state_dict") + b"h\x00s", "holds no tensors|no dict"),
    "a list of itself": (b"]q\x00h\x00a", "no dict"),
    "billion laughs": (
        b"]" + b"".join(b"q%c](" % i + b"h%c" % i * 10 + b"e" for i in range(250)),
        "uneven stack|no dict",
    ),
    "endless steps": (b"N" + b"\x85" * (pickles.MAX_STEPS + 10), "steps"),
    "more bytes than any index": (b"\x95" + bytes(8) + bytes(pickles.MAX_BYTES), "bytes"),
    "no tensors": (b"}", "holds no tensors"),
    "not a dict": (b"K\x01", "no dict"),
}  # fmt: skip

FILES = {
    # -- tensors that are not what the file holds
    "storage missing": (archive(state_dict(tensor(of=storage(key="7")))), "storage '7'"),
    "storage key leads out": (
        archive(state_dict(tensor(of=storage(key="../../etc/passwd")))),
        "which is missing",
    ),
    "storage too large": (archive(state_dict(tensor(of=storage(numel=7)))), "claims 7 elements"),
    "storage of 2**61": (
        archive(state_dict(tensor(of=storage(numel=2**61)))),
        "claims 2305843009213693952 elements",
    ),
    "shape too large": (archive(state_dict(tensor((3, 3)))), "past the end"),
    "offset too large": (archive(state_dict(tensor(offset=1))), "past the end"),
    "stride too large": (archive(state_dict(tensor(strides=(2**40, 1)))), "past the end"),
    "product overflows": (
        archive(state_dict(tensor((2**31, 2**31, 4), (2**33, 4, 1)))),
        "past the end",
    ),
    "repeated without end": (
        archive(state_dict(tensor((2**40, 2**40), (0, 0)))),
        "elements overlap",
    ),
    "negative offset": (archive(state_dict(tensor(offset=-1))), "offset"),
    "negative stride": (archive(state_dict(tensor(strides=(-3, 1)))), "shape or strides"),
    "negative shape": (archive(state_dict(tensor((-2, 3)))), "shape or strides"),
    "shape of 2**200": (archive(state_dict(tensor((2**200, 3)))), "shape or strides"),
    "empty tensor": (archive(state_dict(tensor((0, 3)))), "no elements"),
    "nine dimensions": (archive(state_dict(tensor((1,) * 9, (1,) * 9))), "at most 8"),
    "more strides than dimensions": (archive(state_dict(tensor(strides=(3, 1, 1)))), "strides"),
    "type of integers": (
        archive(state_dict(tensor(of=storage("IntStorage")))),
        "dtype I32",
    ),
    "name with a zero byte": (archive(state_dict(tensor(), "emb\0.weight")), "printable"),
    "name of 600 characters": (archive(state_dict(tensor(), "e" * 600)), "printable"),
    "empty name": (archive(state_dict(tensor(), "")), "printable"),
    "number as a name": (archive(b"\x80\x02}K\x01" + tensor() + b"s."), "not a text"),
    "converted by the rwkv package": (
        archive(b"\x80\x02}(" + text("_strategy") + text("cpu") + text("x") + tensor() + b"u."),
        "converted by the rwkv package",
    ),
    # -- zips
    "compressed": (
        archive(GOOD_PICKLE + bytes(1000), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "zip bomb": (
        archive(GOOD_PICKLE, numbers=bytes(20 << 20), compression=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "encrypted": (patched(archive(GOOD_PICKLE), CENTRAL, 2, 8, b"\x01\x00"), "is encrypted"),
    "byte order big": (
        archive(GOOD_PICKLE).replace(b"little", b"big\0\0\0"), "byte order"),
    "no data.pkl": (archive(GOOD_PICKLE).replace(b"data.pkl", b"date.pkl"), "without a data.pkl"),
    "two data.pkl": (archive(GOOD_PICKLE, extra={"other/data.pkl": b"}."}), "without a data.pkl"),
    "same member twice": (
        archive(GOOD_PICKLE, extra={"archive/dave/0": bytes(24)}).replace(b"/dave/", b"/data/"),
        "two members",
    ),
    "path that climbs": (archive(GOOD_PICKLE, extra={"archive/../../x": b""}), "suspicious name"),
    "absolute path": (archive(GOOD_PICKLE, extra={"/etc/passwd": b""}), "suspicious name"),
    "backslashes": (archive(GOOD_PICKLE, extra={"archive\\..\\x": b""}), "suspicious name"),
    "two entries, one place": (overlapping_zip(), "another name"),
    "member inside a member": (nested_member_zip(), "overlap"),
    "member past the end": (
        patched(archive(GOOD_PICKLE), CENTRAL, 2, 20, struct.pack("<II", 5000, 5000)),
        "lies outside the file",
    ),
    "member into its neighbour": (
        patched(archive(GOOD_PICKLE), CENTRAL, 2, 20, struct.pack("<II", 40, 40)), "overlap"),
    "header elsewhere": (
        patched(archive(GOOD_PICKLE), CENTRAL, 2, 42, struct.pack("<I", 3)),
        "not where the directory says",
    ),
    "header past the end": (
        patched(archive(GOOD_PICKLE), CENTRAL, 2, 42, struct.pack("<I", 0x7FFFFFFF)),
        "lies outside the file",
    ),
    "zip64 of 2**60 bytes": (zip64_zip(2**60), "lies outside the file"),
    "zip64 of 2**64 - 1 bytes": (zip64_zip(2**64 - 1), "lies outside the file"),
    "local name differs": (
        patched(archive(GOOD_PICKLE), LOCAL, 2, 30, b"archive/data/9"), "another name"),
    "directory elsewhere": (
        patched(archive(GOOD_PICKLE), END, 0, 16, struct.pack("<I", 0x7FFFFFFF)),
        "lies outside|end of its zip",
    ),
    "cut off in the middle": (archive(GOOD_PICKLE)[:300], "end of its zip is missing"),
    "cut off at the end": (archive(GOOD_PICKLE)[:-30], "end of its zip is missing"),
    "only a signature": (LOCAL, "end of its zip is missing"),
    # -- safetensors
    "header longer than the file": (safetensors({"x": entry()}, length=10_000), "cut off"),
    "header of 2**63 bytes": (safetensors({"x": entry()}, length=2**63), "cut off"),
    "header of no bytes": (safetensors(b"", data=b"{}"), "JSON"),
    "header cut short": (safetensors({"x": entry()}, length=10), "JSON"),
    "header of 17 MiB": (safetensors(b"{" + b" " * (17 << 20) + b"}"), "bytes, more than"),
    "header a list": (safetensors(b"{" + b"}" + b"[]"), "JSON"),
    "header not UTF-8": (safetensors(b'{"\xff": 1}'), "JSON"),
    "deep JSON": (safetensors(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "too deeply"),
    "number of 5000 digits": (
        safetensors(b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,24]}}'),
        "JSON|shape",
    ),
    "key twice": (
        safetensors(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2)),
        "'x' twice",
    ),
    "field twice": (
        safetensors(b'{"x":{"dtype":"F32","dtype":"F16","shape":[6],"data_offsets":[0,24]}}'),
        "'dtype' twice",
    ),
    "metadata of numbers": (
        safetensors({"__metadata__": {"a": 1}, "x": entry()}), "not an object of strings"),
    "metadata a list": (safetensors({"__metadata__": [], "x": entry()}), "object of strings"),
    "unknown type": (safetensors({"x": entry("F8_E4M3", (24,))}), "F8_E4M3"),
    "type of integers, safetensors": (safetensors({"x": entry("I64", (3,))}), "I64"),
    "type a list": (safetensors({"x": entry(["F32"])}), "dtype"),
    "shape negative": (safetensors({"x": entry(shape=(-2, -3))}), "shape"),
    "shape a float": (safetensors({"x": entry(shape=(2.0, 3.0))}), "shape"),
    "shape a boolean": (safetensors({"x": entry(shape=(True, 6))}), "shape"),
    "shape overflows": (safetensors({"x": entry(shape=(2**32, 2**32))}), "needs"),
    "shape of nothing": (safetensors({"x": entry(shape=(0,), offsets=(0, 0))}), "shape"),
    "offsets past the end": (safetensors({"x": entry(shape=(7,), offsets=(0, 28))}), "outside"),
    "offsets backwards": (safetensors({"x": entry(offsets=(24, 0))}), "outside"),
    "offsets negative": (safetensors({"x": entry(offsets=(-24, 0))}), "outside"),
    "offsets three": (safetensors({"x": entry(offsets=(0, 12, 24))}), "data_offsets"),
    "shape and offsets differ": (safetensors({"x": entry(shape=(2, 2))}), "needs 16"),
    "tensors overlap": (
        safetensors({"x": entry(), "y": entry(shape=(3,), offsets=(12, 24))}), "overlaps"),
    "same bytes twice": (safetensors({"x": entry(), "y": entry()}), "overlaps"),
    "hole": (safetensors({"x": entry(shape=(3,), offsets=(12, 24))}), "hole"),
    "bytes left over": (safetensors({"x": entry(shape=(3,), offsets=(0, 12))}), "belong to none"),
    "entry a text": (safetensors({"x": "F32"}), "not described"),
    "entry with more": (safetensors({"x": entry() | {"code": "x"}}), "not described"),
    "surrogate in a name": (safetensors(b'{"\\ud800":{}}'), "printable"),
    "no tensors, safetensors": (safetensors({}, data=b""), "holds no tensors"),
    # -- neither
    "empty file": (b"", "is empty"),
    "seven bytes": (b"1234567", "neither"),
    "a plain pickle bomb": (b"cos\nsystem\n(S'touch " + CANARY.encode() + b"'\ntR.", "neither"),
    "a legacy pickle of two": (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2), "is cut off"),
    "a web page": (b"<!DOCTYPE html><html>", "web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "noise": (bytes(np.random.default_rng(1).integers(0, 256, 4096, np.uint8)), "neither"),
}  # fmt: skip

ATTACKS = FILES | {
    f"pickle: {name}": (archive(b"\x80\x02" + raw + (b"" if name == "no STOP" else b".")), words)
    for name, (raw, words) in PICKLES.items()
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_with_its_reason(name: str, tmp_path: Path, monkeypatch) -> None:
    raw, words = ATTACKS[name]
    monkeypatch.chdir(tmp_path)  # the canary is a relative path
    path = tmp_path / "hostile.bin"
    path.write_bytes(raw)
    before = set(tmp_path.iterdir())
    refused(path, words)
    assert set(tmp_path.iterdir()) == before, "something of the file was run"


def test_the_canary_works(tmp_path: Path, monkeypatch) -> None:
    """Its absence proves something only because Python's own unpickler does run these pickles."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\x02" + PICKLES["eval"][0] + b".").close()
    assert (tmp_path / CANARY).exists()
    assert len(ATTACKS) >= 40


def test_the_models_door_refuses_too(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    path.write_bytes(runs(PICKLES["os.system"][0]))
    with pytest.raises(rn.CheckpointError, match=r"asks for os\.system"):
        rn.Model.open(path)


def test_the_writers_here_write_good_files(tmp_path: Path) -> None:
    """Without the attack the same files are read, so it is the attack that is refused."""
    numbers = np.arange(6, dtype="<f4")
    path = tmp_path / "good.pth"
    path.write_bytes(archive(GOOD_PICKLE, numbers=numbers.tobytes()))
    found = checkpoint.read(path).tensors["emb.weight"]
    assert np.array_equal(found.to_numpy(), numbers.reshape(2, 3))
    view = state_dict(tensor((3, 2), (1, 3)))
    path.write_bytes(archive(view, numbers=numbers.tobytes()))
    assert np.array_equal(checkpoint.read(path).tensors["emb.weight"].to_numpy().T,
                          numbers.reshape(2, 3))  # fmt: skip
    path.write_bytes(safetensors({"x": entry()}, numbers.tobytes()))
    assert np.array_equal(checkpoint.read(path).tensors["x"].to_numpy(), numbers.reshape(2, 3))


@pytest.mark.parametrize(
    "source", ["v70_L3_D32_fp32_state.state.pth", "v70_L4_D32_fp16.safetensors"]
)
def test_every_single_byte_changed(source: str, golden: Path, tmp_path: Path) -> None:
    """A flipped byte anywhere gives a checkpoint or an rn.Error, never another exception."""
    raw = (golden / source).read_bytes()
    path = tmp_path / "changed.bin"
    rng = np.random.default_rng(7)
    header = min(len(raw), 12_000)
    places = set(rng.integers(0, header, 700)) | set(rng.integers(len(raw) - 2000, len(raw), 500))
    refusals = 0
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            checkpoint.read(path)
        except rn.CheckpointError as error:
            refusals += 1
            assert "damaged file (" not in str(error), error
    assert refusals > 50


@pytest.mark.parametrize(
    "source", ["v70_L3_D32_fp32_state.state.pth", "v70_L4_D32_fp16.safetensors"]
)
def test_every_length_cut_off(source: str, golden: Path, tmp_path: Path) -> None:
    raw = (golden / source).read_bytes()
    path = tmp_path / "short.bin"
    for length in range(0, len(raw), max(1, len(raw) // 300)):
        path.write_bytes(raw[:length])
        with pytest.raises(rn.CheckpointError):
            checkpoint.read(path)


def test_wrong_checksums_do_not_matter(golden: Path, tmp_path: Path) -> None:
    """CRCs are not what protects a reader; checking them would read every byte twice."""
    raw = archive(GOOD_PICKLE)
    crc = struct.pack("<I", zlib.crc32(bytes(24)))
    path = tmp_path / "crc.pth"
    path.write_bytes(raw.replace(crc, b"\0\0\0\0"))
    assert "emb.weight" in checkpoint.read(path).tensors


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        checkpoint.read(tmp_path / "nothing.pth")
    assert isinstance(caught.value, rn.Error)
    with pytest.raises(rn.CheckpointError, match="is a folder"):
        checkpoint.read(tmp_path)


def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(rn.CheckpointError, match="device or pipe"):
            checkpoint.read(path)


def test_names_that_are_no_paths() -> None:
    for path in ("x\0y", "y" * 5000):
        with pytest.raises((rn.CheckpointError, OSError)):
            checkpoint.read(path)
