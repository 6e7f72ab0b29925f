"""Checkpoints in several files: an index.json that says which tensor lies where, or a folder.

Owns the choice of files inside a folder; a name in an index can mean nothing outside of it. Called
by checkpoint.py, which reads each file that is chosen here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .tensor import Refused

MAX_INDEX = 16 << 20
MAX_FILES = 1_000
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = {".pth", ".safetensors", ".st", ".gguf"}
# What trainers leave beside these, or in their place.
ALSO = {".pt", ".ckpt", ".bin"}
# Of ALSO and of SUFFIXES: what never holds a model's weights.
_OTHERS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|random_states|rng_state)([_-]\w*)?\.\w+"
)


def is_of_hub(path: Path) -> bool:
    """Whether a file has the name that HuggingFace gives the weights of a folder."""
    return path.name in (*INDICES, *SINGLES)


def chosen(folder: Path) -> Path:
    """The file or index that a folder means."""
    for name in (*INDICES, *SINGLES):
        if (folder / name).is_file():
            return folder / name
    files: list[Path] = []
    for suffixes in (SUFFIXES, ALSO):
        found = (p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())
        files = files or sorted(p for p in found if not _OTHERS.fullmatch(p.name))
    if len(files) == 1:
        return files[0]
    held = f"{len(files)} checkpoints; name one" if files else "no checkpoint in it"
    raise Refused(f"is a folder with {held} (an index or {SINGLES[0]} would be taken)")


def shards(raw: bytes) -> dict[str, set[str]]:
    """Which tensors an index.json expects in which file. The files lie beside the index."""
    if len(raw) > MAX_INDEX:
        raise Refused(f"is an index of more than {MAX_INDEX} bytes")
    found: Any = None
    try:
        found = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise Refused("is nested too deeply for an index of tensors") from None
    except ValueError as error:
        raise Refused(f"is not valid JSON: {error}") from None
    names = found.get("weight_map") if type(found) is dict else None
    if type(names) is not dict or not names:
        raise Refused("is JSON without a weight_map, so no index of tensors")
    files: dict[str, set[str]] = {}
    for name, file in names.items():
        # A plain name: no path, no parent, nothing hidden, nothing that C or a terminal misreads.
        plain = type(file) is str and 0 < len(file) <= 255 and file.isprintable()
        if not plain or "/" in file or "\\" in file or file.startswith("."):
            raise Refused(f"places {name[:80]!a} in {str(file)[:80]!a}, which is no file name")
        files.setdefault(file, set()).add(name)
    if len(files) > MAX_FILES:
        raise Refused(f"names more than {MAX_FILES} files")
    return files
