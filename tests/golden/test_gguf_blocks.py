"""Quantised GGUF: every block format gives the numbers that it stands for.

The formats are written out here once more, in numpy; the functions agree bit by bit with those of
the `gguf` package. Blocks of random bytes with sane scales: a model of them must give the logits
of the same model whose file holds the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import Shape, tensors

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import gguf, layouts
from rwkv_native.formats.tensor import BLOCKS

TOKENS = [0, 3, 1, 4, 1, 5, 9, 2, 6]
SHAPE = Shape("7", layers=2, heads=4, head_size=64, ffn=512, vocab=70, ranks=(4, 8, 6, 12))
LARGE = convert._LARGE


def halves(raw: np.ndarray, at: int) -> np.ndarray:
    """The fp16 number at byte `at` of every block [n, bytes], as fp32 [n, 1]."""
    return raw[:, at : at + 2].copy().view("<f2").astype(np.float32)


def nibbles(raw: np.ndarray, at: int) -> np.ndarray:
    q = raw[:, at : at + 16]
    return np.concatenate([q & 15, q >> 4], axis=1).astype(np.int32)


def fifth(raw: np.ndarray, at: int) -> np.ndarray:
    bits = raw[:, at : at + 4].copy().view("<u4")
    return ((bits >> np.arange(32, dtype=np.uint32)) & 1).astype(np.int32) << 4


def q4_0(raw: np.ndarray) -> np.ndarray:
    return halves(raw, 0) * (nibbles(raw, 2) - 8).astype(np.float32)


def q4_1(raw: np.ndarray) -> np.ndarray:
    return halves(raw, 0) * nibbles(raw, 4).astype(np.float32) + halves(raw, 2)


def q5_0(raw: np.ndarray) -> np.ndarray:
    return halves(raw, 0) * (nibbles(raw, 6) + fifth(raw, 2) - 16).astype(np.float32)


def q5_1(raw: np.ndarray) -> np.ndarray:
    q = (nibbles(raw, 8) + fifth(raw, 4)).astype(np.float32)
    return halves(raw, 0) * q + halves(raw, 2)


def q8_0(raw: np.ndarray) -> np.ndarray:
    return halves(raw, 0) * raw[:, 2:].copy().view(np.int8).astype(np.float32)


def six_bits(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minima [n, 8] of the 12 bytes from 4 on."""
    a, b, c = (raw[:, i : i + 4].astype(np.int32) for i in (4, 8, 12))
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def k_blocks(raw: np.ndarray, low: int, high: int | None) -> np.ndarray:
    scales, minima = six_bits(raw)
    packed = raw[:, low : low + 128].reshape(-1, 4, 1, 32)
    q = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32).astype(np.int32)
    if high is not None:
        bits = raw[:, None, high : high + 32] >> np.arange(8, dtype=np.uint8)[None, :, None]
        q |= (bits & 1).astype(np.int32) << 4
    steps, least = halves(raw, 0) * scales, halves(raw, 2) * minima
    return (steps[:, :, None] * q.astype(np.float32) - least[:, :, None]).reshape(-1, 256)


