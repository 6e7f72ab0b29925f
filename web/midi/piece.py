"""A whole piece of music as text, up to the `<end>` that lets the last notes ring and ends them.
Called by the resources and the command that make files of what models and people write.
"""

from __future__ import annotations

from collections.abc import Sequence

import rwkv_native as rn

_START, _END = "<start>", "<end>"

# Family of the models -> the name of their vocabulary.
FAMILIES = {"midi": "default", "midi-piano": "piano"}


def ended(text: str) -> str:
    """With `<end>`, if it is missing. What is before it keeps its position, which errors name."""
    text = text.rstrip()
    return text if text.endswith(_END) else f"{text} {_END}"


def marked(text: str) -> str:
    """With both marks, as RWKV Runner writes a piece down."""
    text = ended(text.strip())
    return text if text.startswith(_START) else f"{_START} {text}"


def composed(tokenizer: rn.Tokenizer, prompt: str | Sequence[int], answer: str) -> str:
    """The notes of a prompt, as the model has understood them, and those of its answer; without the
    word that a stop string has cut."""
    ids = [*(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)]
    return " ".join([_START, *tokenizer.decode(ids + tokenizer.encode(answer)).split(), _END])
