"""Writes an RWKV-7 checkpoint with random weights: the shape of a real model without its download.

`python benchmarks/random_model.py OUT.safetensors [--layers 12 --width 768 ...]`. Speed does not
depend on the values as long as they are ordinary numbers, so the magnitudes are those of a freshly
initialised model: no infinities, no denormals, and logits of order one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of an RWKV-7 model; the defaults are those of the published 0.1B."""

    layers: int = 12
    width: int = 768
    ffn: int = 3072
    vocab: int = 65536
    head_size: int = 64
    rank_w: int = 64
    rank_a: int = 64
    rank_v: int = 32
    rank_g: int = 128


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    """Every tensor as (official name, shape, mean, standard deviation)."""
    d, f, v = shape.width, shape.ffn, shape.vocab
    near = 1 / math.sqrt(d)
    yield "emb.weight", (v, d), 0.0, 0.5
    for i in range(shape.layers):
        at = f"blocks.{i}."
        for norm in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            yield f"{at}{norm}.weight", (d,), 1.0, 0.05
            yield f"{at}{norm}.bias", (d,), 0.0, 0.05
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
            yield f"{at}att.{name}", (1, 1, d), 0.5, 0.2
        ranks = {"w": shape.rank_w, "a": shape.rank_a, "v": shape.rank_v, "g": shape.rank_g}
        for letter, rank in ranks.items():
            if letter == "v" and i == 0:
                continue
            if letter != "g":
                yield f"{at}att.{letter}0", (1, 1, d), 0.0, 0.5
            yield f"{at}att.{letter}1", (d, rank), 0.0, near
            yield f"{at}att.{letter}2", (rank, d), 0.0, 0.1
        yield f"{at}att.k_k", (1, 1, d), 0.85, 0.05
        yield f"{at}att.k_a", (1, 1, d), 1.0, 0.05
        yield f"{at}att.r_k", (d // shape.head_size, shape.head_size), 0.0, 0.1
        for name in ("receptance", "key", "value", "output"):
            yield f"{at}att.{name}.weight", (d, d), 0.0, 0.5 * near
        yield f"{at}att.ln_x.weight", (d,), 1.0, 0.05
        yield f"{at}att.ln_x.bias", (d,), 0.0, 0.05
        yield f"{at}ffn.x_k", (1, 1, d), 0.5, 0.2
        yield f"{at}ffn.key.weight", (f, d), 0.0, near
        yield f"{at}ffn.value.weight", (d, f), 0.0, 0.5 / math.sqrt(f)
    yield "ln_out.weight", (d,), 1.0, 0.05
    yield "ln_out.bias", (d,), 0.0, 0.05
    yield "head.weight", (v, d), 0.0, near


def to_bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> the upper 16 bits, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(path: Path, shape: Shape | None = None, seed: int = 0, silent: Sequence[int] = ()) -> int:
    """Writes the checkpoint in bf16 and returns the number of parameters.

    silent: ids whose logits are always 0, which is never the largest.
    """
    rows = list(tensors(shape or Shape()))
    header: dict[str, object] = {}
    offset = 0
    for name, dims, _, _ in rows:
        size = 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dims, mean, deviation in rows:
            values = rng.standard_normal(math.prod(dims), dtype=np.float32)
            values = values * np.float32(deviation) + np.float32(mean)
            if name == "head.weight":
                values.reshape(dims)[list(silent)] = 0
            file.write(to_bf16(values).tobytes())
    return offset // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    defaults = Shape()
    names = ("layers", "width", "ffn", "vocab", "head_size", "rank_w", "rank_a", "rank_v", "rank_g")
    for name in names:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = Shape(**{name: getattr(args, name) for name in names})
    print(f"{write(args.path, shape, args.seed) / 1e6:.1f} M parameters -> {args.path}")


if __name__ == "__main__":
    main()
