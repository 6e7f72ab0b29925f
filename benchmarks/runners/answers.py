"""How a runner talks to benchmarks/peers.py: a line of JSON in, a line of JSON out.

A runner loads one model and then waits without work, so that two of them can be measured in turns.
Runs in the virtual environments of the peers: nothing but the standard library is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ENOUGH = 8.0

# The answers' own way out: what libraries print to standard output goes to standard error instead.
_out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def say(**what: object) -> None:
    print(json.dumps(what), file=_out, flush=True)


def serve(seconds: float, works: dict[str, Callable[..., dict[str, object]]]) -> None:
    """Says how long loading took, then does what it is asked until the input ends."""
    say(load=seconds)
    works = {"memory": memory, **works}
    for line in sys.stdin:
        asked = json.loads(line)
        say(**works[asked.pop("do")](**asked))


def memory() -> dict[str, object]:
    """MB of this process: resident at most, and anonymous now (without mapped files)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    rows = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "anonymous": "RssAnon"}
    return {ours: int(rows[name].split()[0]) * 1024 / 1e6 for ours, name in names.items()}


def rate(tokens: int, steps: int, step: Callable[[int], object]) -> dict[str, object]:
    """Tokens per second of steps 0, 1, ..., each of so many tokens.

    Ends early after ENOUGH seconds: beside a busy process some engines need minutes.
    """
    start = time.perf_counter()
    for i in range(steps):
        step(i)
        spent = time.perf_counter() - start
        if spent > ENOUGH:
            break
    return {"rate": tokens * (i + 1) / spent}
