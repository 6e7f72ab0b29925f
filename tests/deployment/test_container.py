"""deploy/Dockerfile: read and, where docker works and all counts are full, built and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT, SOAK, Server, serving

from web.cli import _parser
from web.config import Config

DOCKER = shutil.which("docker")
KNOWN = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}


@pytest.fixture
def stages(deploy: Path) -> list[list[tuple[str, str]]]:
    """(instruction, arguments) of every stage."""
    text = (deploy / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    made: list[list[tuple[str, str]]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        assert word in KNOWN, line
        if word == "FROM":
            made.append([])
        made[-1].append((word, rest.strip()))
    return made


def test_the_image_serves_without_root(stages: list[list[tuple[str, str]]]) -> None:
    _, last = stages
    words = [word for word, _ in last]
    one = dict(last)
    assert one["USER"].isdigit() and int(one["USER"]) > 0  # by number: Kubernetes can check that
    assert "RUN" not in words[words.index("USER") :]
    command = json.loads(one["ENTRYPOINT"])
    assert command[0] == "rwkv-native" and _parser().parse_args(command[1:]).run
    environment = dict(word.split("=", 1) for word in one["ENV"].split())
    config = Config.from_environment(environment)
    assert config.deploy and config.host == "0.0.0.0" and str(config.port) == one["EXPOSE"]


def test_what_is_copied_is_all_that_a_build_needs() -> None:
    """`.dockerignore` may not leave out what the build reads."""
    left_out = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    needed = {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"}
    needed |= {"native", "rwkv_native", "web"}
    assert not needed & left_out and all((ROOT / name).exists() for name in needed)


def test_the_health_check_tells_a_model_from_none(stages: list[list[tuple[str, str]]]) -> None:
    found = re.search(r"CMD (\[.*\])$", dict(stages[-1])["HEALTHCHECK"])
    assert found
    _, option, code = json.loads(found[1])

    def healthy(server: Server) -> bool:
        here = code.replace("http://127.0.0.1:8000", server.url)
        return subprocess.run([sys.executable, option, here], capture_output=True).returncode == 0

    with serving() as server:
        assert healthy(server)
        assert server.post("/switch-model", {"model": None}) == "success"
        assert not healthy(server)


def docker_works() -> bool:
    if DOCKER is None:
        return False
    return subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0


@pytest.mark.skipif(not SOAK, reason="an image takes minutes")
@pytest.mark.timeout(3600)
def test_the_image_is_built(deploy: Path) -> None:
    if not docker_works():
        pytest.skip("docker does not work here")
    assert DOCKER is not None
    name = "rwkv-native:test"
    build = [DOCKER, "build", "--file", deploy / "Dockerfile", "--tag", name, ROOT]
    subprocess.run(build, check=True)
    run = [DOCKER, "run", "--rm", "--read-only", "--entrypoint", "rwkv-native", name, "--version"]
    assert subprocess.run(run, capture_output=True, text=True).stdout.startswith("rwkv-native ")
