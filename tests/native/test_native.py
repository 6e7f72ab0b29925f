"""Builds the native tests four ways and lets ctest run them.

plain: every test, on the engine that the package was built with; what differs between instruction
sets once for each that this machine has. thread: the tests of units that share data between
threads, under ThreadSanitizer. In soak runs every test runs on every instruction set, and there
are two more, address: all under AddressSanitizer and UndefinedBehaviorSanitizer; and aarch64: all
for 64-bit ARM, where a cross compiler and qemu-user are installed; they show that the numbers are
right, and nothing of how fast they come. `native_builds.py` says how they are compiled.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from native_builds import KINDS, SOAK, Kind, reason_to_skip, run, tool


def world_vocabulary() -> str:
    """The World vocabulary file of the `rwkv` wheel, found without importing it."""
    spec = importlib.util.find_spec("rwkv")
    assert spec and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "rwkv_vocab_v20230424.txt")


@pytest.mark.timeout(7200 if SOAK else 1500)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            id=kind.name,
            marks=[pytest.mark.compiled(kind), *([pytest.mark.soak] if kind.soak else [])],
        )
        for kind in KINDS
    ],
)
def test_native(kind: Kind, compiled: Callable[[Kind], None]) -> None:
    if reason := reason_to_skip(kind):
        pytest.skip(reason)
    compiled(kind)
    ctest = tool("ctest")
    assert ctest
    command = [ctest, "--test-dir", str(kind.folder), "--output-on-failure", "-j2"]
    command += ["-R", kind.chosen()]
    if kind.sanitize == "thread" and (setarch := shutil.which("setarch")):
        # Older compilers' ThreadSanitizer dies of newer kernels' address space randomisation.
        command = [setarch, "-R", *command]
    scale = "10" if SOAK and not kind.toolchain else "1"
    environment = {"RWKV_WORLD_VOCAB": world_vocabulary(), "RWKV_TEST_SCALE": scale}
    out = run(command, **environment, **kind.environment)
    assert "100% tests passed" in out, out[-4000:]
    # All of them skipped would also be 100 %.
    assert re.search(r"Passed\s", out), out[-4000:]
