"""Embeddings of every version against the equations of docs/embeddings.md in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import random_checkpoint
import reference
from random_checkpoint import VERSIONS, Shape

import rwkv_native as rn

LAYERS = 4
MASK = 2**64 - 1


def memory(oracle: reference.Rwkv, tokens: list[int], layer: int) -> np.ndarray:
    states = oracle.start()
    oracle.run(tokens, states)
    state = states[layer]
    if oracle.version == "4":
        return state["aa"] / state["bb"]
    heads = state["wkv"].reshape(oracle.heads, -1)
    return (heads / np.linalg.norm(heads, axis=1, keepdims=True)).reshape(-1)


def splitmix(i: int) -> int:
    z = (i + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def folded(values: np.ndarray, dimensions: int) -> np.ndarray:
    sums = np.zeros(dimensions)
    if len(values) <= dimensions:
        sums[: len(values)] = values
    else:
        for i, value in enumerate(values):
            bits = splitmix(i)
            sums[(bits >> 32) * dimensions >> 32] += value if bits & 1 else -value
    return sums / np.linalg.norm(sums)


@pytest.mark.parametrize("version", VERSIONS)
def test_against_the_equations(version: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shape = Shape(version, layers=LAYERS, heads=2, head_size=32, ffn=96, vocab=300)
    random_checkpoint.write(path, shape)
    oracle = reference.Rwkv(path)
    tokens = np.random.default_rng(2).integers(0, 257, 25).tolist()
    model = rn.Model.open(path, "cpu fp32", threads=2)
    with rn.Engine(model, rn.Tokenizer.world_bytes()) as engine:
        for fast, layer in ((False, (LAYERS - 1) // 2), (True, 0)):
            values = memory(oracle, tokens, layer)
            for dimensions in (1, 40, 64, 2048, 4096):
                (found,) = engine.embed([tokens], dimensions, fast=fast)
                assert found.dtype == np.float32
                wanted = folded(values, dimensions)
                if dimensions > 1:  # of one number nothing but the sign is left
                    assert np.abs(found - wanted).max() < 2e-5, (fast, dimensions)
        assert engine.embed([tokens]).shape == (1, model.info.width)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_alike_is_close(version: str, tmp_path: Path) -> None:
    """Random weights know nothing, yet a text is closer to itself with one word changed than to
    another one."""
    path = tmp_path / "model.safetensors"
    random_checkpoint.write(
        path, Shape(version, layers=2, heads=2, head_size=32, ffn=96, vocab=257)
    )
    model = rn.Model.open(path, "cpu fp32", threads=2)
    with rn.Engine(model, rn.Tokenizer.world_bytes()) as engine:
        one, alike, other = engine.embed(
            ["the red house is old", "the big house is old", "Spell 4711, please!?"], 256
        )
    assert one @ alike > one @ other
