"""Packed files: matrices as the engine keeps them in memory, used where the file is mapped."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import safetensors
from web.cli import main

HEAD = "head.weight"
SOURCE = "v70_L2_D64_bf16.pth"
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def logits(path: Path, strategy: str) -> np.ndarray:
    return rn.Model.open(path, strategy, threads=1).forward(TOKENS, full=True)[0]


@pytest.mark.parametrize("kind", ["i8", "i4"])
@pytest.mark.parametrize("name", [SOURCE, "v70_L3_D32_fp32.pth"])
def test_the_same_model(name: str, kind: str, golden: Path, tmp_path: Path) -> None:
    """What a load packs and what a file holds packed give the same bits."""
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / name, path, kind)
    found = checkpoint.read(path).tensors
    head = found["head.weight"]
    assert head.dtype == kind.upper() and head.offset % 64 == 0
    assert found["blocks.0.att.output.weight"].dtype == kind.upper()
    strategy = f"cpu bf16{kind}"
    wanted = logits(golden / name, strategy)
    info = rn.Model.open(path).info
    assert info.strategy == strategy and info.file_dtype == ("int8" if kind == "i8" else "int4")
    for chosen in ("auto", strategy):
        assert np.array_equal(logits(path, chosen), wanted)
    other = "cpu bf16i8" if kind == "i4" else "cpu bf16i4"  # weights that are rounded stay so
    assert rn.Model.open(path, other).info.strategy == strategy
    assert np.array_equal(logits(path, other), wanted)
    with pytest.raises(rn.UnsupportedError, match="packed as int"):
        rn.Model.open(path, "cpu fp32")
    with pytest.raises(rn.UnsupportedError, match="is packed"):
        convert.to_safetensors(path, tmp_path / "y.safetensors", "bf16")


# A factor of every kind: 7b has also those of DEA and DeepEmbed.
VERSIONS = (SOURCE, "v70_L3_D32_fp32.pth", "v7b_L2_D16_bf16.pth", "v60_L3_D32_fp32.pth")
PLAIN = {"fp32": "cpu fp32", "fp16": "cpu fp16", "bf16": "cpu bf16"}


def unpacked(name: Path, folder: Path) -> Path:
    """A golden file, which the repository may hold compressed."""
    if name.exists():
        return name
    path = folder / name.name
    path.write_bytes(lzma.decompress(name.with_name(f"{name.name}.xz").read_bytes()))
    return path


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("dtype", PLAIN)
def test_plain_numbers(name: str, dtype: str, golden: Path, tmp_path: Path) -> None:
    """The same bits as of the file that is not packed, mapped or converted, in every strategy."""
    source = unpacked(golden / name, tmp_path)
    plain, path = tmp_path / "plain.safetensors", tmp_path / "x.safetensors"
    convert.to_safetensors(source, plain, dtype)
    convert.to_safetensors(source, path, dtype, packed=True)
    found, wanted = checkpoint.read(path).tensors, checkpoint.read(plain).tensors
    kind = f"PACKED_{convert.NAMES[dtype]}"
    assert found["head.weight"].dtype == found["blocks.0.ffn.key.weight"].dtype == kind
    assert found["emb.weight"].dtype == convert.NAMES[dtype]
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in wanted.items()}
    assert all(t.offset % 64 == 0 for t in found.values() if t.kind == "packed")
    info, other = rn.Model.open(path).info, rn.Model.open(plain).info
    assert info == replace(other, path=info.path, metadata=info.metadata)
    assert info.strategy == PLAIN[dtype] and info.file_dtype == dtype
    for strategy in ("auto", *PLAIN.values(), "cpu bf16i8", "cpu fp32i4"):
        assert np.array_equal(logits(path, strategy), logits(plain, strategy)), strategy


def test_low_rank_factors_are_packed(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for kind in ("bf16", "i8", "i4"):
        convert.to_safetensors(golden / SOURCE, path, kind, packed=kind == "bf16", force=True)
        found = checkpoint.read(path).tensors
        for letter in "wag":
            down = found[f"blocks.1.att.{letter}1"]
            assert down.dtype == "PACKED_BF16" and down.strides == (1, down.shape[0])


def test_not_in_gguf(golden: Path, tmp_path: Path, capsys) -> None:
    target = str(tmp_path / "x.gguf")
    assert main(["convert", str(golden / SOURCE), target, "--packed"]) != 0
    assert "only a .safetensors file can be packed" in capsys.readouterr().err


def test_numbers_that_the_type_cannot_hold(golden: Path, tmp_path: Path) -> None:
    found = checkpoint.read(golden / SOURCE).tensors
    arrays = {name: tensor.to_numpy() for name, tensor in found.items()}
    arrays[HEAD][3, 5] = 1e6
    safetensors.write(tmp_path / "large.safetensors", arrays, {})
    with pytest.raises(rn.CheckpointError, match=r"head\.weight has values up to 1e\+06"):
        convert.to_safetensors(
            tmp_path / "large.safetensors", tmp_path / "x.safetensors", "fp16", packed=True
        )


def test_the_file_may_go_once_it_is_mapped(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / SOURCE, path, "i8")
    model = rn.Model.open(path)
    wanted = model.forward(TOKENS)[0]
    path.unlink()
    assert np.array_equal(model.forward(TOKENS)[0], wanted)


def changed(path: Path, change: Callable[[dict], None]) -> None:
    """The file with another header; the data stays aligned."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def packed(change: Callable[[dict], None]) -> Callable[[dict], None]:
    def edit(header: dict) -> None:
        entry = json.loads(header["__metadata__"][safetensors.PACKED_KEY])
        change(entry)
        header["__metadata__"][safetensors.PACKED_KEY] = json.dumps(entry)

    return edit


