"""POST /tokenize and /detokenize: requests and answers. Called by
`resources/server/tokenize.py`."""

from __future__ import annotations

import msgspec

from web.chat.messages import Conversation
from web.schemas.chat import chat_request
from web.schemas.completions import EMPTY, token_ids
from web.schemas.fields import Fields

# What a text is called: here and by vLLM, by llama.cpp, and by others.
TEXTS = ("prompt", "content", "text")


class Tokens(msgspec.Struct, frozen=True):
    """What a model is fed."""

    prompt: str
    tokens: list[int]
    count: int


class Text(msgspec.Struct, frozen=True):
    prompt: str


def tokenize_request(fields: Fields) -> str | Conversation:
    """The text of `prompt`, or a conversation with all that /chat/completions takes."""
    given = [name for name in ("messages", *TEXTS) if fields.has(name)]
    if len(given) > 1:
        raise fields.wrong(given[1], f"must not be combined with {given[0]}")
    if given == ["messages"]:
        return chat_request(fields).conversation
    prompt = fields.text(given[0]) if given else None
    if prompt is None:
        raise fields.wrong(given[0] if given else "prompt", "is required, or messages")
    return prompt or EMPTY


def detokenize_request(fields: Fields, most: int) -> list[int]:
    ids = fields.items("tokens", most)
    if ids is None:
        raise fields.wrong("tokens", "is required")
    if ids and (ids := token_ids(ids)) is None:
        raise fields.wrong("tokens", "must be an array of token ids")
    return ids