def q6_k(raw: np.ndarray) -> np.ndarray:
    low = raw[:, :128].reshape(-1, 2, 1, 64)
    q = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32).astype(np.int32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[None, None, :, None]
    q |= ((raw[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).astype(np.int32) << 4
    scales = raw[:, 192:208].copy().view(np.int8).astype(np.float32)
    steps = halves(raw, 208) * scales
    return (steps[:, :, None] * (q.reshape(-1, 16, 16) - 32).astype(np.float32)).reshape(-1, 256)


READ: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0,
    "Q4_K": lambda raw: k_blocks(raw, 16, None), "Q5_K": lambda raw: k_blocks(raw, 48, 16),
    "Q6_K": q6_k,
}  # fmt: skip
# What 1/16 is divided by for a step that makes weights of about that size.
STEPS = {
    "Q4_0": 4, "Q4_1": 4, "Q5_0": 8, "Q5_1": 8, "Q8_0": 64, "Q4_K": 128, "Q5_K": 256, "Q6_K": 1000,
}  # fmt: skip
# Where d and m lie, if not at 0 and 2.
FIELDS = {"Q6_K": (208,), "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,)}


def blocks(dtype: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks [n, bytes] of `count` elements with weights of about 1/16."""
    elements, size = BLOCKS[dtype]
    raw = rng.integers(0, 256, (count // elements, size), np.uint8)
    step = rng.uniform(0.5, 1.5, (len(raw), 1)) / 16 / STEPS[dtype]
    for i, at in enumerate(FIELDS.get(dtype, (0, 2))):
        if i == 0:  # scales of both signs, where nothing is subtracted
            d = step * (rng.choice([-1, 1], step.shape) if dtype in FIELDS else 1)
        else:  # what centres the numbers
            d = step if dtype.endswith("K") else -step * (8 if dtype[1] == "4" else 16)
        raw[:, at : at + 2] = d.astype("<f2").view(np.uint8)
    if dtype == "Q4_K" or dtype == "Q5_K":
        raw[:, 2:4] = (step * 8).astype("<f2").view(np.uint8)
    if dtype == "Q8_0":  # no quantiser writes -128
        raw[:, 2:][raw[:, 2:] == 128] = 129
    return raw


def write(path: Path, dtype: str | None, arrays: dict[str, tuple[np.ndarray, bytes]]) -> Path:
    """A GGUF with blocks in the large matrices, or with all numbers as F32."""
    plain = path.with_suffix(".safetensors")
    made = {n: a.astype(np.float32) for n, a in tensors(SHAPE, np.random.default_rng(5))}
    checkpoint.write_safetensors(plain, made, {})
    found = checkpoint.read(plain)
    rows, body = [], []
    for name, parts in layouts.to_gguf(found.tensors, "7").items():
        shape = parts[0].shape if len(parts) == 1 else (len(parts), 1, 1, *parts[0].shape)
        kind, raw = "F32", b"".join(p.to_numpy().astype("<f4").tobytes() for p in parts)
        if name in arrays:
            numbers, packed = arrays[name]
            kind, raw = ("F32", numbers.tobytes()) if dtype is None else (dtype, packed)
        rows.append((name, kind, shape))
        body.append(raw + bytes(gguf.padded(len(raw)) - len(raw)))
    path.write_bytes(gguf.header(convert._gguf_values(found, "F32"), rows) + b"".join(body))
    return path


def pair(dtype: str, folder: Path) -> tuple[Path, Path]:
    """(with blocks of `dtype`, with their numbers)"""
    rng = np.random.default_rng(list(BLOCKS).index(dtype))
    made = {n: a.astype(np.float32) for n, a in tensors(SHAPE, rng)}
    plain = folder / "shapes.safetensors"
    checkpoint.write_safetensors(plain, made, {})
    arrays = {}
    for name, parts in layouts.to_gguf(checkpoint.read(plain).tensors, "7").items():
        if name.endswith(LARGE):
            shape = parts[0].shape
            raw = blocks(dtype, parts[0].count, rng)
            arrays[name] = (READ[dtype](raw).reshape(shape).astype("<f4"), raw.tobytes())
    return write(folder / "q.gguf", dtype, arrays), write(folder / "f.gguf", None, arrays)


def logits(path: Path, strategy: str, threads: int = 1) -> np.ndarray:
    return rn.Model.open(path, strategy, threads=threads).forward(TOKENS, full=True)[0]


@pytest.mark.parametrize("dtype", BLOCKS)
def test_the_numbers_of_every_format(dtype: str, tmp_path: Path) -> None:
    quantised, plain = pair(dtype, tmp_path)
    found = checkpoint.read(quantised).tensors
    assert found["head.weight"].dtype == dtype and found["emb.weight"].dtype == dtype
    wanted = logits(plain, "cpu fp32")
    assert np.isfinite(wanted).all() and wanted.std() > 0.1
    assert np.array_equal(logits(quantised, "cpu fp32", 2), wanted)
    for strategy in ("cpu bf16", "cpu fp16"):
        # The table of the embedding stays as the file has it: exact, where the other is fp32.
        assert np.array_equal(logits(quantised, strategy), logits(plain, strategy))
    info = rn.Model.open(quantised).info
    assert info.file_dtype == dtype


@pytest.mark.parametrize("dtype", BLOCKS)
def test_scales_that_are_no_numbers(dtype: str, tmp_path: Path) -> None:
    path, _ = pair(dtype, tmp_path)
    good = path.read_bytes()
    found = checkpoint.read(path).tensors
    size = BLOCKS[dtype][1]
    for name in ("emb.weight", "head.weight", "blocks.1.ffn.value.weight"):
        for field in FIELDS.get(dtype, (0, 2)):
            raw = bytearray(good)
            at = found[name].offset + 3 * size + field
            raw[at : at + 2] = b"\x00\x7c"
            path.write_bytes(raw)
            for strategy in ("cpu fp32", "cpu bf16"):
                with pytest.raises(rn.CheckpointError, match=f"{name} holds a NaN or an infinity"):
                    rn.Model.open(path, strategy)


def test_what_is_not_read_in_blocks(tmp_path: Path) -> None:
    """Factors, vectors that are taken apart and conversion: refused by the tensor's name."""
    path, _ = pair("Q8_0", tmp_path)
    with pytest.raises(rn.UnsupportedError, match=r"is quantised \(Q8_0\); convert from the file"):
        convert.to_safetensors(path, tmp_path / "x.safetensors")
    factor = blocks("Q8_0", 4 * 256, np.random.default_rng(1))
    arrays = {"blk.1.time_mix_w1.weight": (factor, factor.tobytes())}
    path = write(tmp_path / "y.gguf", "Q8_0", arrays)
    with pytest.raises(rn.CheckpointError, match=r"w1.*quantised \(Q8_0\), which is read for the"):
        checkpoint.read(path)
