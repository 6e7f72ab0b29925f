"""Models that say what they are told: after each token a given one. So a server's answers can be
compared with those of another one, whatever it ran on. Used by tests/contract.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from rwkv_native.formats import safetensors

WIDTH = 64


def write(
    path: Path,
    after: Mapping[int, int],
    rows: int = 65536,
    version: str = "7",
    second: Mapping[int, int] = MappingProxyType({}),
    weight: float = 5,
) -> None:
    """A model whose blocks add nothing: the embedding of each token that matters has an entry of
    its own, by which the head finds its successor with a weight of 10, and its `second` choice,
    where it has one, with `weight`: at 10 both are as likely. Of others it says 0, the end."""
    random_checkpoint = _random_checkpoint()
    shape = random_checkpoint.Shape(version, 1, 1, WIDTH, WIDTH, vocab=1)
    tensors = dict(random_checkpoint.tensors(shape, np.random.default_rng(1)))
    for name in ("blocks.0.att.output.weight", "blocks.0.ffn.value.weight"):
        tensors[name] = np.zeros_like(tensors[name])
    for name in ("blocks.0.ln0", "ln_out"):
        tensors[f"{name}.weight"] = np.ones(WIDTH)
        tensors[f"{name}.bias"] = np.zeros(WIDTH)
    assert len(after) < WIDTH
    emb, head = np.zeros((2, rows, WIDTH), np.float16)
    emb[:, -1] = 1
    head[0, -1] = 10
    for entry, (token, successor) in enumerate(after.items()):
        emb[token] = 0
        emb[token, entry] = 1
        head[successor, entry] = 10
        if token in second:
            head[second[token], entry] = weight
    tensors |= {"emb.weight": emb, "head.weight": head}
    with path.open("wb") as file:
        kinds = [(name, "F16", array.shape) for name, array in tensors.items()]
        file.write(safetensors.header(kinds, {}))
        for array in tensors.values():
            file.write(array.astype(np.float16, copy=False).tobytes())


def _random_checkpoint() -> object:
    """tests/golden's module, which is not on the path of other tests."""
    name = "random_checkpoint"
    if name not in sys.modules:
        place = Path(__file__).parent / "golden" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, place)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclass() looks it up
        spec.loader.exec_module(module)
    return sys.modules[name]
