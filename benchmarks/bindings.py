"""What Python costs on top of the C calls: microseconds per forward, submit and poll.

`python benchmarks/bindings.py` times three callers of the same functions on the smallest possible
model: a C++ program (`native/calls.cpp`), Python through cffi with prepared arguments, and the
public API. The model runs on one thread, so that the arithmetic is a constant few microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import random_model

import rwkv_native as rn
from rwkv_native._ffi import check, ffi, lib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE = HERE / "native" / "calls.cpp"
SHAPE = random_model.Shape(*(1, 64, 64, 256, 64), rank_w=16, rank_a=16, rank_v=16, rank_g=16)
PROMPT = list(range(65, 81))


def in_c(repeats: int) -> dict[str, float] | None:
    """Medians of the C++ caller, or None where `make` has left no library to link with."""
    libraries = sorted(
        (ROOT / "build").glob("cp311-abi3-*/librwkv_engine.a"), key=lambda p: p.stat().st_mtime
    )
    if not libraries:
        return None
    program = ROOT / "build" / "benchmarks" / "calls"
    program.parent.mkdir(parents=True, exist_ok=True)
    compiler = (os.environ.get("CXX") or shutil.which("c++") or "g++").split()
    include = ROOT / "native" / "include"
    command = [*compiler, "-O2", "-std=c++20", f"-I{include}", str(SOURCE), str(libraries[-1])]
    subprocess.run([*command, "-pthread", "-o", str(program)], check=True)
    out = subprocess.run([program, str(repeats)], check=True, capture_output=True, text=True)
    return {name: statistics.median(values) for name, values in json.loads(out.stdout).items()}


def median(
    repeats: int, call: Callable[[], object], after: Callable[[int], None] = lambda i: None
) -> float:
    """Median microseconds of `call`; `after` tidies up and is not timed."""
    times = []
    for i in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
        after(i)
    return statistics.median(times) / 1000


def wait(engine: rn.Engine) -> None:
    select.select([engine.fileno()], [], [], 1)


def drain(engine: rn.Engine, open_requests: int) -> None:
    while open_requests:
        wait(engine)
        open_requests -= sum(e.finish_reason is not None for e in engine.poll())


def bare(model: rn.Model, engine: rn.Engine, repeats: int) -> dict[str, float]:
    """The C calls from Python, with everything prepared that can be."""
    logits = ffi.from_buffer("float[]", np.empty(model.info.vocab, np.float32))
    token = ffi.new("int32_t[]", [1])
    out = ffi.new("rwkv_state **")
    check(lib.rwkv_state_new(out, model._handle))
    state = [out[0]]

    def forward() -> None:
        check(lib.rwkv_state_clone(out, state[0]))
        check(lib.rwkv_model_forward(logits, model._handle, out[0], token, 1, 0))
        lib.rwkv_state_free(state[0])
        state[0] = out[0]

    handle = engine._open()
    request = ffi.new("rwkv_request *")
    lib.rwkv_request_init(request)
    ids = ffi.new("int32_t[]", PROMPT)
    request.tokens, request.n_tokens, request.max_tokens = ids, len(PROMPT), 1
    id_out = ffi.new("uint64_t *")
    events, count = ffi.new("const rwkv_event **"), ffi.new("size_t *")
    result = {"forward": median(repeats, forward)}
    lib.rwkv_state_free(state[0])
    result["submit"] = median(
        repeats,
        lambda: check(lib.rwkv_engine_submit(id_out, handle, request)),
        lambda i: drain(engine, 16) if i % 16 == 15 else None,
    )
    drain(engine, repeats % 16)
    result["poll"] = median(repeats, lambda: check(lib.rwkv_engine_poll(events, count, handle)))
    return result


def public(model: rn.Model, engine: rn.Engine, repeats: int) -> dict[str, float]:
    """The same through the documented API."""
    states = [model.zero_state()]

    def forward() -> None:
        states[0] = model.forward([1], states[0])[1]

    sampling = rn.Sampling(max_tokens=1, seed=1)
    result = {"forward": median(repeats, forward)}
    result["submit"] = median(
        repeats,
        lambda: engine.submit(PROMPT, sampling),
        lambda i: drain(engine, 16) if i % 16 == 15 else None,
    )
    drain(engine, repeats % 16)
    result["poll"] = median(repeats, engine.poll)
    return result


def events_per_poll(engine: rn.Engine, streams: int, tokens: int) -> tuple[float, float]:
    """(microseconds of a poll that brings one event per stream, events it brought), medians."""
    sampling = rn.Sampling(max_tokens=tokens, seed=1, end_token_ids=())
    left = {engine.submit(PROMPT, sampling) for _ in range(streams)}
    times, counts = [], []
    while left:
        wait(engine)
        start = time.perf_counter_ns()
        events = engine.poll()
        spent = time.perf_counter_ns() - start
        left -= {e.id for e in events if e.finish_reason is not None}
        if events:
            times.append(spent / 1000)
            counts.append(len(events))
    return statistics.median(times), statistics.median(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4000)
    repeats = parser.parse_args().repeats
    c = in_c(repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        random_model.write(path, SHAPE)
        model = rn.Model.open(path, strategy="cpu fp32", threads=1)
    with rn.Engine(model, rn.Tokenizer.world_bytes()) as engine:
        public(model, engine, 200)  # warm
        cffi, api = bare(model, engine, repeats), public(model, engine, repeats)
        spent, count = events_per_poll(engine, 32, 200)
    print("| call | from C | cffi | public API | API - cffi | API / cffi |")
    print("|---|---|---|---|---|---|")
    names = {"forward": "forward of 1 token", "submit": "submit, 16 tokens", "poll": "empty poll"}
    for key, name in names.items():
        first = f"{c[key]:.2f}" if c else "-"
        print(
            f"| {name} | {first} | {cffi[key]:.2f} | {api[key]:.2f} "
            f"| {api[key] - cffi[key]:.2f} | {api[key] / cffi[key]:.1f} |"
        )
    print(
        f"\nMicroseconds, medians of {repeats}. A poll that brings {count:.0f} events: "
        f"{spent:.1f} us, {spent / max(count, 1):.2f} us each."
    )
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
