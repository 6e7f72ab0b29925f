"""Random checkpoints of every version and of any small shape, with magnitudes like trained ones.

Written as .safetensors with official names. Used by test_random.py; the golden files have the
shapes that their makers chose, these have the odd ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwkv_native.formats import safetensors

Array = np.ndarray
Row = tuple[str, Array]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a checkpoint. `width` 0: the heads side by side, as in all published files."""

    version: str  # "4", "5.0" ... "6.0", "7", "7a", "7b", "8rc"
    layers: int
    heads: int
    head_size: int
    ffn: int
    vocab: int
    ranks: tuple[int, int, int, int] = (5, 3, 7, 9)  # v7: w a v g; v6: the first two
    width: int = 0
    old_names: bool = False  # v5: time_first; v7: the unused v0, v1, v2 of block 0
    dtype: type = np.float32

    @property
    def attention(self) -> int:
        return self.heads * self.head_size

    def __str__(self) -> str:
        width = self.width or self.attention
        return (
            f"{self.version}-L{self.layers}-D{width}-H{self.heads}x{self.head_size}-V{self.vocab}"
        )


def write(path: Path, shape: Shape, seed: int = 0) -> None:
    rows = [(n, a.astype(shape.dtype)) for n, a in tensors(shape, np.random.default_rng(seed))]
    kind = {np.float32: "F32", np.float16: "F16"}[shape.dtype]
    with path.open("wb") as file:
        file.write(safetensors.header([(n, kind, a.shape) for n, a in rows], {}))
        for _, array in rows:
            file.write(array.tobytes())


def tensors(s: Shape, rng: np.random.Generator) -> Iterator[Row]:
    d, v = s.width or s.attention, s.vocab
    time_mix, channel_mix = PARTS[s.version]
    yield "emb.weight", rng.standard_normal((v, d))
    for i in range(s.layers):
        norms = ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2")
        rows = [row for name in norms for row in norm(rng, name, d)]
        rows += time_mix(s, rng, d, i)
        rows += channel_mix(s, rng, d)
        yield from ((f"blocks.{i}.{name}", array) for name, array in rows)
    yield from norm(rng, "ln_out", d)
    yield "head.weight", matrix(rng, v, d, 3)  # a lively distribution


def matrix(rng: np.random.Generator, out: int, columns: int, gain: float = 1) -> Array:
    """[out, columns]; W @ x of a normalised x has the standard deviation `gain`."""
    return rng.standard_normal((out, columns)) * gain / np.sqrt(columns)


def norm(rng: np.random.Generator, name: str, n: int) -> Iterator[Row]:
    yield name + ".weight", 1 + 0.2 * rng.standard_normal(n)
    yield name + ".bias", 0.1 * rng.standard_normal(n)


def pair(rng: np.random.Generator, name: str, columns: int, rank: int, out: int) -> Iterator[Row]:
    """A low-rank pair, [in, rank] and [rank, out]."""
    yield name + "1", rng.standard_normal((columns, rank)) / np.sqrt(columns)
    yield name + "2", rng.standard_normal((rank, out)) / np.sqrt(rank)


def mixes(rng: np.random.Generator, name: str, letters: str, d: int) -> Iterator[Row]:
    for letter in letters:
        yield name + letter, rng.uniform(0, 1, (1, 1, d))


def projections(rng: np.random.Generator, names: str, a: int, d: int) -> Iterator[Row]:
    for name in names.split():
        yield f"att.{name}.weight", matrix(rng, a, d)
    yield "att.output.weight", matrix(rng, d, a, 0.5)


def time_mix_4(s: Shape, rng: np.random.Generator, d: int, _: int) -> Iterator[Row]:
    a = s.attention
    yield "att.time_decay", rng.uniform(-6, 2, a)
    yield "att.time_first", rng.standard_normal(a)
    yield from mixes(rng, "att.time_mix_", "kvr", d)
    yield from projections(rng, "key value receptance", a, d)


def time_mix_5(s: Shape, rng: np.random.Generator, d: int, _: int) -> Iterator[Row]:
    per = (s.heads, s.head_size) if s.version == "5.2" else (s.heads,)
    yield "att.time_decay", rng.uniform(-6, 1, per)
    yield ("att.time_first" if s.old_names else "att.time_faaaa"), 0.5 * rng.standard_normal(per)
    gated = s.version != "5.0"
    yield from mixes(rng, "att.time_mix_", "kvrg" if gated else "kvr", d)
    yield from projections(
        rng, "key value receptance gate" if gated else "key value receptance", s.attention, d
    )
    yield from norm(rng, "att.ln_x", s.attention)


