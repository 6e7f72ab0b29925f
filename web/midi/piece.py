"""A whole piece of music as text, up to the `<end>` that lets the last notes ring and ends them.
Called by the resources and the command that make files of what models and people write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import rwkv_native as rn
from rwkv_native.tokenizers.vocabularies import PAD
from web.midi.writer import shown

_START, _END = "<start>", "<end>"
_WORD = re.compile(r"\S+")

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


def is_silent(text: str) -> bool:
    """Whether a text that has been converted strikes no note."""
    words = (word for word in text.split() if ":" in word and not word.startswith("<"))
    return not any(int(word.rpartition(":")[2], 16) for word in words)


def foreign_word(tokenizer: rn.Tokenizer, prompt: str) -> str | None:
    """What is wrong with the first word that a model of MIDI tokens does not know, if there is one.
    It would read it as <pad>, which ends a piece."""
    ids = tokenizer.encode(prompt)
    for count, (found, id) in enumerate(zip(_WORD.finditer(prompt), ids, strict=True), 1):
        if id == PAD and found[0].lower() != "<pad>":
            return (
                f"token {count}, {shown(found[0])} at character {found.start()}, is none of the"
                " model's: notes as instrument:note:velocity in hexadecimal, waits from t1 to"
                " t125, <start>, <end> and <pad>"
            )
    return None


def composed(tokenizer: rn.Tokenizer, prompt: str | Sequence[int], answer: str) -> str:
    """The notes of a prompt, as the model has understood them, and those of its answer; without the
    word that a stop string has cut."""
    ids = [*(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)]
    return " ".join([_START, *tokenizer.decode(ids + tokenizer.encode(answer)).split(), _END])
