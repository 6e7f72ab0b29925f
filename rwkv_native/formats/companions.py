"""What lies beside the weights in a folder of HuggingFace's kind: config.json, the chat template.

Owns which of their statements count: the kind of model, the length of text it was trained on, a
first norm that is folded into the embedding, whether it thinks. A file that is not there, or cannot
be read, says nothing. Called by checkpoint.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import foreign

MAX_BYTES = 16 << 20
MAX_CONTEXT = 1 << 30
# What names say: `ctx4096`, `ctx25600`, `ctx16k`.
_CONTEXT = re.compile(r"(?<![a-z0-9])ctx_?(\d{1,9})(k?)(?![a-z0-9])", re.IGNORECASE)
_CONTEXT_KEYS = ("context_length", "max_position_embeddings")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Companions:
    """Statements of the files beside a checkpoint; None where there is none."""

    model_type: str | None = None
    context_length: int | None = None  # tokens
    folded: bool | None = None  # the norm before block 0 is part of the embedding
    thinks: bool | None = None  # whether the chat template knows <think>; None: there is none
    refusal: str | None = None  # why the weights beside them are not read

    @property
    def metadata(self) -> dict[str, str]:
        """What users are shown and copies keep."""
        found = {}
        if self.model_type is not None:
            found["config.model_type"] = self.model_type
        if self.thinks is not None:
            found["rwkv.thinks"] = "yes" if self.thinks else "no"
        return found


def read(folder: Path) -> Companions:
    """What the files of a folder say. Raises nothing."""
    config = _object(folder / "config.json")
    kind, folded = config.get("model_type"), config.get("embedding_layer_norm_fused")
    lengths = (config.get(key) for key in _CONTEXT_KEYS)
    return Companions(
        model_type=kind if type(kind) is str and len(kind) < 100 else None,
        context_length=next((n for n in lengths if _is_length(n)), None),
        folded=folded if type(folded) is bool else None,
        thinks=_thinks(folder),
        refusal=foreign.of_config(config),
    )


def context_in(name: str) -> int | None:
    """The length of text, in tokens, that the name of a file or folder gives."""
    found = _CONTEXT.search(name)
    length = int(found[1]) * (1024 if found[2] else 1) if found else 0
    return length if _is_length(length) else None


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_CONTEXT


def _thinks(folder: Path) -> bool | None:
    """By the first chat template that there is."""
    for name in _TEMPLATES:
        path = folder / name
        if path.suffix == ".jinja":
            template: Any = _text(path)
        else:
            template = _object(path).get("chat_template")
            if type(template) is list:  # several of them, each with its name
                template = "".join(str(t.get("template")) for t in template if type(t) is dict)
        if type(template) is str and template:
            return "<think" in template
    return None


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return ""
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError):
        return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if type(found) is dict else {}
