"""What this machine can do at most: GB/s read from memory and fp32 GFLOP/s, measured each time.

`python benchmarks/limits.py [THREADS]` prints them. The other benchmarks call `measure` before and
after their own loops, because a shared machine is another machine every minute.
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
class Limits:
    """Medians of several rounds, and the best round."""

    isa: str
    threads: int
    read_gbs: float
    read_best_gbs: float
    fma_gflops: float
    fma_best_gflops: float

    def __str__(self) -> str:
        return (
            f"limits ({self.isa}, {self.threads} threads): "
            f"read {self.read_gbs:.1f} GB/s (best {self.read_best_gbs:.1f}), "
            f"fp32 multiply-add {self.fma_gflops:.0f} GFLOP/s (best {self.fma_best_gflops:.0f})"
        )


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
    """Runs the native program once (about two seconds)."""
    out = subprocess.run([build(), str(threads)], check=True, capture_output=True, text=True).stdout
    values = json.loads(out)
    return Limits(
        isa=values["isa"],
        threads=threads,
        read_gbs=statistics.median(values["read"]),
        read_best_gbs=max(values["read"]),
        fma_gflops=statistics.median(values["fma"]),
        fma_best_gflops=max(values["fma"]),
    )


if __name__ == "__main__":
    print(measure(int(sys.argv[1]) if len(sys.argv) > 1 else len(os.sched_getaffinity(0))))