def time_mix_6(s: Shape, rng: np.random.Generator, d: int, _: int) -> Iterator[Row]:
    a, (r, q, *_) = s.attention, s.ranks
    yield from mixes(rng, "att.time_maa_", "xwkvrg", d)
    yield "att.time_maa_w1", matrix(rng, 5 * r, d).T
    yield "att.time_maa_w2", 0.3 * rng.standard_normal((5, r, d)) / np.sqrt(r)
    yield "att.time_decay", rng.uniform(-6, 1, (1, 1, a))
    yield from pair(rng, "att.time_decay_w", d, q, a)
    yield "att.time_faaaa", 0.5 * rng.standard_normal((s.heads, s.head_size))
    yield from projections(rng, "key value receptance gate", a, d)
    yield from norm(rng, "att.ln_x", a)


def time_mix_7(s: Shape, rng: np.random.Generator, d: int, layer: int) -> Iterator[Row]:
    yield from mixes(rng, "att.x_", "rwkvag", d)
    for letter, rank in zip("wavg", s.ranks, strict=True):
        if letter == "v" and layer == 0 and not s.old_names:
            continue
        if letter != "g":
            yield f"att.{letter}0", rng.standard_normal((1, 1, d))
        yield from pair(rng, f"att.{letter}", d, rank, d)
    yield "att.k_k", 0.85 + 0.1 * rng.standard_normal((1, 1, d))
    yield "att.k_a", 1 + 0.1 * rng.standard_normal((1, 1, d))
    yield "att.r_k", 0.3 * rng.standard_normal((s.heads, s.head_size))
    yield from projections(rng, "receptance key value", d, d)
    yield from norm(rng, "att.ln_x", d)
    if s.version == "7b":
        yield from dea(s, rng, d)


def dea(s: Shape, rng: np.random.Generator, d: int) -> Iterator[Row]:
    yield "qkv.qq.weight", matrix(rng, 256, d)
    yield from pair(rng, "qkv.k", d, 32, 256)
    yield from pair(rng, "qkv.v", d, 32, d)
    for letter, n in (("k", 256), ("v", d)):
        yield f"qkv.{letter}_emb.weight", rng.standard_normal((s.vocab, n))
        yield f"qkv.{letter}_emb_x.weight", matrix(rng, n, d)
    for letter, n in (("q", 256), ("k", 256), ("v", d)):
        yield f"qkv.x_{letter}", rng.uniform(0, 1, (1, 1, n))
        yield from norm(rng, f"qkv.ln{letter}", n)


def channel_mix_4(s: Shape, rng: np.random.Generator, d: int) -> Iterator[Row]:
    name = "ffn.time_maa_" if s.version == "6.0" else "ffn.time_mix_"
    yield from mixes(rng, name, "kr", d)
    yield "ffn.receptance.weight", matrix(rng, d, d)
    yield "ffn.key.weight", matrix(rng, s.ffn, d)
    yield "ffn.value.weight", matrix(rng, d, s.ffn, 0.5)


def channel_mix_7(s: Shape, rng: np.random.Generator, d: int) -> Iterator[Row]:
    yield from mixes(rng, "ffn.x_", "k", d)
    yield "ffn.key.weight", matrix(rng, s.ffn, d)
    yield "ffn.value.weight", matrix(rng, d, s.ffn, 0.5)
    if s.version in ("7a", "7b"):
        yield from pair(rng, "ffn.s", d, 32, s.ffn)
        yield "ffn.s0", 1 + 0.1 * rng.standard_normal((1, 1, s.ffn))
        yield "ffn.s_emb.weight", rng.standard_normal((s.vocab, 1024)) / 32
        yield "ffn.s_emb_x.weight", matrix(rng, 1024, d, 1 / 32)
    if s.version == "8rc":
        yield "ffn.enn.weight", 1 + 0.3 * rng.standard_normal((s.vocab, d))


TimeMix = Callable[[Shape, np.random.Generator, int, int], Iterator[Row]]
ChannelMix = Callable[[Shape, np.random.Generator, int], Iterator[Row]]
PARTS: dict[str, tuple[TimeMix, ChannelMix]] = {
    "4": (time_mix_4, channel_mix_4),
    **dict.fromkeys(("5.0", "5.1", "5.2"), (time_mix_5, channel_mix_4)),
    "6.0": (time_mix_6, channel_mix_4),
    **dict.fromkeys(("7", "7a", "7b", "8rc"), (time_mix_7, channel_mix_7)),
}
VERSIONS = tuple(PARTS)
