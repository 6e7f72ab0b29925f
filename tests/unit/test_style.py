"""One style for all code: the verdicts of ruff, by pyproject.toml, and of clang-format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CXX_FOLDERS = ("native", "tests/native", "tests/fuzz")


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_clang_format() -> None:
    files = [
        str(path)
        for folder in CXX_FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".cpp", ".h", ".inl"}
    ]
    assert len(files) > 100
    done = subprocess.run(
        [Path(sys.executable).with_name("clang-format"), "--dry-run", "-Werror", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
