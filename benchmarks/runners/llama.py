"""llama.cpp as benchmarks/peers.py measures it, through llama-cpp-python's C functions.

`llama.py MODEL.gguf THREADS` runs it as llama-bench and llama-batched-bench do: no sampling, one
warm-up before each measurement. `llama.py --quantize IN.gguf OUT.gguf TYPE` writes a file for it.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

import answers
import llama_cpp as c

UBATCH = 512
PROMPT = 16  # tokens of each sequence before a batch decodes


@c.llama_log_callback
def _quiet(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    if level >= 4:  # errors
        sys.stderr.write(text.decode("utf-8", "replace"))


class Runner:
    """One loaded model and a context for each size of batch."""

    def __init__(self, path: str, threads: int) -> None:
        self._model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._threads = threads
        self._contexts = {}
        self._context(1)

    def _context(self, sequences: int) -> c.llama_context_p:
        if sequences not in self._contexts:
            params = c.llama_context_default_params()
            params.n_ctx = 1024 * sequences
            params.n_batch = params.n_ubatch = UBATCH
            params.n_seq_max = sequences
            params.n_threads = params.n_threads_batch = self._threads
            params.no_perf = True
            self._contexts[sequences] = c.llama_init_from_model(self._model, params)
        return self._contexts[sequences]

    def decode(self, batch: int, tokens: int) -> dict[str, object]:
        context = self._context(batch)
        step = c.llama_batch_init(PROMPT * batch, 0, 1)
        rows = [(s, i) for s in range(batch) for i in range(PROMPT)]
        self._clear(context)
        self._run(context, step, rows)

        def one(i: int) -> None:
            self._run(context, step, [(s, PROMPT + 1 + i) for s in range(batch)])

        one(-1)
        found = answers.rate(batch, tokens, one)
        c.llama_batch_free(step)
        return found

    def prefill(self, tokens: int) -> dict[str, object]:
        context = self._context(1)
        step = c.llama_batch_init(tokens, 0, 1)
        rows = [(0, i) for i in range(tokens)]
        self._clear(context)
        found = answers.rate(tokens, 1, lambda _: self._run(context, step, rows))
        c.llama_batch_free(step)
        return found

    def tokenize(self, path: str) -> dict[str, object]:
        """MB/s of llama_tokenize and llama_detokenize, one call each."""
        vocab = c.llama_model_get_vocab(self._model)
        text = Path(path).read_bytes()
        ids, out = (c.llama_token * len(text))(), ctypes.create_string_buffer(2 * len(text))
        start = time.perf_counter()
        count = c.llama_tokenize(vocab, text, len(text), ids, len(text), False, False)
        middle = time.perf_counter()
        c.llama_detokenize(vocab, ids, count, out, len(out), False, False)
        end = time.perf_counter()
        rates = {"encode": len(text) / (middle - start), "decode": len(text) / (end - middle)}
        return {"ids": count, **{name: rate / 1e6 for name, rate in rates.items()}}

    def _clear(self, context: c.llama_context_p) -> None:
        c.llama_memory_clear(c.llama_get_memory(context), True)

    def _run(
        self, context: c.llama_context_p, step: c.llama_batch, rows: list[tuple[int, int]]
    ) -> None:
        """Runs a token for each (sequence, position); every sequence's last one gets its logits."""
        step.n_tokens = len(rows)
        last = dict(rows)
        for i, (sequence, position) in enumerate(rows):
            step.token[i] = 1 + (97 * position + 31 * sequence) % 65000
            step.pos[i] = position
            step.n_seq_id[i] = 1
            step.seq_id[i][0] = sequence
            step.logits[i] = last[sequence] == position
        if status := c.llama_decode(context, step):
            raise SystemExit(f"llama_decode: {status}")
        c.llama_synchronize(context)


def quantize(source: str, target: str, name: str) -> None:
    params = c.llama_model_quantize_default_params()
    params.ftype = getattr(c, f"LLAMA_FTYPE_MOSTLY_{name}")
    if c.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot quantise {source} to {name}")


def main() -> None:
    c.llama_log_set(_quiet, ctypes.c_void_p(0))
    c.llama_backend_init()
    if sys.argv[1] == "--quantize":
        quantize(*sys.argv[2:])
        return
    start = time.perf_counter()
    runner = Runner(sys.argv[1], int(sys.argv[2]))
    seconds = time.perf_counter() - start
    works = {"decode": runner.decode, "prefill": runner.prefill, "tokenize": runner.tokenize}
    answers.serve(seconds, works)


if __name__ == "__main__":
    main()
