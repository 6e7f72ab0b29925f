"""How fast a model runs here: what `rwkv-native bench` and benchmarks/ measure and compare.

Owns the loops that are timed, and no table. Everything is measured as it is used: whole requests
through an Engine, text through a Tokenizer. Times are wall-clock seconds. Never called by a server.
"""

from __future__ import annotations

import select
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ._ffi import check, ffi, float_pointer, id_array, lib
from .engine import Engine, Event
from .errors import InternalError
from .sampling import Sampling, fill
from .tokenizers import Tokenizer

_READ_BYTES = 512 << 20  # far more than caches hold
_CHAT = Sampling(top_p=0.3, seed=1)


def read_bandwidth(threads: int, rounds: int = 7) -> float:
    """GB/s at most that this many threads read from memory, the best of several rounds.

    numpy's maximum of large arrays (in huge pages where the system gives them), one per thread.
    """
    each = max(1, _READ_BYTES // threads // 4)
    parts = [np.ones(each, np.float32) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - start)
    return 4 * each * threads / best / 1e9


def decode(engine: Engine, batch: int, tokens: int, sampling: Sampling = _CHAT) -> float:
    """Tokens per second of `batch` sequences that decode together, `tokens` of each.

    Measured from when all have drawn their first token until the first ends, so
    that no smaller batch counts.
    """
    sampling = replace(sampling, max_tokens=tokens, end_token_ids=())
    vocab = engine.model.info.vocab
    begun = time.perf_counter(), 0
    drawn = {engine.submit([1 + i % (vocab - 1)], sampling): 0 for i in range(batch)}
    together = []  # (time, tokens drawn so far) while all are at work
    running = batch
    for events in _polls(engine):
        now, before = time.perf_counter(), running
        for event in events:
            drawn[event.id] += len(event.token_ids)
            running -= event.finish_reason is not None
        total = sum(drawn.values())
        if before == batch and running in (0, batch) and all(drawn.values()):
            together.append((now, total))
        if running == 0:
            if len(together) < 2:  # so few tokens that the first had ended before the last began
                together = [begun, (now, total)]
            (start, few), (end, many) = together[0], together[-1]
            return (many - few) / (end - start)
    raise AssertionError("unreachable")


def prefill(engine: Engine, tokens: int) -> float:
    """Tokens per second of a prompt of so many tokens, its first answer token included."""
    prompt = np.random.default_rng(2).integers(1, engine.model.info.vocab, tokens, np.int32)
    start = time.perf_counter()
    engine.submit(prompt, Sampling(max_tokens=1, end_token_ids=()))
    for events in _polls(engine):
        if any(event.finish_reason is not None for event in events):
            return tokens / (time.perf_counter() - start)
    raise AssertionError("unreachable")


def _polls(engine: Engine) -> Iterator[list[Event]]:
    """What each poll brings, for ever; raises what went wrong."""
    waiting = select.poll()
    waiting.register(engine.fileno(), select.POLLIN)
    while True:
        waiting.poll()
        events = engine.poll()
        for event in events:
            if event.error is not None:
                raise InternalError(event.error)
        yield events


def tokenizing(tokenizer: Tokenizer, text: str) -> tuple[float, float]:
    """(encode, decode) in MB of UTF-8 per second, between text and an array of ids."""
    size = len(text.encode()) / 1e6
    ids = tokenizer.encode_array(text)
    return (
        size / _median(lambda: tokenizer.encode_array(text)),
        size / _median(lambda: tokenizer.decode(ids)),
    )


def drawing(logits: np.ndarray, sampling: Sampling, drawn: list[int]) -> float:
    """Seconds that the sampler takes for one row of logits, after the tokens `drawn`."""
    keep: list[object] = []
    c, token = ffi.new("rwkv_sampling *"), ffi.new("int32_t *")
    lib.rwkv_sampling_init(c)
    fill(c, sampling, logits.size, keep)
    values, history = float_pointer(logits), id_array("drawn", drawn, logits.size)
    row = (c, values, logits.size, history, len(history), ffi.NULL, 0)
    return _median(lambda: check(lib.rwkv_sampling_probe(ffi.NULL, token, *row)), 101)


def _median(work: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory() -> dict[str, int]:
    """Bytes of this process: "peak" (resident, mapped files included) and "anonymous" (now)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    rows = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "anonymous": "RssAnon"}
    return {ours: 1024 * int(rows[name].split()[0]) for ours, name in names.items()}
