"""README.md is a promise: its examples run as they are printed, but for the port."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT, Server

from web.cli import _parser
from web.midi import sound

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if not language]
LINES = [line for block in SHELL for line in block.splitlines()]


def run_python(code: str, folder: Path) -> str:
    # In a folder of its own, as anybody else would.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_openai_example(server: Server, tmp_path: Path) -> None:
    (code,) = [block for block in PYTHON if "OpenAI(" in block]
    code = code.replace("http://127.0.0.1:8000", server.url)
    assert run_python(code, tmp_path).strip()


def test_the_python_example(tmp_path: Path) -> None:
    (code,) = [block for block in PYTHON if "import rwkv_native" in block]
    assert run_python(code, tmp_path).strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example(server: Server) -> None:
    (block,) = [block for block in SHELL if block.startswith("curl ") and "/chat/" in block]
    command = block.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"], done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(sound.missing(), reason=sound.MISSING)
def test_the_music_example(server: Server, tmp_path: Path) -> None:
    (block,) = [block for block in SHELL if block.startswith("curl ") and "/text-to-wav" in block]
    command = block.replace("http://127.0.0.1:8000", server.url)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60)
    assert (tmp_path / "note.wav").read_bytes().startswith(b"RIFF")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("rwkv-native ")])
def test_commands_parse(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    assert _parser().parse_args(words).run


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_tree_names_what_exists() -> None:
    (block,) = [block for block in SHELL if block.startswith("native/ ")]
    folder = ROOT
    seen = 0
    for line in block.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = ROOT / names[0] if len(names) == 1 else ROOT
        for name in names:
            path = (ROOT if not line.startswith(" ") else folder) / name
            seen += 1
            assert list(path.parent.glob(path.name.rstrip("/"))), f"{path} does not exist"
    assert seen > 30
