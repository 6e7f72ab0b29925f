"""Builds the fuzz targets in C++ for a search, by clang, and runs them. For replay they are
compiled with the native tests.

Called by test_replay.py and test_fuzz.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from native_builds import tool

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.cpp"))
SANITIZERS = "address,undefined"
# The allocator may fail: an absurd size is then an exception, and the claims decide.
ENVIRONMENT = {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "allocator_may_return_null=1"}


def run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
    )


def links(compiler: str, sanitizers: str, folder: Path) -> bool:
    """Some compilers come without the sanitizers' libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "probe.cpp"
    entry = "int main() { return 0; }\n"
    if "fuzzer" in sanitizers:
        entry = 'extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }\n'
    source.write_text(entry)
    flags = [f"-fsanitize={sanitizers}", str(source), "-o", str(folder / "probe")]
    return run([*compiler.split(), *flags], 120).returncode == 0


def build(folder: Path, *settings: str) -> None:
    """Every target, into folder/tests/fuzz."""
    cmake, ninja = tool("cmake"), tool("ninja")
    assert cmake, "cmake was not found: `make` installs it"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    flags = ["-DRWKV_FUZZ=ON", "-DRWKV_PYTHON=OFF", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", *settings]
    jobs = str(len(os.sched_getaffinity(0)))
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), *generator, *flags],
        [cmake, "--build", str(folder), "--parallel", jobs, "--target", *TARGETS],
    ):
        done = run(command, 1400)
        assert done.returncode == 0, done.stdout[-6000:]
