"""`rwkv-native info`: what a checkpoint is and needs, from its index alone; and this machine."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from web.cli.terminal import model_path
from web.config import Config

if TYPE_CHECKING:
    from rwkv_native.checkpoint import Checkpoint

SUMMARY = "say what a checkpoint is, without loading it"
EPILOG = ""

# The tensor that tells a generation, newest first. The loader looks closer and has the last word.
_GENERATIONS = (
    ("blocks.0.att.r_k", "7"),
    ("blocks.0.att.time_maa_x", "6"),
    ("blocks.0.att.ln_x.weight", "5"),
    ("blocks.0.att.time_mix_k", "4"),
)
_SUPPORTED = {"7"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", help="checkpoint (default: the demo model)")
    parser.add_argument("--tensors", action="store_true", help="list every tensor, too")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    from rwkv_native import checkpoint

    found = checkpoint.read(model_path(Config.from_environment(model=args.path)))
    facts = describe(found) | _machine()
    if args.tensors:
        facts["tensors"] = {
            t.name: f"{t.dtype} [{', '.join(map(str, t.shape))}]" for t in found.tensors.values()
        }
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                print(f"  {key}: {inner}")
        else:
            print(f"{name.replace('_', ' ') + ':':<20}{value}")
    return 0


def describe(found: Checkpoint) -> dict[str, Any]:
    """Facts that the index holds; sizes that it does not tell are left out."""
    tensors = found.tensors
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    parameters = sum(counts.values())
    version = next((v for name, v in _GENERATIONS if name in tensors), None)
    facts: dict[str, Any] = {
        "file": found.path,
        "file_size": _bytes(Path(found.path).stat().st_size),
        "version": "no RWKV that is known here" if version is None else f"RWKV-{version}",
        "parameters": f"{parameters:,}",
        "types": ", ".join(f"{k} {n / parameters:.1%}" for k, n in sorted(counts.items())),
    }
    if version is not None and version not in _SUPPORTED:
        facts["version"] += " (this version of rwkv-native runs RWKV-7 only)"
    layers = 1 + max((int(m[1]) for n in tensors if (m := _BLOCK.match(n))), default=-1)
    emb = tensors.get("emb.weight")
    if layers and emb is not None and len(emb.shape) == 2:
        vocab, width = emb.shape
        facts |= {"layers": layers, "width": width, "vocabulary": vocab}
        if (key := tensors.get("blocks.0.ffn.key.weight")) is not None:
            facts["ffn"] = key.shape[0]
        if (r_k := tensors.get("blocks.0.att.r_k")) is not None and len(r_k.shape) == 2:
            heads, size = r_k.shape
            facts["heads"] = f"{heads} of {size}"
            # fp32: two rows that shift, and one matrix per head.
            facts["state"] = (
                _bytes(4 * layers * (2 * width + heads * size * size)) + " per sequence"
            )
        # The embedding stays as it is in the file; 16-bit types are never widened in memory.
        facts["memory"] = _bytes(sum(t.nbytes for t in tensors.values())) + " for the weights"
    if found.metadata:
        facts["metadata"] = dict(found.metadata)
    return facts


_BLOCK = re.compile(r"blocks\.(\d{1,6})\.")


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _machine() -> dict[str, str]:
    import rwkv_native as rn

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": f"{len(os.sched_getaffinity(0))} usable cores, kernels for {rn.cpu_isa()}, "
        f"{_bytes(memory)} of memory"
    }
