"""README.md and docs/ are promises: their examples run as they are printed, but for the port, their
commands parse, their links lead somewhere."""

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

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
# (page, language, text) of each block
BLOCKS = [
    (page, *block)
    for page, text in PAGES.items()
    for block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
]
SHELL = [(page, text) for page, language, text in BLOCKS if not language]
LINES = sorted({line for _, block in SHELL for line in block.splitlines()})


def run_python(code: str, folder: Path) -> str:
    # In a folder of its own, as anybody else would.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(path: str, server: Server, folder: Path) -> bytes:
    """What the first example prints that asks for a path."""
    block = next(text for _, text in SHELL if text.startswith("curl ") and path in text)
    command = block.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_openai_example(server: Server, tmp_path: Path) -> None:
    (code,) = [
        text
        for _, language, text in BLOCKS
        if language == "python" and "OpenAI(" in text and "langchain" not in text
    ]
    code = code.replace("http://127.0.0.1:8000", server.url)
    assert run_python(code, tmp_path).strip()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(text, id=f"{page}-{n}")
        for n, (page, language, text) in enumerate(BLOCKS)
        if language == "python" and "rwkv_native" in text
    ],
)
def test_the_python_examples(code: str, tmp_path: Path) -> None:
    printed = run_python(code, tmp_path)
    assert printed.strip() or "print(" not in code


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example(server: Server, tmp_path: Path) -> None:
    answer = json.loads(curl("/chat/completions", server, tmp_path))
    assert answer["choices"][0]["message"]["content"]
    answer = json.loads(curl("/embeddings", server, tmp_path))
    assert len(answer["data"]) == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(sound.missing(), reason=sound.MISSING)
def test_the_music_example(server: Server, tmp_path: Path) -> None:
    curl("/text-to-wav", server, tmp_path)
    assert (tmp_path / "note.wav").read_bytes().startswith(b"RIFF")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("rwkv-native ")])
def test_commands_parse(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    if words == ["--help"]:
        return
    assert _parser().parse_args(words).run


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page}: {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = re.findall(r"\]\((docs/[^)#]+)", PAGES["README.md"])
    assert {page for page in PAGES if page.startswith("docs/")} == set(reached)


def test_the_tree_names_what_exists() -> None:
    """Two more blanks: within the folder above; there, names of units without their ends."""
    (block,) = [text for _, text in SHELL if text.startswith("native/ ")]
    folders = [ROOT]
    seen = 0
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r" {2,}", line.strip())[0].split()
        del folders[depth + 1 :]
        for name in names:
            seen += 1
            found = [*folders[depth].glob(name.rstrip("/")), *folders[depth].glob(f"{name}.*")]
            assert found, f"{folders[depth] / name} does not exist"
        folders.append(folders[depth] / names[0])
    assert seen > 40


def test_contributing_names_what_exists() -> None:
    """The answers to a stranger's questions."""
    top = {path.name for path in ROOT.iterdir()}
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", PAGES["CONTRIBUTING.md"])
    named = [name for name in named if name.partition("/")[0] in top - {"build"}]
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []
