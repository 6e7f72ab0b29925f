"""RWKV Runner's strategies for other backends than the official one, as what they mean on a CPU.

Its desktop client writes them by itself: for GGUF files, WebGPU and "CUDA High Performance". Called
by `resources/runner/switch_model.py`; what it does not know is left to the engine, which has the
grammar of the official package and says what is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# llama.cpp's: where it computes, and the context's length, which RWKV does not bound.
_LLAMA = re.compile(r"(cpu|vulkan)(\s+[0-9]+)?")
# The batching backends: their workers and batch are `--threads` and `--max-batch` here.
_BATCHING = re.compile(r"(albatross|chirrup)(\s+[a-z_]+=\S*)*", re.IGNORECASE)
# web-rwkv's: the type, quantised in the first N layers, and the tokens of one step.
_WEB = re.compile(r"(?:webgpu\s+)?(fp32|fp16|bf16)(i8|i4)?((?:\s+(?:layer|chunk)[0-9]{1,6})*)")
_LAYERS = re.compile(r"layer([0-9]+)")
_QUANTISED_LAYERS = {"i8": 31, "i4": 26}  # where the client does not say how many


@dataclass(frozen=True, slots=True)
class Meant:
    """A strategy for the engine, and a line for the log if it is not the one that was given."""

    strategy: str
    note: str | None = None


def meant(given: str, path: str) -> Meant:
    """What a strategy asks for, for the model at a path."""
    words = given.strip()
    strategy = _equivalent(words, path)
    if strategy is None:
        return Meant(given)
    return Meant(strategy, f"the strategy {words} of RWKV Runner is {strategy} on this CPU")


def _equivalent(words: str, path: str) -> str | None:
    if path.lower().endswith(".gguf") and _LLAMA.fullmatch(words):
        return "auto"
    if _BATCHING.fullmatch(words):
        return "auto"
    web = _WEB.fullmatch(words)
    if web is None:
        return None
    plain, quantised = f"cpu {web[1]}", web[2]
    if quantised is None:
        return plain
    layers = _LAYERS.search(web[3])
    count = _QUANTISED_LAYERS[quantised] if layers is None else int(layers[1])
    return f"{plain}{quantised} *{count} -> {plain}" if count else plain
