"""The official `rwkv` package as benchmarks/peers.py measures it.

`official.py MODEL.pth STRATEGY THREADS`, one sequence at a time.
"""

from __future__ import annotations

import os
import sys
import time

import answers

# The package reads these when it is imported.
os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="1", RWKV_CUDA_ON="0")


def main() -> None:
    path, strategy, threads = sys.argv[1:]
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(int(threads))
    start = time.perf_counter()
    model = RWKV(model=path.removesuffix(".pth"), strategy=strategy)
    seconds = time.perf_counter() - start

    def decode(batch: int, tokens: int) -> dict[str, object]:
        assert batch == 1, "the table asks for no more"
        state = model.forward([1, 2], None)[1]

        def one(i: int) -> None:
            nonlocal state
            state = model.forward([3 + i], state)[1]

        one(-1)
        return answers.rate(1, tokens, one)

    def prefill(tokens: int) -> dict[str, object]:
        ids = [1 + 97 * i % 65000 for i in range(tokens)]
        return answers.rate(tokens, 1, lambda _: model.forward(ids, None))

    answers.serve(seconds, {"decode": decode, "prefill": prefill})


if __name__ == "__main__":
    main()
