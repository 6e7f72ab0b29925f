"""Who waits for whom in the engine: first tokens beside long prompts, many prompts and many texts.

`python benchmarks/turns.py` runs random weights of the 0.1B shape. Each row is a median over rounds
of whole engine requests; steps are counted beside the times, because they do not depend on what
else the machine does. Compare two builds in turns, round by round, or by ratios within one run.
"""

from __future__ import annotations

import argparse
import random
import select
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import random_model

import rwkv_native as rn


@dataclass(slots=True)
class Watch:
    """When each request of one engine spoke first and last, in seconds, and in which step."""

    engine: rn.Engine
    begun: dict[int, tuple[float, int]] = field(default_factory=dict)
    first: dict[int, tuple[float, int]] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)

    def submit(self, tokens: int, max_tokens: int = 1, seed: int = 0, group: int = 0) -> int:
        wanted = rn.Sampling(max_tokens=max_tokens, end_token_ids=(), temperature=0)
        return self._begin(self.engine.submit(prompt(tokens, seed), wanted, group=group))

    def embed(self, tokens: int, seed: int, group: int) -> int:
        return self._begin(self.engine.submit_embedding(prompt(tokens, seed), group=group))

    def _begin(self, id: int) -> int:
        self.begun[id] = time.perf_counter(), self.engine.stats().steps
        return id

    def wait(self, ids: Iterable[int] = (), seconds: float = 600) -> None:
        """Collects events until all of `ids` have ended, or for so long."""
        left, end = set(ids) - set(self.ended), time.perf_counter() + seconds
        bell = select.poll()
        bell.register(self.engine.fileno(), select.POLLIN)
        waits_for_all = bool(left)
        while (left or not waits_for_all) and (now := time.perf_counter()) < end:
            if not bell.poll(1000 * (end - now)):
                return
            events, at, steps = self.engine.poll(), time.perf_counter(), self.engine.stats().steps
            for event in events:
                self.first.setdefault(event.id, (at, steps))
                if event.finish_reason is not None:
                    self.ended[event.id] = at
                    left.discard(event.id)

    def first_after(self, id: int) -> tuple[float, int]:
        """Milliseconds and steps from a request's submission to its first word."""
        return (
            1000 * (self.first[id][0] - self.begun[id][0]),
            self.first[id][1] - self.begun[id][1],
        )

    def took(self, id: int) -> float:
        return self.ended[id] - self.begun[id][0]


def prompt(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 60_000, tokens, np.int32)


def short_beside_long(engine: rn.Engine, rounds: int) -> None:
    watch, chance = Watch(engine), random.Random(1)
    alone, beside, firsts, unhurried = [], [], [], []
    for _ in range(rounds):
        id = watch.submit(13)
        watch.wait([id])
        unhurried.append(watch.first_after(id)[0])
        id = watch.submit(4096)
        watch.wait([id])
        alone.append(4096 / watch.took(id))
        id = watch.submit(4096)
        watch.wait(seconds=chance.uniform(0.1, 1))
        short = watch.submit(13)
        watch.wait([id, short])
        firsts.append(watch.first_after(short))
        beside.append(4096 / watch.took(id))
    print(f"prompt of 13 alone: first token after {statistics.median(unhurried):.0f} ms")
    print(f"prompt of 4096 alone: {statistics.median(alone):.0f} tok/s", end="")
    print(f", beside one of 13: {statistics.median(beside):.0f} tok/s")
    print(f"prompt of 13 beside one of 4096: first token after {spread(firsts)}")


def eight_equal(engine: rn.Engine, rounds: int) -> None:
    watch, means, lasts = Watch(engine), [], []
    for _ in range(rounds):
        ids = [watch.submit(1024, seed=seed) for seed in range(8)]
        watch.wait(ids)
        times = [watch.first_after(id)[0] / 1000 for id in ids]
        means.append(statistics.mean(times))
        lasts.append(max(times))
    print(
        f"eight prompts of 1024: first tokens after {statistics.median(means):.2f} s on average, "
        f"the last after {statistics.median(lasts):.2f}"
    )


def chat_beside_texts(engine: rn.Engine, rounds: int) -> None:
    watch, firsts, texts = Watch(engine), [], 200
    for number in range(1, rounds + 1):
        ids = [watch.embed(100, seed, group=number) for seed in range(texts)]
        watch.wait(seconds=0.3)
        chat = watch.submit(13)
        watch.wait([*ids, chat])
        firsts.append(watch.first_after(chat))
    print(f"chat of 13 beside {texts} texts of 100 to embed: first token after {spread(firsts)}")


def chat_beside_prompts(engine: rn.Engine, rounds: int) -> None:
    watch, times, steps, prompts = Watch(engine), [], [], 256
    alone = []
    for number in range(1, rounds + 1):
        id = watch.submit(13, 4)
        watch.wait([id])
        alone.append(watch.took(id))
        ids = [watch.submit(13, 100, seed, group=number) for seed in range(prompts)]
        watch.wait(seconds=1)
        before = engine.stats().steps
        chat = watch.submit(13, 4)
        watch.wait([chat])
        times.append(watch.took(chat))
        steps.append(engine.stats().steps - before)
        for id in ids:
            engine.cancel(id)
        watch.wait(ids)
    print(
        f"4 tokens beside one request of {prompts} prompts x 100 tokens: "
        f"{statistics.median(times):.2f} s, {statistics.median(steps):.0f} steps; "
        f"alone {statistics.median(alone):.3f} s"
    )


def guessing_streams(model: rn.Model, rounds: int) -> None:
    """Eight equal answers that repeat themselves: how evenly guesses help them."""
    ends = []
    with rn.Engine(model, rn.Tokenizer.world(), speculate=8) as engine:
        for _ in range(rounds):
            watch = Watch(engine)
            biased = rn.Sampling(
                max_tokens=200, end_token_ids=(), temperature=0, logit_bias={100: 1000.0}
            )
            ids = [watch._begin(engine.submit(prompt(8, 0), biased)) for _ in range(8)]
            watch.wait(ids)
            ends.append(sorted(watch.took(id) for id in ids))
    firsts, lasts = (statistics.median(row[i] for row in ends) for i in (0, -1))
    print(f"eight repeating answers with guesses: ended after {firsts:.2f} to {lasts:.2f} s")


def spread(firsts: list[tuple[float, int]]) -> str:
    times, steps = zip(*firsts, strict=True)
    return (
        f"{statistics.median(times):.0f} ms (at most {max(times):.0f}), "
        f"{statistics.median(steps):.0f} steps (at most {max(steps)})"
    )


def run(path: Path, strategy: str, rounds: int) -> None:
    model = rn.Model.open(path, strategy=strategy)
    with rn.Engine(model, rn.Tokenizer.world()) as engine:
        for seed in range(3):  # memory is new, and the engine does not know yet how long steps take
            watch = Watch(engine)
            watch.wait([watch.submit(512, 8, seed)])
        short_beside_long(engine, rounds)
        eight_equal(engine, max(1, rounds // 3))
        chat_beside_texts(engine, max(1, rounds // 2))
        chat_beside_prompts(engine, max(1, rounds // 3))
    guessing_streams(model, max(1, rounds // 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a checkpoint instead of random 0.1B weights")
    parser.add_argument("--strategy", default="cpu bf16")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if args.model:
        run(args.model, args.strategy, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random-0.1b.safetensors"
        random_model.write(path)
        run(path, args.strategy, args.rounds)


if __name__ == "__main__":
    main()
