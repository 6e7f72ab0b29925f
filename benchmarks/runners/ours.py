"""This project as benchmarks/peers.py measures it: `ours.py MODEL STRATEGY THREADS`."""

from __future__ import annotations

import sys
import time

import answers
import numpy as np

import rwkv_native as rn
from rwkv_native import speed
from rwkv_native._ffi import check, ffi, lib


class Runner:
    """One loaded model, with a state of its own and, once it is asked for, an engine."""

    def __init__(self, model: rn.Model) -> None:
        self._model = model
        self._engine: rn.Engine | None = None
        self._logits = np.empty(model.info.vocab, np.float32)
        self._state = model.zero_state()._handle

    def cost(self) -> dict[str, object]:
        """What a step must read and compute at least."""
        info = self._model.info
        return {
            "weights": info.token_bytes,
            "state": info.state_bytes,
            "token": info.token_flops,
            "head": 2 * info.vocab * info.width,
        }

    def decode(self, batch: int, tokens: int) -> dict[str, object]:
        """One sequence: steps without sampling. Several: the engine, which samples, greedily."""
        if batch == 1:
            self._forward([1, 2])
            return answers.rate(1, tokens, lambda i: self._forward([3 + i]))
        if self._engine is None:
            self._engine = rn.Engine(self._model, rn.Tokenizer.world())
        return {"rate": speed.decode(self._engine, batch, tokens, rn.Sampling(temperature=0))}

    def prefill(self, tokens: int) -> dict[str, object]:
        ids = [1 + 97 * i % 65000 for i in range(tokens)]
        return answers.rate(tokens, 1, lambda _: self._forward(ids))

    def _forward(self, ids: list[int]) -> None:
        """Moves the state on, as llama_decode does: Model.forward would copy it first."""
        out = ffi.from_buffer("float[]", self._logits)
        tokens = ffi.new("int32_t[]", ids)
        check(lib.rwkv_model_forward(out, self._model._handle, self._state, tokens, len(ids), 0))


def main() -> None:
    path, strategy, threads = sys.argv[1:]
    start = time.perf_counter()
    try:
        model = rn.Model.open(path, strategy, int(threads))
    except rn.UnsupportedError as refusal:
        answers.say(refused=str(refusal))
        return
    seconds = time.perf_counter() - start
    runner = Runner(model)
    works = {"cost": runner.cost, "decode": runner.decode, "prefill": runner.prefill}
    answers.serve(seconds, works)


if __name__ == "__main__":
    main()
