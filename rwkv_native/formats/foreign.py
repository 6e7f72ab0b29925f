"""Files that are no checkpoint that is read here, and the words that say what they are.

Owns how other formats, quantised forms and architectures are told: by their first bytes, by names
of tensors, by what config.json calls them. Called by checkpoint.py, companions.py, layouts.py and
safetensors.py. Never opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..printable import printable

# How HuggingFace's own and flash-linear-attention's configurations call the RWKVs that are read.
_MODEL_TYPES = re.compile(r"rwkv([4-7]|_?7_?native|_?world)?", re.IGNORECASE)
# RWKV's recurrence inside another model: ARWKV, RWKV6Qwen2, HRWKV7 (hxa079), conversions of Qwen.
_HYBRIDS = re.compile(
    r"rwkv.*(qwen|hybrid|qwerky)|arwkv|hrwkv|hxa079|any.?(to|2).?rwkv|qwerky", re.I
)
_ORIGINAL = "give the checkpoint that it was made of"


def of_bytes(head: bytes) -> str:
    """What a file is whose first 16 bytes no reader knows."""
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://"):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if head.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint: the download went wrong"
    if head.startswith(b"fmgg"):
        return "is an rwkv.cpp .bin file; give the .pth, .safetensors or .gguf file"
    if head.startswith(b"RWKVQ\0"):
        return f"is a .rwkvq file (quantised by rwkv_lightning), which is not read; {_ORIGINAL}"
    return "is neither a .pth nor a .safetensors file, nor a GGUF"


# Endings of names -> what quantises so.
_QUANTISED = {
    "weight_packed": "compressed-tensors",
    "weight_scale": "compressed-tensors or a form of 8 bits",
    "weight_scale_inv": "blocks of fp8",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight.absmax": "bitsandbytes",
    "weight.quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
}


def quantised(names: Iterable[str]) -> str | None:
    """Why the tensors of a file are not read, where their names show a quantised form."""
    for name in names:
        for ending, kind in _QUANTISED.items():
            if name.endswith(f".{ending}"):
                shown = f"{kind} ({printable(name, 80)})"
                return f"is quantised by {shown}, which is not read; {_ORIGINAL}"
    return None


def architecture(names: Iterable[str]) -> str | None:
    """Why the tensors of a file are no RWKV, where their names show another architecture."""
    attention = [name for name in names if ".self_attn." in name]
    if not attention:
        return None
    recurrent = re.compile(r"\.self_attn\.(time_|x_[rwkvag]$|[rwkvag][012]$|r_k|ln_x|receptance)")
    name = next((n for n in attention if recurrent.search(n)), None)
    if name is not None:
        return (
            f"is a hybrid, RWKV's recurrence inside a transformer ({printable(name, 80)}); RWKV"
            " itself is read"
        )
    return f"is a transformer ({printable(attention[0], 80)}), not an RWKV"


def of_config(config: dict[str, Any]) -> str | None:
    """Why a folder with this config.json is not read."""
    kind = config.get("model_type")
    if type(kind) is str and not _MODEL_TYPES.fullmatch(kind):
        what = f"holds a model of the type {printable(kind, 80)!r}"
        if _HYBRIDS.search(kind):
            return f"{what}, a hybrid of RWKV and a transformer; RWKV itself is read"
        return f"{what}, which is no RWKV"
    method = config.get("quantization_config")
    if type(method) is dict:
        name = printable(method.get("quant_method", "something unnamed"), 80)
        return f"is quantised by {name}, which is not read; {_ORIGINAL}"
    return None
