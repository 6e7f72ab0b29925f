"""Coverage-guided fuzzing of every parser, in `make soak` only: RWKV_FUZZ_SECONDS (60) for each.

Those in Python by atheris, in an environment of its own under build/; those in C++ by libFuzzer and
clang, which is installed where that is possible. What reaches something new is kept under
build/fuzz/found, a failing input under build/fuzz/failed; either may be copied into corpus/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import parsers
import pytest

import native

SECONDS = int(os.environ.get("RWKV_FUZZ_SECONDS") or 60)
BUILD = native.ROOT / "build" / "fuzz"
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(os.environ.get("RWKV_SOAK") != "1", reason="`make soak` looks for inputs"),
    pytest.mark.timeout(1500 + 2 * SECONDS),
]


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    return native.run(list(command), 900)


@pytest.fixture(scope="session")
def atheris() -> str:
    """The interpreter of an environment that has atheris and everything that this one has."""
    folder = BUILD / "atheris"
    python = str(folder / "bin" / "python")
    if not Path(python).exists() or attempt(python, "-c", "import atheris").returncode:
        made = attempt(sys.executable, "-m", "venv", str(folder))
        if made.returncode == 0:
            made = attempt(python, "-m", "pip", "install", "--quiet", "atheris")
        if made.returncode:
            pytest.skip(f"atheris cannot be installed: {made.stdout.strip()[-300:]}")
    # pip installs nothing twice: what is here already is found through one line of a .pth.
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = (folder / "lib").glob("python3*/site-packages")
    lines = [str(native.ROOT), *(f"import site; site.addsitedir({path!r})" for path in here)]
    (site / "beside.pth").write_text("\n".join(lines) + "\n")
    return python


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the native targets, built by clang with libFuzzer."""
    folder = BUILD / "native"
    sanitizers = f"{native.SANITIZERS},fuzzer"
    if not (shutil.which("clang++") and native.links("clang++", sanitizers, folder)):
        apt = shutil.which("apt-get")
        if apt is None or os.geteuid() != 0:
            pytest.skip("clang with libFuzzer is missing, and only root can install it")
        attempt(apt, "update")
        # libFuzzer itself is only recommended by Debian's package.
        done = attempt(apt, "install", "-y", "--install-recommends", "clang")
        if done.returncode or not native.links("clang++", sanitizers, folder):
            pytest.skip(f"clang with libFuzzer cannot be installed: {done.stdout.strip()[-300:]}")
    native.build(
        folder,
        *("-DCMAKE_CXX_COMPILER=clang++", "-DCMAKE_C_COMPILER=clang"),
        f"-DRWKV_SANITIZE={sanitizers}-no-link",
    )
    return folder / "tests" / "fuzz"


def search(target: str, *command: str) -> None:
    found, failed = BUILD / "found" / target, BUILD / "failed"
    found.mkdir(parents=True, exist_ok=True)
    failed.mkdir(parents=True, exist_ok=True)
    done = native.run(
        [
            *command,
            *(str(found), str(parsers.CORPUS / target)),
            *(f"-max_total_time={SECONDS}", "-max_len=4096", "-timeout=30", "-rss_limit_mb=2048"),
            *("-print_final_stats=1", f"-artifact_prefix={failed}/{target}-"),
            f"-dict={native.HERE / 'words.dict'}",
        ],
        SECONDS + 300,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    runs = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    reached = re.findall(r"cov: (\d+)", done.stdout)
    assert runs and reached, done.stdout[-2000:]
    print(f"{target}: {runs[1]} inputs in {SECONDS} s, {reached[0]} -> {reached[-1]} edges")
    assert int(runs[1]) > 20 * SECONDS and int(reached[-1]) > 30


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_parsers_in_python(target: str, atheris: str) -> None:
    script = Path(parsers.__file__).with_name("fuzz_checkpoints.py")
    search(target, atheris, str(script), target)


@pytest.mark.parametrize("target", native.TARGETS)
def test_parsers_in_cpp(target: str, programs: Path) -> None:
    search(target, str(programs / target))
