"""Builds the native tests four ways and lets ctest run them.

plain: every test, once per instruction set of this machine. address: the same under
AddressSanitizer and UndefinedBehaviorSanitizer. thread: the tests of units that share data between
threads, under ThreadSanitizer. aarch64: the tests of the kernels (in soak runs, all) for 64-bit
ARM, where a cross compiler and qemu-user are installed; they show that the numbers are right, and
nothing of how fast they come. The build folders (build/native-*) stay, so that a second run only
compiles what changed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Tests of code that several threads run at once; the others would only make the build longer.
THREADED = re.compile(r"test_(engine|pool|scheduler|api)")
# Tests of what differs between instruction sets: an emulator is slow, and so is a fourth build.
KERNELS = re.compile(r"test_(isa|cpu_(blocks|identity|numbers|products|recurrence))")
TOOLCHAIN = ROOT / "native" / "cmake" / "aarch64.cmake"
SOAK = os.environ.get("RWKV_SOAK") == "1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to build: the sanitizers, their settings, and which tests."""

    name: str
    sanitize: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    tests: re.Pattern[str] = re.compile("test_")
    toolchain: Path | None = None

    def targets(self) -> list[str]:
        stems = sorted(path.stem for path in HERE.glob("test_*.cpp"))
        return [stem for stem in stems if self.tests.match(stem)]


KINDS = [
    Kind("plain"),
    Kind(
        "address",
        "address,undefined",
        {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_stack_use_after_return=1"},
    ),
    Kind("thread", "thread", {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}, THREADED),
    Kind("aarch64", tests=re.compile("test_") if SOAK else KERNELS, toolchain=TOOLCHAIN),
]


def tool(name: str) -> str | None:
    """A build tool of this environment or of the machine."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def world_vocabulary() -> str:
    """The World vocabulary file of the `rwkv` wheel, found without importing it."""
    spec = importlib.util.find_spec("rwkv")
    assert spec and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "rwkv_vocab_v20230424.txt")


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}"
    return done.stdout


def sanitizer_works(kind: Kind, folder: Path) -> bool:
    """Some compilers come without the sanitizers' libraries."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    compiler = os.environ.get("CXX") or "c++"
    command = [*compiler.split(), f"-fsanitize={kind.sanitize}", str(source), "-o", source.stem]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def missing(toolchain: Path) -> list[str]:
    """The programs that a toolchain file asks for and this machine lacks."""
    wanted = re.findall(r"(?:COMPILER|EMULATOR) (\S+?)[ )]", toolchain.read_text())
    assert len(wanted) == 3, wanted
    return [program for program in wanted if shutil.which(program) is None]


def build(kind: Kind, folder: Path) -> list[str]:
    """Configures and compiles; returns the names of the test programs."""
    cmake = tool("cmake")
    assert cmake, "cmake was not found: `make` installs it"
    ninja = tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    # Compiling is most of the time here: -O2 takes 25 s for the AVX-512 kernels under
    # AddressSanitizer, -O1 takes 10 s, and the tests hardly run longer.
    sanitized = ["-DCMAKE_BUILD_TYPE=Sanitize", "-DCMAKE_CXX_FLAGS_SANITIZE=-O1"]
    flags = sanitized if kind.sanitize else []
    if kind.toolchain:
        flags += ["--toolchain", str(kind.toolchain)]
    run(
        [
            cmake,
            *("-S", str(ROOT), "-B", str(folder), *generator, *flags),
            *("-DRWKV_TESTS=ON", "-DRWKV_PYTHON=OFF", f"-DRWKV_SANITIZE={kind.sanitize}"),
        ]
    )
    jobs = str(len(os.sched_getaffinity(0)))
    run([cmake, "--build", str(folder), "--parallel", jobs, "--target", *kind.targets()])
    return kind.targets()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_native(kind: Kind) -> None:
    folder = ROOT / "build" / f"native-{kind.name}"
    if kind.sanitize and not sanitizer_works(kind, folder):
        pytest.skip(f"this compiler cannot link with -fsanitize={kind.sanitize}")
    if kind.toolchain and (programs := missing(kind.toolchain)):
        pytest.skip(f"not installed: {', '.join(programs)}")
    targets = build(kind, folder)
    assert targets
    ctest = tool("ctest")
    assert ctest
    command = [ctest, "--test-dir", str(folder), "--output-on-failure", "-j2"]
    # In neonbf16 is all of neondot.
    isas = "neon(bf16)?$" if kind.toolchain and not SOAK else ""
    command += ["-R", f"^({'|'.join(targets)})\\.{isas}"]
    if kind.sanitize == "thread" and (setarch := shutil.which("setarch")):
        # Older compilers' ThreadSanitizer dies of newer kernels' address space randomisation.
        command = [setarch, "-R", *command]
    scale = "10" if SOAK and not kind.toolchain else "1"
    environment = {"RWKV_WORLD_VOCAB": world_vocabulary(), "RWKV_TEST_SCALE": scale}
    out = run(command, **environment, **kind.environment)
    assert "100% tests passed" in out, out[-4000:]
    # All of them skipped would also be 100 %.
    assert re.search(r"Passed\s", out), out[-4000:]
