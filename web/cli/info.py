"""`rwkv-native info`: what a checkpoint is and needs, from its index alone; and this machine."""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from web.cli.terminal import model_path
from web.config import Config

if TYPE_CHECKING:
    from rwkv_native.checkpoint import Checkpoint

SUMMARY = "describe a checkpoint without loading it"
EPILOG = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", help="checkpoint or folder of one (default: the demo model)"
    )
    parser.add_argument("--tensors", action="store_true", help="list the tensors as well")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with sizes in bytes"
    )


def run(args: argparse.Namespace) -> int:
    from rwkv_native import checkpoint

    found = checkpoint.read(model_path(Config.from_environment(model=args.path)))
    facts = describe(found) | _machine()
    if args.tensors:
        facts["tensors"] = {
            t.name: {"dtype": t.dtype, "shape": list(t.shape)} for t in found.tensors.values()
        }
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    for name, value in _in_words(facts).items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                print(f"  {key}: {inner}")
        else:
            print(f"{name.replace('_', ' ') + ':':<20}{value}")
    return 0


def describe(found: Checkpoint) -> dict[str, Any]:
    """Facts that the index holds, sizes in bytes; what it does not tell is left out."""
    from rwkv_native.formats.layouts import OFFICIAL
    from rwkv_native.formats.safetensors import PACKED_KEY
    from rwkv_native.formats.tensor import nbytes_of

    tensors = found.tensors
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    parameters = sum(counts.values())
    files = {t.path for t in tensors.values()}
    layout = "" if found.layout == OFFICIAL else f", names of {found.layout}"
    facts: dict[str, Any] = {
        "file": found.path,
        "format": found.format + layout,
        "file_size": sum(Path(f).stat().st_size for f in files),
        "version": _version(found),
        "parameters": parameters,
        "types": dict(sorted(counts.items())),  # numbers of each type
    }
    layers = 1 + max((int(m[1]) for n in tensors if (m := _BLOCK.match(n))), default=-1)
    emb = tensors.get("emb.weight")
    if layers and emb is not None and len(emb.shape) == 2:
        vocab, width = emb.shape
        facts |= {"layers": layers, "width": width, "vocabulary": vocab}
        if (key := tensors.get("blocks.0.ffn.key.weight")) is not None:
            facts["ffn"] = key.shape[0]
        floats = 5 * width  # version 4: rows that shift, and the sums of its recurrence
        if (heads := _heads(found)) is not None:
            facts["heads"], facts["head_size"] = heads
            floats = 2 * width + heads[0] * heads[1] * heads[1]
        if heads is not None or found.version == "4":
            facts["state_bytes"] = 4 * layers * floats  # of one sequence, in fp32
        # The embedding stays as it is in the file; 16-bit types are never widened in memory.
        facts["weight_bytes"] = sum(nbytes_of(t.dtype, t.count) for t in tensors.values())
        facts["tokenizer"] = _tokenizer(found, vocab)
    # The table of packed matrices is the container's; what it says is among the types and tensors.
    if metadata := {k: v for k, v in found.metadata.items() if k != PACKED_KEY}:
        facts["metadata"] = metadata
    return facts


def _version(found: Checkpoint) -> str:
    if found.version is not None:
        return f"RWKV-{found.version}"
    if (kind := found.metadata.get("rwkv.kind")) == "state":
        return f"none: a state of RWKV-{found.metadata.get('rwkv.version', '?')}"
    if kind == "tuned-state" or all(n.endswith(".att.time_state") for n in found.tensors):
        return "none: a tuned state"
    return "no RWKV that is known here"


def _heads(found: Checkpoint) -> tuple[int, int] | None:
    """(number, size) of the heads, where the version has them and the shapes tell them."""
    tensors, version = found.tensors, found.version or "4"
    if version == "4":
        return None
    name = {"5": "time_decay", "6": "time_faaaa"}.get(version[0], "r_k")
    tensor, key = (tensors.get(f"blocks.0.att.{n}") for n in (name, "key.weight"))
    if tensor is None or key is None:
        return None
    if version in ("5.0", "5.1"):  # one number per head
        return tensor.count, key.shape[0] // tensor.count
    return (tensor.shape[0], tensor.shape[1]) if len(tensor.shape) == 2 else None


@dataclass(frozen=True, slots=True)
class _Unloaded:
    """As much of a model as the choice of a tokenizer looks at."""

    info: SimpleNamespace
    tokenizer_tokens: list[bytes] | None


def _tokenizer(found: Checkpoint, vocab: int) -> str:
    import rwkv_native as rn

    facts = SimpleNamespace(vocab=vocab, metadata=found.metadata, path=found.path)
    try:
        name = rn.Tokenizer.for_model(_Unloaded(facts, found.tokenizer_tokens)).name
    except rn.Error as problem:
        return f"unknown: {problem}"
    tokens = found.tokenizer_tokens
    return name if tokens is None else f"{name}, {len(tokens)} ids from the file"


_BLOCK = re.compile(r"blocks\.(\d{1,6})\.")


def _bytes(count: int) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _machine() -> dict[str, Any]:
    import rwkv_native as rn

    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "isa": rn.cpu_isa(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        }
    }


def _in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """The same for a person."""
    words: dict[str, Any] = {}
    for name, value in facts.items():
        match name:
            case "file_size":
                words[name] = _bytes(value)
            case "parameters":
                words[name] = f"{value:,}"
            case "types":
                total = max(facts["parameters"], 1)
                words[name] = ", ".join(f"{k} {n / total:.1%}" for k, n in value.items())
            case "heads":
                words[name] = f"{value} of {facts['head_size']}"
            case "head_size":
                pass
            case "state_bytes":
                words["state"] = f"{_bytes(value)} per sequence"
            case "weight_bytes":
                words["memory"] = f"{_bytes(value)} for the weights"
            case "tensors":
                words[name] = {
                    key: f"{one['dtype']} [{', '.join(map(str, one['shape']))}]"
                    for key, one in value.items()
                }
            case "machine":
                words[name] = (
                    f"{value['cores']} usable cores, kernels for {value['isa']}, "
                    f"{_bytes(value['memory_bytes'])} of memory"
                )
            case _:
                words[name] = value
    return words
