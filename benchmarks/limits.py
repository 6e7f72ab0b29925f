"""What this machine can do at most: memory, fp32, bf16 and int8, measured each time.

`python benchmarks/limits.py [THREADS ...]` prints them. The other benchmarks call `measure` before
and after their own loops, because a shared machine is another machine every minute.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "native" / "limits.cpp"
PROGRAM = HERE.parent / "build" / "benchmarks" / "limits"


@dataclass(frozen=True, slots=True)
class Rate:
    """Billions per second, of several rounds."""

    median: float
    best: float


@dataclass(frozen=True, slots=True)
class Limits:
    """GB/s read from memory, and 10^9 operations per second, two for each multiply-add.

    None: the CPU has no such dot product.
    """

    isa: str
    threads: int
    read: Rate
    fma: Rate
    bf16: Rate | None
    int8: Rate | None

    def __str__(self) -> str:
        rows = (
            ("read", self.read, "GB/s"),
            ("fp32 multiply-add", self.fma, "GFLOP/s"),
            ("bf16 dot", self.bf16, "GFLOP/s"),
            ("int8 dot", self.int8, "GOP/s"),
        )
        shown = (
            f"{name} -" if rate is None else f"{name} {rate.median:.4g} {unit} ({rate.best:.4g})"
            for name, rate, unit in rows
        )
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"limits ({self.isa}, {threads}; best in brackets): {', '.join(shown)}"

    def peak(self, strategy: str) -> float:
        """Operations at most with the weights of a strategy: by the CPU's own dot product of that
        type if it has one, else in fp32."""
        own = self.bf16 if strategy.endswith("bf16") else None
        if strategy.endswith(("i8", "i4")):
            own = self.int8
        return (own or self.fma).best


def build() -> Path:
    """Compiles the native program if its source is newer; one file needs no build system."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > SOURCE.stat().st_mtime:
        return PROGRAM
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*compiler.split(), "-O3", "-std=c++20", "-pthread", str(SOURCE), "-o", str(PROGRAM)],
        check=True,
    )
    return PROGRAM


def measure(threads: int) -> Limits:
    """Runs the native program once (about a second)."""
    out = subprocess.run([build(), str(threads)], check=True, capture_output=True, text=True).stdout
    values = json.loads(out)
    rates = {
        name: Rate(statistics.median(values[name]), max(values[name])) if values[name] else None
        for name in ("read", "fma", "bf16", "int8")
    }
    return Limits(values["isa"], threads, **rates)


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ("1", str(len(os.sched_getaffinity(0))))):
        print(measure(count))