HOSTILE: dict[str, tuple[Callable[[dict], None], str]] = {
    "no entry": (lambda h: h["__metadata__"].pop(safetensors.PACKED_KEY), "has dtype U8"),
    "no JSON": (
        lambda h: h["__metadata__"].update({safetensors.PACKED_KEY: "{"}), "is not valid JSON"),
    "a list": (lambda h: h["__metadata__"].update({safetensors.PACKED_KEY: "[]"}), "not an object"),
    "another version": (packed(lambda e: e.update(version=1)), "another version"),
    "no such tensor": (packed(lambda e: e["tensors"].update(x=["I8", [1, 1]])), "names 'x'"),
    "not of bytes": (
        packed(lambda e: e["tensors"].update({"emb.weight": ["I8", [1, 1]]})), "no tensor"),
    "missing": (packed(lambda e: e["tensors"].pop(HEAD)), "has dtype U8"),
    "another type": (packed(lambda e: e["tensors"].update({HEAD: ["I3", [65, 64]]})), "a type and"),
    "half as large": (packed(lambda e: e["tensors"][HEAD].__setitem__(0, "I4")), "needs .* bytes"),
    "wider": (packed(lambda e: e["tensors"][HEAD][1].__setitem__(1, 2**40)), "needs .* bytes"),
    "turned": (packed(lambda e: e["tensors"][HEAD].append("transposed")), "needs .* bytes"),
    "turned oddly": (packed(lambda e: e["tensors"][HEAD].append(1)), "a type and"),
    "a turned row": (
        packed(lambda e: e["tensors"].update({HEAD: ["PACKED_F32", [1, 64], "transposed"]})),
        "a type and"),
    "plain": (packed(lambda e: e["tensors"][HEAD].__setitem__(0, "BF16")), "a type and"),
    "wider numbers": (
        packed(lambda e: e["tensors"][HEAD].__setitem__(0, "PACKED_F32")), "needs .* bytes"),
    "negative": (packed(lambda e: e["tensors"][HEAD][1].__setitem__(0, -1)), "a type and"),
    "three dimensions": (packed(lambda e: e["tensors"][HEAD][1].append(1)), "a type and"),
    "another shape": (
        packed(lambda e: e["tensors"]["blocks.0.ffn.key.weight"][1].__setitem__(0, 255)),
        "has the shape|must be"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata(name: str, golden: Path, tmp_path: Path) -> None:
    change, words = HOSTILE[name]
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / SOURCE, path, "i8")
    changed(path, change)
    with pytest.raises(rn.CheckpointError, match=words):
        rn.Model.open(path)


def test_the_kinds_of_gguf_are_not_these(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(rn.InvalidError, match="dtype must be"):
        convert.to_gguf(golden / SOURCE, tmp_path / "x.gguf", "i8")


def as_packed(head: checkpoint.Tensor, shape: tuple[int, ...]) -> dict[str, object]:
    """A row of another tensor that claims the head's bytes."""
    shape = shape if len(shape) == 2 else (1, shape[0])
    return {"dtype": "I8", "shape": shape, "strides": (shape[1], 1), "offset": head.offset}


# What Python's reader lets nobody write: the engine checks again.
ROWS: dict[str, tuple[str, Callable[[checkpoint.Tensor, tuple[int, ...]], dict], str]] = {
    "a vector": ("ln_out.weight", as_packed, "should be plain numbers"),
    "a factor": ("blocks.1.att.w1", as_packed, "not with its outputs"),
    "a table": ("emb.weight", as_packed, "should be a plain table"),
    "not aligned": (HEAD, lambda h, s: {"offset": h.offset - 8}, "starts at no multiple of 64"),
    "cut off": (HEAD, lambda h, s: {"nbytes": h.nbytes - 1}, "not a matrix packed as int8"),
    "transposed": (HEAD, lambda h, s: {"strides": (1, 64)}, "not a matrix packed as int8"),
    "scaled": (HEAD, lambda h, s: {"scale": 2.0}, "has a scale"),
    "longer": (HEAD, lambda h, s: {"shape": (s[0] * 2, s[1])}, "not a matrix packed as int8"),
    "a packed vector": (
        "ln_out.weight",
        lambda h, s: as_packed(h, s) | {"dtype": "PACKED_BF16"},
        "should be plain numbers",
    ),
    "a turned matrix": (
        HEAD,
        lambda h, s: {"dtype": "PACKED_BF16", "strides": (1, s[0])},
        "not a matrix packed as bf16",
    ),
    "outputs as inputs": (
        HEAD,
        lambda h, s: {"dtype": "I4", "strides": (1, s[0])},
        "not with its outputs side by side",
    ),
    "a turned row": (
        HEAD,
        lambda h, s: {"dtype": "PACKED_BF16", "shape": (1, s[1]), "strides": (1, 1)},
        "not a matrix packed as bf16",
    ),
    "beyond": (HEAD, lambda h, s: {"offset": 1 << 40}, "lies outside the file"),
}


@pytest.mark.parametrize("what", ROWS)
def test_hostile_rows(what: str, golden: Path, tmp_path: Path, monkeypatch) -> None:
    name, change, words = ROWS[what]
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(golden / SOURCE, path, "i8")
    found = checkpoint.read(path)
    row, head = found.tensors[name], found.tensors[HEAD]
    nbytes = head.nbytes if name != HEAD else row.nbytes
    found.tensors[name] = replace(row, **{"nbytes": nbytes, **change(head, row.shape)})
    monkeypatch.setattr(checkpoint, "read", lambda _: found)
    with pytest.raises(rn.Error, match=words):
        rn.Model.open(path)


def test_factors_that_are_taken_apart(golden: Path, tmp_path: Path, monkeypatch) -> None:
    """Version 6 takes columns of a factor, and a panel does not begin at every column."""
    path = tmp_path / "x.safetensors"
    convert.to_safetensors(unpacked(golden / VERSIONS[-1], tmp_path), path, "bf16", packed=True)
    found = checkpoint.read(path)
    name = "blocks.0.att.time_maa_w1"
    row, head = found.tensors[name], found.tensors[HEAD]
    assert row.kind == "plain" and head.nbytes >= 2 * 32 * (row.shape[1] + 15)
    claim = {"dtype": head.dtype, "strides": (1, row.shape[0]), "offset": head.offset}
    found.tensors[name] = replace(row, **claim, nbytes=head.nbytes)
    monkeypatch.setattr(checkpoint, "read", lambda _: found)
    with pytest.raises(rn.Error, match="is packed and should be plain numbers"):
        rn.Model.open(path)
