"""The benchmarks start, and what they hold speeds against is right. They are not run here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import limits  # noqa: E402
import sides  # noqa: E402

sys.path.remove(str(BENCHMARKS))  # its names are short: other tests shall not meet them

SEEN = limits.Limits(
    *("avx512", 2),
    read=limits.Rate(30, 40),
    fma=limits.Rate(90, 100),
    bf16=limits.Rate(190, 200),
    int8=None,
)


@pytest.mark.parametrize("name", ["bindings", "load", "model", "peers", "random_model"])
def test_a_command_explains_itself(name: str) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py ")


def test_the_peak_is_that_of_the_weights_own_product() -> None:
    assert SEEN.peak("cpu bf16") == 200
    assert SEEN.peak("cpu fp32") == SEEN.peak("cpu fp16") == 100
    # Without dot products of bytes there are fp32 multiply-adds, not those of bf16.
    assert SEEN.peak("cpu bf16i8") == SEEN.peak("cpu bf16i4") == 100


def test_the_limit_is_the_slower_of_memory_and_arithmetic() -> None:
    cost = sides.Cost(weights=400_000_000, state=2_000_000, token=400_000_000, head=100_000_000)
    # Alone: 404 MB at 40 GB/s. 100 together: 40 GFLOP at 200 per second.
    assert cost.seconds(SEEN, "cpu bf16", steps=1, batch=1) == pytest.approx(404e6 / 40e9)
    assert cost.seconds(SEEN, "cpu bf16", steps=1, batch=100) == pytest.approx(40e9 / 200e9)
    # A prompt of 512: the logits of its last token alone are wanted.
    operations = 512 * 300e6 + 100e6
    spent = cost.seconds(SEEN, "cpu bf16", steps=1, batch=1, prompt=511)
    assert spent == pytest.approx(operations / 200e9)


def test_silent_ids_are_no_whole_characters() -> None:
    broken = set(sides.broken_ids())
    assert {0, 11, 65535} <= broken  # the end, a line feed, an id without a token
    assert 33 + 1 not in broken  # "!"
    assert 129 in broken  # a lone byte of UTF-8
    assert 300 < len(broken) < 1500
