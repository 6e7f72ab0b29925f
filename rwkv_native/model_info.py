"""What a loaded model is: its version, sizes and types, and the parts of its states.

Owns ModelInfo and its translation from C. Called by model.py; state.py reads it. Never loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._ffi import check, ffi, lib, text


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is."""

    version: str  #: "4", "5.0", "5.1", "5.2", "6.0", "7", "7a", "7b" or "8rc"
    layers: int  #: L
    width: int  #: D
    heads: int  #: H
    head_size: int  #: N
    ffn: int  #: F, width of the channel mixing
    vocab: int  #: V, rows of the embedding; ids are in [0, V)
    parameters: int
    weight_bytes: int  #: memory that the weights take
    token_bytes: int  #: weight bytes read to decode one token at batch 1
    token_flops: int  #: floating-point operations per token
    int8_weights: int  #: parameters that are kept in int8, in groups of 64 with a scale
    int4_weights: int  #: the same in int4
    state_type: str  #: "fp32", "fp16", "bf16": how states keep the matrices of versions 5 to 7
    state_bytes: int  #: memory that one state takes
    strategy: str  #: what was chosen, e.g. "cpu bf16"
    file_dtype: str  #: "fp32", "fp16", "bf16", "Q4_K"...: the type of most weights in the file
    isa: str  #: instruction set of the CPU kernels, e.g. "avx2"
    threads: int
    path: str
    metadata: Mapping[str, str] = field(default_factory=dict)  #: of .safetensors, GGUF and folders
    context_length: int | None = None  #: tokens of the texts it was trained on, where that is told


def described(
    handle: Any, path: str, metadata: Mapping[str, str], context_length: int | None
) -> ModelInfo:
    """What C says of a model, and what its file says of itself."""
    c = ffi.new("rwkv_model_info *")
    c.size = ffi.sizeof("rwkv_model_info")
    check(lib.rwkv_model_describe(c, handle))
    told = {name: getattr(c, name) for name in _TOLD}
    words = {name: text(value) for name, value in told.items() if isinstance(value, ffi.CData)}
    return ModelInfo(
        **told | words, path=path, metadata=dict(metadata), context_length=context_length
    )


_TOLD = tuple(n for n in ModelInfo.__slots__ if n not in ("path", "metadata", "context_length"))


def state_parts(handle: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parts of a model's states, in C's order."""
    parts: dict[str, tuple[int, ...]] = {}
    part = ffi.new("rwkv_state_part *")
    while lib.rwkv_state_describe(part, handle, len(parts)) == 0:
        parts[text(part.name)] = tuple(part.shape[i] for i in range(part.rank))
    return parts
