"""What rounding weights and states costs a trained model: the demo model on its held-out dialogues.

Its bounds are the tables of docs/quantisation.md; tools/measure_accuracy.py prints the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rwkv_native as rn
from rwkv_native import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import measure_accuracy

# nats per byte beyond fp32, and answers of 501 that may be lost
BOUNDS = {
    "cpu fp16": (1e-4, 1),
    "cpu bf16": (1e-4, 1),
    "cpu bf16i8": (3e-4, 2),
    "cpu bf16i4": (5e-3, 8),
}


def measured(strategy: str) -> tuple[rn.ModelInfo, float, int]:
    model = rn.Model.open(rn.demo_model(), strategy)
    tokenizer = rn.Tokenizer.for_model(model)
    whole, _ = measure_accuracy.nats_per_byte(model, tokenizer)
    return model.info, whole, measure_accuracy.right(model, tokenizer)


@pytest.fixture(scope="module")
def exact() -> tuple[rn.ModelInfo, float, int]:
    return measured("cpu fp32")


@pytest.mark.parametrize("strategy", BOUNDS)
def test_the_demo_model(strategy: str, exact: tuple[rn.ModelInfo, float, int]) -> None:
    reference, loss, right = exact
    info, found, answers = measured(strategy)
    nats, lost = BOUNDS[strategy]
    print(f"{strategy}: {found - loss:+.5f} nats/byte, {answers - right:+d} answers")
    assert found <= loss + nats and answers >= right - lost
    kept = {"cpu bf16i8": info.int8_weights, "cpu bf16i4": info.int4_weights}.get(strategy, 0)
    if kept:  # embeddings and low-rank factors are no part of it
        assert kept >= 0.8 * sum(matrices())
        assert info.token_bytes < 0.6 * reference.token_bytes
    else:
        assert info.int8_weights == info.int4_weights == 0


@pytest.mark.parametrize("state_type", ["fp16", "bf16"])
def test_states_in_16_bits(state_type: str) -> None:
    """Each dialogue alone, and 31 kB through one state, where errors could add up."""
    losses = []
    for kept in ("fp32", state_type):
        model = rn.Model.open(rn.demo_model(), "cpu fp32", state_type=kept)
        tokenizer = rn.Tokenizer.for_model(model)
        long = measure_accuracy.of_one_text(model, tokenizer)
        losses.append((measure_accuracy.nats_per_byte(model, tokenizer)[0], long))
    print(f"{state_type}: {losses[1][0] - losses[0][0]:+.6f}, {losses[1][1] - losses[0][1]:+.6f}")
    assert all(abs(b - a) < 3e-4 for a, b in zip(*losses, strict=True))


def matrices() -> list[int]:
    """Elements of every large matrix."""
    parts = ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
    tensors = checkpoint.read(rn.demo_model()).tensors.values()
    large = [t for t in tensors if any(f".{p}.weight" in t.name for p in parts)]
    return [t.count for t in (*large, *(t for t in tensors if t.name == "head.weight"))]
