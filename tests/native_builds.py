"""How native tests are compiled: the four kinds of build that `native/test_native.py` lists, each
in a folder of its own (build/native-*) that stays, so that a second run only compiles what changed.

`conftest.py` has them compiled beside the tests that need none, once for all processes that test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import rwkv_native as rn

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "native"
FUZZ = ROOT / "tests" / "fuzz"
# Tests of code that several threads run at once; the others would only make the build longer.
THREADED = re.compile(r"test_(engine|pool|scheduler|state_trie)")
# Tests of what differs between instruction sets.
KERNELS = re.compile(r"test_(isa|cpu_|logit_row|sampler)")
# The package's own build of the engine, where a build folder has one.
PREBUILT = next(ROOT.glob("build/cp311-abi3-*/librwkv_engine.a"), None)
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
    fuzz: bool = False  # with the fuzz targets, for their corpus
    soak: bool = False  # built by `make soak` only

    @property
    def folder(self) -> Path:
        return ROOT / "build" / f"native-{self.name}"

    def targets(self) -> list[str]:
        """The programs that ctest runs."""
        stems = sorted(path.stem for path in TESTS.glob("test_*.cpp"))
        return [stem for stem in stems if self.tests.match(stem)]

    def chosen(self) -> str:
        """A regular expression for ctest's names, TARGET.ISA."""
        everywhere = self.targets()
        if SOAK:
            return rf"^({'|'.join(everywhere)})\."
        kernels = [target for target in everywhere if KERNELS.match(target)] or ["none"]
        return rf"^({'|'.join(kernels)})\.|^({'|'.join(everywhere)})\.{rn.cpu_isa()}$"


KINDS = [
    Kind("plain", fuzz=True),
    Kind(
        "address",
        "address,undefined",
        {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_stack_use_after_return=1"},
        fuzz=True,
        soak=True,
    ),
    Kind("thread", "thread", {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}, THREADED),
    Kind("aarch64", toolchain=TOOLCHAIN, soak=True),
]


def tool(name: str) -> str | None:
    """A build tool of this environment or of the machine."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


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


def reason_to_skip(kind: Kind) -> str | None:
    """Why a kind cannot be built here, if it cannot."""
    if kind.sanitize and not sanitizer_works(kind, kind.folder):
        return f"this compiler cannot link with -fsanitize={kind.sanitize}"
    if kind.toolchain and (programs := missing(kind.toolchain)):
        return f"not installed: {', '.join(programs)}"
    return None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time builds in a folder; the next one finds everything built."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(kind: Kind, *niceness: str) -> None:
    """Configures and compiles the test programs."""
    with alone(kind.folder):
        _build(kind, *niceness)


def _build(kind: Kind, *niceness: str) -> None:
    cmake = tool("cmake")
    assert cmake, "cmake was not found: `make` installs it"
    ninja = tool("ninja")
    flags = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    if kind.sanitize:
        # Compiling is most of the time here: -O1 takes 48 s for the AVX-512 kernels under
        # AddressSanitizer, -O3 more than two minutes, and the tests hardly run longer.
        flags += ["-DCMAKE_BUILD_TYPE=Sanitize", "-DCMAKE_CXX_FLAGS_SANITIZE=-O1"]
        # "plain" has AVX-VNNI as it is; here machines with AVX-512 test what they can of it.
        flags += ["-DRWKV_VNNI_BY_EVEX=ON"]
        # Only the set that `chosen` runs.
        flags += [f"-DRWKV_ISA={'' if SOAK else rn.cpu_isa()}"]
    elif kind.toolchain:
        flags += ["--toolchain", str(kind.toolchain)]
    elif PREBUILT:
        flags += [f"-DRWKV_PREBUILT={PREBUILT}"]
    run(
        [
            *niceness,
            *(cmake, "-S", str(ROOT), "-B", str(kind.folder), *flags),
            *("-DRWKV_TESTS=ON", "-DRWKV_PYTHON=OFF", f"-DRWKV_SANITIZE={kind.sanitize}"),
            f"-DRWKV_FUZZ={'ON' if kind.fuzz else 'OFF'}",
        ]
    )
    jobs = str(len(os.sched_getaffinity(0)))
    targets = kind.targets()
    assert targets
    if kind.fuzz:
        targets += [path.stem for path in FUZZ.glob("fuzz_*.cpp")]
    run([*niceness, cmake, "--build", str(kind.folder), "--parallel", jobs, "--target", *targets])
