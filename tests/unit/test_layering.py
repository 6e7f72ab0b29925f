"""The table of the house (README, "The tree"), read against every #include and import line.

Dependencies point down only: web -> rwkv_native -> rwkv.h -> src, and inside src each unit may
include what its row names. A new edge is a decision: it changes this table, in the same commit,
with a reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "native" / "src"

# Leaves: plain values without behaviour of their own. Every unit above them may include them.
LEAVES = {"change", "error", "gguf_blocks", "half", "state_layout", "tensor"}
# unit -> the units that it may include besides itself and the leaves. A unit is a file's stem, or
# the folder for arch/, cpu/ and cuda/.
INCLUDES: dict[str, set[str]] = {
    "change": set(),
    "error": set(),
    "gguf_blocks": set(),
    "half": set(),
    "state_layout": set(),
    "tensor": set(),
    "vocab": set(),
    "quant": set(),
    "backend": {"quant", "cpu"},  # open_backend() alone names the machines
    "cpu": {"backend", "quant", "slab"},
    "cuda": {"backend", "quant"},
    "tensor_table": set(),
    "strategy": set(),
    "arch": {"backend", "tensor_table"},
    "turns": set(),
    "model": {"arch", "backend", "quant", "strategy", "tensor_table", "turns"},
    "logit_row": {"backend"},  # for the instruction set, which is chosen once
    "distribution": {"logit_row"},
    "sampler": {"distribution"},
    "output": set(),
    "load": {"model", "quant", "strategy"},
    "draft": set(),
    "embedding": {"backend", "model"},
    "sequence": {"backend", "draft", "output", "sampler", "vocab"},
    "forerunner": set(),
    "slab": {"forerunner"},
    "state_cache": {"slab", "vocab"},
    "pace": set(),
    "waiting": {"sequence"},
    "scheduler": {"sequence", "waiting"},
    "keeper": {"backend", "model", "sequence", "state_cache", "vocab"},
    "engine": {
        "backend",
        "embedding",
        "keeper",
        "model",
        "output",
        "pace",
        "sampler",
        "scheduler",
        "sequence",
        "slab",
        "vocab",
    },
    "api": {"backend", "engine", "load", "model", "quant", "sampler", "sequence", "vocab"},
}
# Only these know the C interface: error.h for the status codes, load.h for the rows of an index,
# api.cpp for everything.
KNOWS_C_INTERFACE = {"error", "load", "api"}

FORBIDDEN_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "base", "misc"}

# Top-level Python modules that each package may import besides the standard library and itself.
IMPORTS: dict[str, set[str]] = {
    "rwkv_native": {"cffi", "numpy", "tokenizers"},
    "web": {
        "rwkv_native",
        "cachetools",
        "falcon",
        "fluidsynth",
        "gevent",
        "gunicorn",
        "mido",
        "msgspec",
        "numpy",
        "prometheus_client",
        "pypdf",
    },
    # Its runners are where the peers are imported, in environments of their own.
    "benchmarks": {
        *("rwkv_native", "web", "numpy", "llama_cpp", "pyrwkv_tokenizer", "rwkv", "torch"),
        *("answers", "limits", "load", "random_model", "server", "sides", "text"),
    },
}


def unit_of(path: Path) -> str:
    """native/src/cpu/x.cpp -> cpu, native/src/engine.cpp -> engine."""
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def native_files() -> list[Path]:
    return [p for p in SRC.rglob("*") if p.suffix in {".h", ".cpp", ".inl", ".cu", ".cuh"}]


def native_edges() -> Iterator[tuple[Path, str]]:
    """(file, what it includes) of every #include that names a file of this project."""
    for path in native_files():
        for name in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M):
            quoted = SRC / name if (SRC / name).exists() else path.parent / name
            if name == "rwkv.h" or quoted.exists():
                yield path, name


def test_native_units_include_only_what_their_row_names() -> None:
    wrong = []
    edges = 0
    for path, name in native_edges():
        if name == "rwkv.h":
            continue
        target = SRC / name if (SRC / name).exists() else path.parent / name
        above, below = unit_of(path), unit_of(target.resolve())
        edges += 1
        allowed = INCLUDES.get(above, set()) | LEAVES | {above}
        if below not in allowed:
            wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert edges > 0
    assert not wrong, "\n".join(wrong)


def test_every_native_unit_has_a_row() -> None:
    assert {unit_of(p) for p in native_files()} <= set(INCLUDES)


def test_the_table_has_no_cycle() -> None:
    def reach(unit: str, path: tuple[str, ...]) -> None:
        assert unit not in path, " -> ".join([*path, unit])
        for below in INCLUDES[unit]:
            # The backend names its machines when it opens one; that file is backend.cpp alone.
            if (unit, below) != ("backend", "cpu"):
                reach(below, (*path, unit))

    for unit in INCLUDES:
        reach(unit, ())


def test_the_backend_header_knows_no_machine() -> None:
    assert not re.search(r'#\s*include\s*"(cpu|cuda)/', (SRC / "backend.h").read_text())


def test_only_the_edge_knows_the_c_interface() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path, name in native_edges()
        if name == "rwkv.h" and unit_of(path) not in KNOWS_C_INTERFACE
    ]
    assert not wrong


def test_native_code_knows_nothing_of_python() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in [*native_files(), ROOT / "native" / "include" / "rwkv.h"]
        if re.search(r"Python\.h|PyObject", path.read_text())
    ]
    assert not wrong


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", IMPORTS)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    allowed = IMPORTS[package] | {package} | set(sys.stdlib_module_names)
    wrong = {
        str(path.relative_to(ROOT)): extra for path in files if (extra := imported(path) - allowed)
    }
    assert not wrong


def test_files_are_named_by_the_noun_they_own() -> None:
    # Ours end where build output and foreign files begin.
    files = [
        path
        for folder in ("native", "rwkv_native", "web", "tests", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert files
    assert not [p for p in files if FORBIDDEN_NAMES & {p.stem, p.parent.name}]
