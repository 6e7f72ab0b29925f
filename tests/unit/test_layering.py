"""The table of docs/architecture.md, "The tree", read against every #include and import line.

Dependencies point down only: web -> rwkv_native -> rwkv.h -> src, and inside src each unit may
include what its row names. A new edge is a decision: it changes this table, in the same commit,
with a reason.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "native" / "src"

# Leaves: plain values without behaviour of their own. Every unit above them may include them.
LEAVES = {
    "error",
    "state_layout",
    "weights/change",
    "weights/dtype",
    "weights/gguf_blocks",
    "weights/half",
    "weights/panels",
    "weights/tensor",
}
# unit -> the units that it may include besides itself and the leaves. A unit is a file without its
# suffix, or the folder for arch/, cpu/ and cuda/.
INCLUDES: dict[str, set[str]] = {
    "error": set(),
    "state_layout": set(),
    "weights/change": set(),
    "weights/dtype": set(),
    "weights/gguf_blocks": set(),
    "weights/half": set(),
    "weights/panels": set(),
    "weights/tensor": set(),
    "weights/tensor_table": set(),
    "weights/quant": set(),
    "text/vocab": set(),
    "text/output": set(),
    "memory/huge_pages": set(),
    "memory/prefault": set(),
    "memory/slab": {"memory/huge_pages", "memory/prefault"},
    "backend": {"weights/quant", "cpu"},  # open_backend() alone names the machines
    # Its kernels are compiled with those of the sampler, for one choice of instruction set.
    # It seats a sampler for whoever draws.
    "cpu": {
        "backend",
        "memory/huge_pages",
        "memory/slab",
        "sampling/distribution",
        "sampling/logit_row",
        "sampling/sampler",
        "weights/quant",
    },
    "cuda": {"backend", "weights/quant"},
    "arch": {"backend", "weights/tensor_table"},
    "model/turns": set(),
    "model/strategy": set(),
    "model/model": {
        "arch",
        "backend",
        "model/strategy",
        "model/turns",
        "weights/quant",
        "weights/tensor_table",
    },
    "model/load": {"model/model", "model/strategy", "weights/quant"},
    "model/embedding": {"backend", "model/model"},
    "sampling/logit_row": set(),
    "sampling/distribution": {"sampling/logit_row"},
    "sampling/sampler": {"sampling/distribution"},
    "engine/state_pool": {"backend", "model/model"},
    "engine/prompt_lookup": set(),
    "engine/step_time": set(),
    "engine/sequence": {
        "backend",
        "engine/prompt_lookup",
        "engine/state_pool",
        "sampling/distribution",
        "sampling/sampler",
        "text/output",
        "text/vocab",
    },
    "engine/state_trie": {"backend", "text/vocab"},
    "engine/stats": set(),
    "engine/prefix_cache": {
        "backend",
        "engine/sequence",
        "engine/state_pool",
        "engine/state_trie",
        "engine/stats",
        "model/model",
        "text/vocab",
    },
    "engine/fair_queue": {"engine/sequence"},
    "engine/scheduler": {"engine/fair_queue", "engine/sequence"},
    "engine/followers": {"engine/sequence"},
    "engine/mailbox": {"engine/sequence", "engine/stats"},
    "engine/step": {
        "backend",
        "engine/scheduler",
        "engine/sequence",
        "model/embedding",
        "model/model",
    },
    "engine/engine": {
        "backend",
        "engine/followers",
        "engine/mailbox",
        "engine/prefix_cache",
        "engine/scheduler",
        "engine/sequence",
        "engine/state_pool",
        "engine/stats",
        "engine/step",
        "engine/step_time",
        "memory/slab",
        "model/embedding",
        "model/model",
        "sampling/sampler",
        "text/output",
        "text/vocab",
    },
    "api": {
        "backend",
        "engine/engine",
        "engine/sequence",
        "model/load",
        "model/model",
        "sampling/sampler",
        "text/vocab",
        "weights/quant",
    },
}
# Only these know the C interface: error.h for the status codes, load.h for the rows of an index,
# api.cpp for everything.
KNOWS_C_INTERFACE = {"error", "model/load", "api"}

FORBIDDEN_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "base", "misc"}

# package -> room -> the rooms that its modules may import besides their own. A room is a folder, or
# a module that lies in the package itself; "__init__" is what users import. Imports inside
# functions and under TYPE_CHECKING count, too.
ROOMS: dict[str, dict[str, set[str]]] = {
    "rwkv_native": {
        "errors": set(),
        "printable": set(),
        "_build": set(),  # writes the source of _rn; never imported
        "_ffi": {"errors"},
        "arguments": {"errors"},
        "demo": {"errors"},
        "formats": {"errors", "printable"},
        "checkpoint": {"errors", "formats"},
        "adapters": {"checkpoint", "errors", "formats", "printable"},
        "model_info": {"_ffi"},
        "state": {"_ffi", "checkpoint", "errors", "model_info"},
        "model": {"_ffi", "adapters", "checkpoint", "errors", "model_info", "state"},
        "sampling": {"_ffi", "arguments", "errors"},
        "tokenizers": {"_ffi", "errors", "model", "printable"},
        "engine": {"_ffi", "arguments", "errors", "model", "sampling", "state", "tokenizers"},
        "convert": {"_ffi", "adapters", "checkpoint", "errors", "formats", "tokenizers"},
        "speed": {"_ffi", "engine", "errors", "sampling", "tokenizers"},
        "compat": {"errors", "model", "sampling", "state", "tokenizers"},
        "__init__": {
            "_ffi",
            "adapters",
            "demo",
            "engine",
            "errors",
            "model",
            "model_info",
            "sampling",
            "state",
            "tokenizers",
        },
    },
    # A request's way from top to bottom, and below that what everybody may use.
    "web": {
        "gunicorn.conf": {"config", "dialects", "midi", "process", "transport"},
        "wsgi": {"app", "config", "engine"},
        "cli": {"chat", "config", "engine", "errors", "files", "midi", "schemas", "transport"}
        | {"wsgi"},  # the application that `serve` hands to gunicorn
        "app": {"chat", "config", "dialects", "engine", "errors", "files", "midi", "resources"}
        | {"transport"},
        "resources": {"chat", "config", "dialects", "engine", "errors", "files", "midi", "openapi"}
        | {"process", "sandbox", "schemas", "threadpool", "transport"},
        "openapi": {"engine", "midi", "schemas"},
        "dialects": {"chat", "engine", "errors", "schemas", "transport"},
        "schemas": {"chat", "engine", "errors", "files", "threadpool"},
        "midi": {"admission", "engine", "errors", "files", "sandbox", "threadpool"},
        "chat": {"engine", "errors", "threadpool"},
        "engine": {"admission", "config", "errors", "files", "process", "threadpool", "transport"},
        "files": {"admission", "config", "errors", "sandbox", "threadpool", "transport"},
        "process": {"transport"},
        "sandbox": {"errors", "threadpool", "transport"},
        "transport": {"config", "errors", "threadpool"},
        "admission": {"errors"},
        "errors": set(),
        "config": set(),
        "threadpool": set(),
        "static": set(),  # fetches the browser's libraries; never imported
        "__init__": set(),
    },
}

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
    """native/src/cpu/x.cpp -> cpu, native/src/engine/sequence.cpp -> engine/sequence."""
    relative = path.relative_to(SRC)
    folder = relative.parts[0]
    return folder if folder in {"arch", "cpu", "cuda"} else str(relative.with_suffix(""))


def native_files() -> list[Path]:
    return [p for p in SRC.rglob("*") if p.suffix in {".h", ".cpp", ".inl", ".cu", ".cuh"}]


def native_edges() -> Iterator[tuple[Path, str]]:
    """(file, what it includes) of every #include that names a file of this project."""
    for path in native_files():
        for name in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M):
            quoted = SRC / name if (SRC / name).is_file() else path.parent / name
            if name == "rwkv.h" or quoted.is_file():
                yield path, name


