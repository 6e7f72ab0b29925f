"""POST /tokenize and /detokenize: requests and answers. Called by `resources/tokenize.py`."""

from __future__ import annotations

import msgspec

from web.schemas.chat import ChatRequest, chat_request
from web.schemas.completions import EMPTY, token_ids
from web.schemas.fields import Fields


class Tokens(msgspec.Struct, frozen=True):
    """What a model is fed."""

    prompt: str
    tokens: list[int]
    count: int


class Text(msgspec.Struct, frozen=True):
    prompt: str


def tokenize_request(fields: Fields) -> str | ChatRequest:
    """The text of `prompt`, or a conversation with all that /chat/completions takes."""
    if fields.has("messages"):
        if fields.has("prompt"):
            raise fields.wrong("prompt", "must not be given beside messages")
        return chat_request(fields)
    prompt = fields.text("prompt")
    if prompt is None:
        raise fields.wrong("prompt", "is required, or messages")
    return prompt or EMPTY


def detokenize_request(fields: Fields, most: int) -> list[int]:
    ids = fields.items("tokens", most)
    if ids is None:
        raise fields.wrong("tokens", "is required")
    if ids and (ids := token_ids(ids)) is None:
        raise fields.wrong("tokens", "must be an array of token ids")
    return ids
