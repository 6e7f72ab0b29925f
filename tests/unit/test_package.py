"""The wheel: what is in it, and that it serves from anywhere, a source checkout included."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from web.transport import static_files

ROOT = Path(__file__).resolve().parents[2]

# Of the browser's libraries: with their licences, where they could be fetched.
FETCHED = [name for name in static_files.files() if name.startswith("vendor/")]


def run(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The build folder of `make` is used again, so that nothing compiles twice.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([sys.executable, "-m", "pip", "wheel", ".", *options, "--wheel-dir", folder])
    (found,) = folder.glob("*.whl")
    return found


def test_name_says_every_python_from_3_11(wheel: Path) -> None:
    assert re.fullmatch(r"rwkv_native-[\d.]+-cp311-abi3-(many)?linux\w*\.whl", wheel.name)


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    for wanted in (
        "rwkv_native/__init__.py",
        "rwkv_native/_rn.abi3.so",
        "rwkv_native/demo/demo.safetensors",
        "rwkv_native/py.typed",
        "web/app.py",
        "web/cli/__init__.py",
        "web/gunicorn.conf.py",
        "web/static/docs.html",
        *(f"web/static/{name}" for name in FETCHED),
    ):
        assert wanted in names
    assert not [n for n in names if n.endswith("package-lock.json")]
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"rwkv_native", "web"}
    assert not [n for n in names if re.search(r"test|\.a$|\.h$|\.cpp$|_build\.py|__pycache__", n)]
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text
    assert wheel.stat().st_size < 12_000_000


def test_the_module_needs_only_the_c_library(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        path = archive.extract("rwkv_native/_rn.abi3.so", tmp_path)
    out = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[([^\]]+)\]", out))
    known = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}
    assert needed and needed <= known


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that holds the wheel, and borrows its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet", "--no-compile"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel])
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # A path in a .pth comes after the environment's own packages, and the .pth files in that folder
    # (such as that of an editable install) are not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "rwkv-native"


def test_serves_from_inside_a_source_checkout(installed: Path) -> None:
    """The current folder is this repository: its packages have no compiled module."""
    process = subprocess.Popen(
        [installed, "serve", "--port", "0"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        url = ""
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"rwkv-native \S+: (http://\S+)", line):
                url = found[1]
            if "ready after" in line:
                break
        assert url, "".join(lines)
        with urllib.request.urlopen(url + "/v1/models", timeout=10) as answer:
            assert json.load(answer)["data"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        maps = Path(f"/proc/{children[0]}/maps").read_text()
        modules = {line.split()[-1] for line in maps.splitlines() if "_rn.abi3.so" in line}
        assert len(modules) == 1
        assert modules.pop().startswith(str(installed.parents[1]))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