def test_native_units_include_only_what_their_row_names() -> None:
    wrong = []
    edges = 0
    for path, name in native_edges():
        if name == "rwkv.h":
            continue
        target = SRC / name if (SRC / name).is_file() else path.parent / name
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


Module = tuple[str, ...]  # ("web", "cli", "serve"); a package's __init__ is the package itself


def modules_of(package: Path) -> dict[Module, Path]:
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[parts[:-1] if parts[-1] == "__init__" else parts] = path
    return found


def imports_inside(package: Path) -> dict[Module, set[Module]]:
    """The modules of its own package that each module imports, anywhere in its text."""
    modules = modules_of(package)
    graph: dict[Module, set[Module]] = {}
    for module, path in modules.items():
        found: set[Module] = set()
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                found |= {tuple(alias.name.split(".")) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = module if path.stem == "__init__" else module[:-1]
                start = above[: len(above) + 1 - node.level] if node.level else ()
                name = (*start, *(node.module.split(".") if node.module else ()))
                for inner in ((*name, alias.name) for alias in node.names):
                    found.add(inner if inner in modules else name)
        graph[module] = found & modules.keys() - {module}  # the rest is compiled, or not ours
    return graph


def room_of(module: Module) -> str:
    return module[1] if len(module) > 1 else "__init__"


def wrong_edges(
    graph: dict[Module, set[Module]], rooms: dict[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """(importing, imported) of every import that leads to a room that the row does not name."""
    for module, below in graph.items():
        above = room_of(module)
        for other in below:
            if room_of(other) not in rooms.get(above, set()) | {above}:
                yield ".".join(module), ".".join(other)


def check_acyclic(graph: Mapping[Any, Iterable[Any]]) -> None:
    """Raises CycleError, whose second argument is the cycle."""
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_what_their_row_names(package: str) -> None:
    rooms, graph = ROOMS[package], imports_inside(ROOT / package)
    assert {room_of(m) for m in graph} == set(rooms), "a row for every room, a room for every row"
    assert any(graph.values())
    assert not set(wrong_edges(graph, rooms))
    check_acyclic(rooms)


# What is said and computed is so whoever asked, over whatever protocol.
WITHOUT_HTTP = ("admission", "chat", "config", "engine", "errors", "schemas", "threadpool")


@pytest.mark.parametrize("room", WITHOUT_HTTP)
def test_rooms_below_the_edge_know_no_http(room: str) -> None:
    files = [p for m, p in modules_of(ROOT / "web").items() if room_of(m) == room]
    assert files
    assert not [p for p in files if imported(p) & {"falcon", "gunicorn"}]


@pytest.mark.parametrize("package", ROOMS)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    check_acyclic(imports_inside(ROOT / package))


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    house = tmp_path / "house"
    for name, text in {
        "__init__": "from .attic.roof import ROOF",
        "attic/__init__": "",
        "attic/roof": "def build():\n    from house import cellar\n    from .. import porch",
        "attic/window": "from . import roof, name\nfrom .made import x\nimport os, house.cellar",
        "cellar": "import typing\nif typing.TYPE_CHECKING:\n    from .porch import Door",
        "porch": "from .cellar import Wine",
    }.items():
        path = house / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports_inside(house)
    roof, window = ("house", "attic", "roof"), ("house", "attic", "window")
    cellar, porch = ("house", "cellar"), ("house", "porch")
    assert graph == {
        ("house",): {roof},
        ("house", "attic"): set(),
        roof: {cellar, porch},
        window: {("house", "attic"), roof, cellar},
        cellar: {porch},
        porch: {cellar},
    }
    rooms = {"__init__": {"attic"}, "attic": {"cellar"}, "cellar": set(), "porch": {"cellar"}}
    assert set(wrong_edges(graph, rooms)) == {
        ("house.attic.roof", "house.porch"),
        ("house.cellar", "house.porch"),
    }
    with pytest.raises(graphlib.CycleError):
        check_acyclic(graph)


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
