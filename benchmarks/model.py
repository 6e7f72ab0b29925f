"""Decode and prefill speed, beside what the machine could do at most.

`python benchmarks/model.py` runs random weights of the 0.1B shape with every CPU strategy. Two
paths are timed: `Model.forward` (one sequence, no sampling) and `Engine` (continuous batching,
sampling and text included, as a server uses it). Shares are of the best bandwidth and arithmetic
seen right before and after each row: a decoded token must read every weight once, a prefilled
one is bound by arithmetic.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import limits
import numpy as np
import random_model

import rwkv_native as rn
from rwkv_native import speed

STRATEGIES = ("cpu fp32", "cpu bf16", "cpu fp16", "cpu bf16i8", "cpu bf16i4")
BATCHES = (1, 8, 32)
PREFILL = 512


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    strategy: str
    work: str
    tokens_per_second: float
    gigabytes_per_second: float
    gigaflops: float

    def show(self, read: float, peak: float) -> str:
        moved, computed = self.gigabytes_per_second, self.gigaflops
        return (
            f"| {self.strategy} | {self.work} | {self.tokens_per_second:.1f} "
            f"| {moved:.1f} | {moved / read:.0%} of {read:.0f} "
            f"| {computed:.0f} | {computed / peak:.0%} of {peak:.0f} |"
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one model must at least move and compute."""

    weights: int  # bytes of weights that one step reads, at any batch size
    state: int  # bytes of one sequence's state
    token: int  # operations of one token with its logits
    head: int  # the part of them that the logits take

    def decode(self, strategy: str, work: str, batch: int, steps_per_second: float) -> Row:
        moved = (self.weights + 2 * batch * self.state) * steps_per_second
        rate = steps_per_second * batch
        return Row(strategy, work, rate, moved / 1e9, self.token * rate / 1e9)

    def prefill(self, strategy: str, work: str, tokens: int, seconds: float) -> Row:
        operations = tokens * (self.token - self.head) + self.head
        moved = self.weights + 2 * self.state
        return Row(
            strategy, work, tokens / seconds, moved / seconds / 1e9, operations / seconds / 1e9
        )


def cost_of(model: rn.Model) -> Cost:
    info = model.info
    return Cost(
        weights=info.token_bytes,
        state=info.state_bytes,
        token=info.token_flops,
        head=2 * info.vocab * info.width,
    )


def forward_rows(model: rn.Model, strategy: str, cost: Cost, steps: int) -> Iterator[Row]:
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, model.info.vocab, size=steps + PREFILL).tolist()
    _, state = model.forward(tokens[:1])
    times = []
    for token in tokens[:steps]:
        start = time.perf_counter()
        _, state = model.forward([token], state)
        times.append(time.perf_counter() - start)
    yield cost.decode(strategy, "forward, 1 token", 1, 1 / statistics.median(times))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        model.forward(tokens[steps:])
        times.append(time.perf_counter() - start)
    work = f"forward, {PREFILL} tokens"
    yield cost.prefill(strategy, work, PREFILL, statistics.median(times))


def engine_rows(model: rn.Model, strategy: str, cost: Cost, steps: int) -> Iterator[Row]:
    engine = rn.Engine(model, rn.Tokenizer.world(), max_batch=max(BATCHES))
    try:
        for batch in BATCHES:
            rate = speed.decode(engine, batch, max(16, steps // max(1, batch // 8)))
            yield cost.decode(strategy, f"engine, batch {batch}", batch, rate / batch)
        rate = statistics.median(speed.prefill(engine, PREFILL) for _ in range(3))
        yield cost.prefill(strategy, f"engine, prompt of {PREFILL}", PREFILL, PREFILL / rate)
    finally:
        engine.close()


def run(path: Path, strategies: list[str], threads: int | None, steps: int) -> None:
    print("| strategy | work | tok/s | GB/s | of limit | GFLOP/s | of limit |")
    print("|---|---|---|---|---|---|---|")
    for strategy in strategies:
        model = rn.Model.open(path, strategy=strategy, threads=threads)
        cost = cost_of(model)
        before = limits.measure(model.info.threads)
        # Rows are measured as they are asked for: each stands between two looks at the limits.
        for row in itertools.chain(
            forward_rows(model, strategy, cost, steps), engine_rows(model, strategy, cost, steps)
        ):
            after = limits.measure(model.info.threads)
            read = max(before.read.best, after.read.best)
            peak = max(before.peak(strategy), after.peak(strategy))
            print(row.show(read, peak), flush=True)
            before = after
    info = model.info
    print(f"\nkernels {info.isa}, {info.threads} threads; last {before}")
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a checkpoint instead of random 0.1B weights")
    parser.add_argument("--strategy", action="append", help="default: every CPU strategy")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--steps", type=int, default=64, help="decoded tokens per measurement")
    args = parser.parse_args()
    strategies = args.strategy or list(STRATEGIES)
    if args.model:
        run(args.model, strategies, args.threads, args.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random-0.1b.safetensors"
        random_model.write(path)
        run(path, strategies, args.threads, args.steps)


if __name__ == "__main__":
    main()
