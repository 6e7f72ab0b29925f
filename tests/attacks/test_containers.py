"""Hostile legacy .pth, GGUF and split checkpoints: refused by name, at once, and nothing runs."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from writers import (
    CANARY,
    MAGIC,
    RWKV7,
    TOUCH,
    gguf_file,
    gguf_info,
    gguf_text,
    gguf_value,
    legacy,
    number,
    old_storage,
    pickled,
    refused,
    state_dict,
    tensor,
    text,
)

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import pickles

GOOD = state_dict(tensor(of=old_storage()))
RUNS = b"cos\nsystem\n" + text(TOUCH) + b"\x85R"


def u32(key: bytes, value: int) -> bytes:
    return gguf_value(key, 4, struct.pack("<I", value))


def array(key: bytes, kind: int, count: int, raw: bytes) -> bytes:
    return gguf_value(key, 9, struct.pack("<IQ", kind, count) + raw)


def words(*tokens: bytes) -> tuple[bytes, ...]:
    return (
        gguf_value(b"tokenizer.ggml.model", 8, gguf_text(b"rwkv")),
        array(b"tokenizer.ggml.tokens", 8, len(tokens), b"".join(map(gguf_text, tokens))),
    )


LEGACY = {
    "system in the first pickle": (MAGIC[:-1] + RUNS + b".", "neither|uneven|asks for"),
    "system as the protocol": (legacy(GOOD, protocol=pickled(RUNS)), "asks for os.system"),
    "system as the system": (legacy(GOOD, system=pickled(RUNS)), "asks for os.system"),
    "system as the tensors": (legacy(pickled(RUNS)), "asks for os.system"),
    "system as the keys": (legacy(GOOD, keys=RUNS), "asks for os.system"),
    "system after the keys": (legacy(GOOD, data=pickled(RUNS)), "elements and claims"),
    "another protocol": (legacy(GOOD, protocol=pickled(number(1002))), "not of its protocol 1001"),
    "no protocol": (MAGIC, "cut off"),
    "big-endian": (
        legacy(GOOD, system=pickled(b"}" + text("little_endian") + b"\x89s")), "big-endian"),
    "system a number": (legacy(GOOD, system=pickled(number(1))), "big-endian"),
    "keys a dict": (legacy(GOOD, keys=b"}"), "not a list of texts"),
    "keys of numbers": (legacy(GOOD, keys=b"](K\x01e"), "not a list of texts"),
    "keys a list of itself": (legacy(GOOD, keys=b"]q\x00h\x00a"), "not a list of texts"),
    "key twice": (legacy(GOOD, keys=b"](" + text("0") * 2 + b"e"), "twice"),
    "key of nothing": (legacy(GOOD, keys=b"](" + text("../../etc/passwd") + b"e"), "no tensor"),
    "key missing": (legacy(GOOD, keys=b"]"), "which is missing"),
    "storage of 2**62": (
        legacy(GOOD, data=struct.pack("<q", 2**62) + bytes(24)), "elements and claims"),
    "storage of -6": (legacy(GOOD, data=struct.pack("<q", -6) + bytes(24)), "elements and claims"),
    "both claim 2**61": (
        legacy(
            state_dict(tensor(of=old_storage(numel=2**61))),
            data=struct.pack("<q", 2**61) + bytes(24),
        ),
        "ends beyond the file",
    ),
    "storage cut off": (legacy(GOOD)[:-1], "cut off"),
    "count cut off": (legacy(GOOD)[:-28], "cut off"),
    "storage in two ways": (
        legacy(
            b"\x80\x02}" + text("a") + tensor(of=old_storage()) + b"s" + text("b")
            + tensor((1, 3), of=old_storage("DoubleStorage", numel=3)) + b"s."
        ),
        "in two ways",
    ),
    "storage that is a view": (
        legacy(state_dict(tensor(of=old_storage()[:-3] + b"(K\x00K\x06ttQ"))), "view of another"),
    "view past the end": (legacy(state_dict(tensor((3, 3), of=old_storage()))), "past the end"),
    "steps in five pickles": (
        legacy(pickled(b"]" + b"N0" * 10), system=pickled(b"N" + b"\x85" * pickles.MAX_STEPS)),
        "steps",
    ),
    "the converted form": (
        legacy(b"\x80\x02}(" + text("_strategy") + text("cpu") + text("x")
               + tensor(of=old_storage()) + b"u."),
        "converted by the rwkv package",
    ),
    "a tensor from eval": (
        legacy(
            state_dict(
                b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\neval\n"
                + b"ctorch\nTensor\n" + text(TOUCH) + b"\x85Nt" + b"R"
            )
        ),
        "asks for builtins.eval",
    ),
    "a tensor from itself": (
        legacy(
            state_dict(
                b"ctorch._tensor\n_rebuild_from_type_v2\n"
                b"(ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n)NtR"
            )
        ),
        "does not make tensors",
    ),
    "a class that is called": (legacy(pickled(b"ctorch\nTensor\n)R")), "calls something"),
}  # fmt: skip

NAN_TEXT = gguf_text(b"\xff\xfe")
GGUF = {
    "only the signature": (b"GGUF", "cut off"),
    "version 0": (gguf_file(version=0), "version 0"),
    "version 1": (gguf_file(version=1), "version 1"),
    "version 4": (gguf_file(version=4), "version 4"),
    "big-endian": (gguf_file(version=3 << 24), "big-endian"),
    "2**63 tensors": (gguf_file(counts=(2**63, None)), "claims 9223372036854775808 tensors"),
    "2**63 keys": (gguf_file(counts=(None, 2**63)), "claims 9223372036854775808 keys"),
    "one tensor more": (gguf_file(counts=(2, None)), "cut off|cannot be printed|dimensions|bytes"),
    "1000 keys more": (gguf_file(counts=(None, 1000)), "more than it can hold"),
    "key of 2**63 bytes": (gguf_file((struct.pack("<Q", 2**63) + b"x",)), "text of"),
    "key of 600 bytes": (gguf_file((u32(b"k" * 600, 1),)), "text of 600 bytes"),
    "key of nothing": (gguf_file((u32(b"", 1),)), "cannot be printed"),
    "key not UTF-8": (gguf_file((NAN_TEXT + struct.pack("<II", 4, 1),)), "not UTF-8"),
    "key with a zero byte": (gguf_file((u32(b"a\0b", 1),)), "cannot be printed"),
    "key with an escape": (gguf_file((u32(b"\x1b[2J", 1),)), "cannot be printed"),
    "key twice": (gguf_file((u32(b"a", 1), u32(b"a", 2))), "the key 'a' twice"),
    "value of type 13": (gguf_file((gguf_value(b"a", 13, b""),)), "unknown type 13"),
    "value of type 2**32 - 1": (gguf_file((gguf_value(b"a", 2**32 - 1, b""),)), "unknown type"),
    "flag of 2": (gguf_file((gguf_value(b"a", 7, b"\2"),)), "neither true nor false"),
    "text of 2**64 - 1": (
        gguf_file((gguf_value(b"a", 8, b"\xff" * 8),)), "a text of 18446744073709551615 bytes"),
    "text past the end": (
        gguf_file((gguf_value(b"a", 8, struct.pack("<Q", 100_000)),)), "ends beyond the file"),
    "array of arrays": (
        gguf_file((array(b"a", 9, 1, struct.pack("<IQ", 9, 1) * 1000),)), "array of arrays"),
    "array of type 99": (gguf_file((array(b"a", 99, 1, b""),)), "unknown type 99"),
    "array of 2**61 numbers": (gguf_file((array(b"a", 10, 2**61, b""),)), "ends beyond the file"),
    "array of 2**62 texts": (gguf_file((array(b"a", 8, 2**62, b""),)), "ends beyond the file"),
    "array of a million empty texts": (
        gguf_file((array(b"a", 8, 10**6, bytes(8 * 10**6)),)), "more than 600000 texts"),
    "alignment 0": (gguf_file((u32(b"general.alignment", 0),)), "alignment 0"),
    "alignment 7": (gguf_file((u32(b"general.alignment", 7),)), "alignment 7"),
    "alignment 2**31": (gguf_file((u32(b"general.alignment", 2**31),)), "alignment 2147483648"),
    "alignment a text": (
        gguf_file((gguf_value(b"general.alignment", 8, gguf_text(b"32")),)), "alignment"),
    "one part of three": (
        gguf_file((gguf_value(b"split.count", 2, struct.pack("<H", 3)),)), "llama-gguf-split"),
    "no architecture": (gguf_file(architecture=u32(b"x", 1)), "architecture 'None'"),
    "architecture llama": (
        gguf_file(architecture=RWKV7.replace(b"rwkv7", b"llama")), "architecture 'llama'"),
    "architecture arwkv": (
        gguf_file(architecture=RWKV7.replace(b"rwkv7", b"arwkv")), "architecture 'arwkv'"),
    "architecture a number": (
        gguf_file(architecture=u32(b"general.architecture", 7)), "architecture 'None'"),
    "no tensors": (gguf_file(infos=()), "holds no tensors"),
    "tensor twice": (gguf_file(infos=(gguf_info(), gguf_info(offset=32))), "twice"),
    "tensors overlap": (
        gguf_file(infos=(gguf_info(), gguf_info(b"output.weight"))), "overlap"),
    "rank 0": (gguf_file(infos=(gguf_info(dims=()),)), "0 dimensions"),
    "rank 5": (gguf_file(infos=(gguf_info(dims=(1,) * 5),)), "5 dimensions"),
    "rank 2**32 - 1": (gguf_file(infos=(gguf_info(rank=2**32 - 1),)), "dimensions"),
    "dimension 0": (gguf_file(infos=(gguf_info(dims=(0, 2)),)), "impossible shape"),
    "dimension 2**63": (gguf_file(infos=(gguf_info(dims=(2**63, 2)),)), "impossible shape"),
    "product overflows": (
        gguf_file(infos=(gguf_info(dims=(2**32, 2**32)),)), "ends beyond the file"),
    "larger than the file": (gguf_file(infos=(gguf_info(dims=(3, 300)),)), "ends beyond the file"),
    "offset past the end": (gguf_file(infos=(gguf_info(offset=2**40),)), "ends beyond the file"),
    "offset of 2**64 - 32": (
        gguf_file(infos=(gguf_info(offset=2**64 - 32),)), "ends beyond the file"),
    "offset not aligned": (gguf_file(infos=(gguf_info(offset=4),)), "not a multiple of 32"),
    "half a block": (gguf_file(infos=(gguf_info(dims=(16, 2), kind=2),)), "whole blocks of Q4_0"),
    "blocks of 256": (gguf_file(infos=(gguf_info(dims=(64, 4), kind=14),)), "whole blocks of Q6_K"),
    "a block cut off": (gguf_file(infos=(gguf_info(dims=(32, 1), kind=8),)), "beyond the file"),
    "Q2_K": (gguf_file(infos=(gguf_info(dims=(256, 1), kind=10),)), "has the type Q2_K"),
    "IQ4_XS": (gguf_file(infos=(gguf_info(kind=23),)), "has the type IQ4_XS"),
    "integers": (gguf_file(infos=(gguf_info(kind=26),)), "type I32"),
    "type 5": (gguf_file(infos=(gguf_info(kind=5),)), "type number 5"),
    "type 2**32 - 1": (gguf_file(infos=(gguf_info(kind=2**32 - 1),)), "type number"),
    "name not UTF-8": (gguf_file(infos=(NAN_TEXT + bytes(40),)), "not UTF-8"),
    "name with a zero byte": (gguf_file(infos=(gguf_info(b"a\0"),)), "cannot be printed"),
    "two names for one": (
        gguf_file(
            infos=(gguf_info(b"emb.weight"), gguf_info(offset=32)), data=bytes(56)
        ),
        "two tensors stand for 'emb.weight'",
    ),
    "fused of one row": (
        gguf_file(infos=(gguf_info(b"blk.0.time_mix_lerp_fused.weight"),)), "should hold 6 parts"),
    "low-rank vector": (
        gguf_file(infos=(gguf_info(b"blk.0.time_mix_w1.weight", (6,)),)), "should be a matrix"),
    "r_k without a head size": (
        gguf_file(infos=(gguf_info(b"blk.0.time_mix_r_k.weight", (6,)),)), "head_size is 0"),
    "r_k of odd heads": (
        gguf_file(
            (u32(b"rwkv7.wkv.head_size", 4),), (gguf_info(b"blk.0.time_mix_r_k.weight", (6,)),)
        ),
        "head_size is 4",
    ),
    "escape that ends early": (gguf_file(words(b"<s>", rb"a\x4")), "not \\xHH"),
    "escape of no digits": (gguf_file(words(b"<s>", rb"\x+1")), "not \\xHH"),
    "unknown escape": (gguf_file(words(b"<s>", rb"\u1234")), "unknown escape"),
    "escape of nothing": (gguf_file(words(b"<s>", b"\\")), "unknown escape"),
    "tokens of numbers": (
        gguf_file((words()[0], array(b"tokenizer.ggml.tokens", 4, 2, bytes(8)))),
        "not a list of texts",
    ),
}  # fmt: skip

ATTACKS = {f"legacy: {k}": v for k, v in LEGACY.items()} | {
    f"GGUF: {k}": v for k, v in GGUF.items()
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused_with_its_reason(name: str, tmp_path: Path, monkeypatch) -> None:
    raw, reason = ATTACKS[name]
    monkeypatch.chdir(tmp_path)  # the canary is a relative path
    path = tmp_path / "hostile.bin"
    path.write_bytes(raw)
    refused(path, reason)
    assert [p.name for p in tmp_path.iterdir()] == ["hostile.bin"], "something of it was run"


def test_the_writers_here_write_good_files(tmp_path: Path) -> None:
    path = tmp_path / "good.bin"
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    for raw in (legacy(GOOD), gguf_file(), gguf_file(version=2)):
        path.write_bytes(raw)
        assert np.array_equal(checkpoint.read(path).tensors["emb.weight"].to_numpy(), wanted)
    made = tensor(of=old_storage())
    by_type = (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\n"
        b"ctorch.nn.parameter\nParameter\n(" + made + b"\x88Nt}tR"
    )
    with_state = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + made + b"\x88N}tR"
    wrapped = b"}" + text("base_model.model.emb.weight") + made + b"s"
    for value in (by_type, with_state):
        path.write_bytes(legacy(state_dict(value)))
        assert np.array_equal(checkpoint.read(path).tensors["emb.weight"].to_numpy(), wanted)
    path.write_bytes(legacy(state_dict(wrapped, "model_state_dict")))
    assert np.array_equal(checkpoint.read(path).tensors["emb.weight"].to_numpy(), wanted)
    path.write_bytes(gguf_file(words(b"<s>", rb"\x00\n\'", "ü".encode(), b"[PAD3]")))
    assert checkpoint.read(path).tokenizer_tokens == [b"", b"\0\n'", "ü".encode(), b""]


# -- every byte and every length


@pytest.fixture(scope="module")
def files(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("good") / "x.gguf"
    convert.to_gguf(golden / "v70_L3_D32_fp32.pth", path, "fp16")
    return {"gguf": path.read_bytes(), "legacy": legacy(GOOD)}


@pytest.mark.parametrize("kind", ["gguf", "legacy"])
def test_every_length_cut_off(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    """The small files at every byte, the large one at every byte of what its header starts with."""
    raw = files[kind]
    path = tmp_path / "short.bin"
    lengths = {*range(0, min(len(raw), 300)), *range(300, len(raw), max(1, len(raw) // 200))}
    for length in sorted(lengths):
        path.write_bytes(raw[:length])
        with pytest.raises(rn.CheckpointError) as caught:
            checkpoint.read(path)
        assert "damaged file (" not in str(caught.value)
    small = gguf_file((*words(b"<s>", rb"\x41"), u32(b"general.alignment", 32)))
    for length in range(len(small)):
        path.write_bytes(small[:length])
        with pytest.raises(rn.CheckpointError):
            checkpoint.read(path)


@pytest.mark.parametrize("kind", ["gguf", "legacy"])
def test_every_single_byte_changed(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    raw = files[kind]
    path = tmp_path / "changed.bin"
    rng = np.random.default_rng(11)
    refusals = 0
    for place in sorted({int(p) for p in rng.integers(0, min(len(raw), 12_000), 500)}):
        changed = bytearray(raw)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            checkpoint.read(path)
        except rn.CheckpointError as error:
            refusals += 1
            assert "damaged file (" not in str(error), error
    assert refusals > 20


# -- several files

INDICES = {
    "no JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"\xff"}', "not valid JSON"),
    "deep": (b'{"weight_map":' + b"[" * 100_000, "too deeply|not valid JSON"),
    "a config": (b'{"model_type": "rwkv7"}', "without a weight_map"),
    "an empty map": (b'{"weight_map": {}}', "without a weight_map"),
    "a list for a map": (b'{"weight_map": ["a"]}', "without a weight_map"),
    "climbs": (b'{"weight_map": {"x": "../secret.safetensors"}}', "no file name"),
    "climbs deeper": (b'{"weight_map": {"x": "a/../../../etc/passwd"}}', "no file name"),
    "absolute": (b'{"weight_map": {"x": "/etc/passwd"}}', "no file name"),
    "backslashes": (b'{"weight_map": {"x": "..\\\\secret.safetensors"}}', "no file name"),
    "parent": (b'{"weight_map": {"x": ".."}}', "no file name"),
    "hidden": (b'{"weight_map": {"x": ".netrc"}}', "no file name"),
    "a zero byte": (b'{"weight_map": {"x": "a\\u0000b"}}', "no file name"),
    "a number": (b'{"weight_map": {"x": 1}}', "no file name"),
    "nothing": (b'{"weight_map": {"x": ""}}', "no file name"),
    "an address": (b'{"weight_map": {"x": "http://host/x"}}', "no file name"),
    "itself": (b'{"weight_map": {"x": "model.safetensors.index.json"}}', "neither a .pth nor"),
    "a folder": (b'{"weight_map": {"x": "folder"}}', "device or pipe"),
    "a pipe": (b'{"weight_map": {"x": "pipe"}}', "device or pipe"),
    "noise": (b'{"weight_map": {"x": "noise"}}', "is neither a .pth"),
    "a GGUF": (b'{"weight_map": {"x": "g.gguf"}}', "neither a .pth nor"),
    "a bomb": (b'{"weight_map": {"x": "bomb.bin"}}', "asks for os.system"),
    "a tensor that is not there": (b'{"weight_map": {"x": "good.bin"}}', "'emb.weight'|'x'"),
    "ten thousand files": (
        json.dumps({"weight_map": {str(i): f"f{i}" for i in range(10_000)}}).encode(),
        "more than 1000 files",
    ),
    "17 MiB": (b'{"weight_map": {' + b" " * (17 << 20), "index of more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_hostile_indices(name: str, tmp_path: Path, monkeypatch) -> None:
    raw, reason = INDICES[name]
    outside, folder = tmp_path / "secret.safetensors", tmp_path / "model"
    folder.mkdir()
    outside.write_bytes(b"secret")
    (folder / "noise").write_bytes(b"noise" * 10)
    (folder / "g.gguf").write_bytes(gguf_file())
    (folder / "bomb.bin").write_bytes(legacy(pickled(RUNS)))
    (folder / "good.bin").write_bytes(legacy(GOOD))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    path = folder / "model.safetensors.index.json"
    path.write_bytes(raw)
    monkeypatch.chdir(folder)
    refused(path, reason)
    with pytest.raises(rn.CheckpointError) as caught:
        checkpoint.read(folder)
    assert "secret" not in str(caught.value).replace("secret.safetensors", "")
    assert not (folder / CANARY).exists()


# -- what only the loader can see: numbers and shapes of whole models


def model_file(golden: Path, path: Path, change: dict[str, np.ndarray | None]) -> Path:
    found = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors
    arrays = {n: t.to_numpy() for n, t in found.items()} | change
    checkpoint.write_safetensors(path, {n: a for n, a in arrays.items() if a is not None}, {})
    return path


def poisoned(golden: Path, name: str, value: float) -> dict[str, np.ndarray]:
    array = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors[name].to_numpy()
    array[(0,) * (array.ndim - 1) + (-1,)] = value
    return {name: array}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    ["emb.weight", "head.weight", "blocks.1.att.key.weight", "blocks.2.ffn.value.weight",
     "blocks.1.att.w2", "blocks.0.att.w0", "blocks.0.ln0.bias", "ln_out.weight"],
)  # fmt: skip
def test_weights_that_are_no_numbers(name: str, value: float, golden: Path, tmp_path: Path) -> None:
    path = model_file(golden, tmp_path / "x.safetensors", poisoned(golden, name, value))
    with pytest.raises(rn.CheckpointError, match=f"{name} holds a NaN or an infinity"):
        rn.Model.open(path)
    for write, suffix in ((convert.to_safetensors, "safetensors"), (convert.to_gguf, "gguf")):
        with pytest.raises(rn.CheckpointError, match=f"{name} holds a NaN or an infinity"):
            write(path, tmp_path / f"y.{suffix}", "bf16")
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"], "a partial file was left"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_nan(dtype: str, golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / "v70_L3_D32_fp32.pth", path, dtype)
    tensor = checkpoint.read(path).tensors["head.weight"]
    raw = bytearray(path.read_bytes())
    raw[tensor.offset + 2 * 77 : tensor.offset + 2 * 78] = b"\xff\x7f"
    path.write_bytes(raw)
    for strategy in ("cpu fp32", "cpu fp16", "cpu bf16"):
        with pytest.raises(rn.CheckpointError, match=r"head\.weight holds a NaN"):
            rn.Model.open(path, strategy)


ZEROS = np.zeros((2, 3), np.float32)
SHAPES = {
    "no layers": ({"blocks.0.att.r_k": None}, "missing|not the tensors|does not have"),
    "a layer far away": ({"blocks.99999.att.key.weight": ZEROS}, "missing"),
    "a layer of 10**9": ({"blocks.1000000000.att.key.weight": ZEROS}, "no layer number"),
    "a layer of no number": ({"blocks.x.att.key.weight": ZEROS}, "no layer number"),
    "r_k of one": ({"blocks.0.att.r_k": np.ones((1, 1), np.float32)}, "has the shape"),
    "r_k too wide": ({"blocks.0.att.r_k": np.ones((1, 33), np.float32)}, "does not divide"),
    "emb a vector": ({"emb.weight": np.ones(32, np.float32)}, "must be matrices|shape"),
    "emb of four dimensions": (
        {"emb.weight": np.ones((2, 2, 2, 2), np.float32)}, "must be matrices|shape"),
    "key transposed": ({"blocks.0.ffn.key.weight": np.ones((32, 99), np.float32)}, "shape"),
    "w1 of another rank": ({"blocks.1.att.w1": np.ones((32, 9), np.float32)}, "shape"),
    "no head": ({"head.weight": None}, "head.weight is missing"),
    "an extra tensor": ({"blocks.0.att.backdoor": ZEROS}, "att.backdoor"),
    "a tuned state of another shape": ({"blocks.0.att.time_state": ZEROS}, "time_state"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_models_of_absurd_shapes(name: str, golden: Path, tmp_path: Path) -> None:
    change, reason = SHAPES[name]
    path = model_file(golden, tmp_path / "x.safetensors", change)
    with pytest.raises(rn.Error) as caught:
        rn.Model.open(path)
    assert any(w in str(caught.value) for w in reason.split("|")), caught.value
    assert str(caught.value).startswith(str(path)) and isinstance(caught.value, ValueError)


def test_a_file_that_shrinks_between_index_and_load(golden: Path, tmp_path: Path) -> None:
    """The loader checks every range again, against the file as it maps it."""
    path = tmp_path / "x.gguf"
    convert.to_gguf(golden / "v70_L3_D32_fp32.pth", path)
    original = checkpoint.read

    def shrink(given: object) -> checkpoint.Checkpoint:
        found = original(given)
        os.truncate(path, path.stat().st_size // 2)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read", shrink)
        with pytest.raises(rn.CheckpointError, match="lies outside the file"):
            rn.Model.open(path)


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) + len(INDICES) + len(SHAPES) >= 100
