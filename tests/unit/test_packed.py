"""Packed files: matrices as the engine keeps them in memory, used where the file is mapped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import safetensors

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
    with pytest.raises(rn.UnsupportedError, match="packed as int"):
        rn.Model.open(path, "cpu fp32")
    with pytest.raises(rn.UnsupportedError, match="is quantised"):
        convert.to_safetensors(path, tmp_path / "y.safetensors", "bf16")


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


HEAD = "head.weight"
HOSTILE: dict[str, tuple[Callable[[dict], None], str]] = {
    "no entry": (lambda h: h["__metadata__"].pop(safetensors.PACKED_KEY), "has dtype U8"),
    "no JSON": (
        lambda h: h["__metadata__"].update({safetensors.PACKED_KEY: "{"}), "is not valid JSON"),
    "a list": (lambda h: h["__metadata__"].update({safetensors.PACKED_KEY: "[]"}), "not an object"),
    "another version": (packed(lambda e: e.update(version=2)), "another version"),
    "no such tensor": (packed(lambda e: e["tensors"].update(x=["I8", [1, 1]])), "names 'x'"),
    "not of bytes": (
        packed(lambda e: e["tensors"].update({"emb.weight": ["I8", [1, 1]]})), "no tensor"),
    "missing": (packed(lambda e: e["tensors"].pop(HEAD)), "has dtype U8"),
    "another type": (packed(lambda e: e["tensors"].update({HEAD: ["I3", [65, 64]]})), "a type and"),
    "half as large": (packed(lambda e: e["tensors"][HEAD].__setitem__(0, "I4")), "needs .* bytes"),
    "wider": (packed(lambda e: e["tensors"][HEAD][1].__setitem__(1, 2**40)), "needs .* bytes"),
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
    "a factor": ("blocks.1.att.w1", as_packed, "should be plain numbers"),
    "a table": ("emb.weight", as_packed, "should be a plain table"),
    "not aligned": (HEAD, lambda h, s: {"offset": h.offset - 8}, "starts at no multiple of 64"),
    "cut off": (HEAD, lambda h, s: {"nbytes": h.nbytes - 1}, "not a matrix packed as int8"),
    "transposed": (HEAD, lambda h, s: {"strides": (1, 64)}, "not a matrix packed as int8"),
    "scaled": (HEAD, lambda h, s: {"scale": 2.0}, "has a scale"),
    "longer": (HEAD, lambda h, s: {"shape": (s[0] * 2, s[1])}, "not a matrix packed as int8"),
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
