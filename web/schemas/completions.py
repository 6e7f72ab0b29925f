"""POST /completions: the request as one value. Called by `resources/completions.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from web.schemas.fields import Fields
from web.schemas.sampling import SamplingFields, StreamFields, sampling_of, stream_of

Prompt = str | list[int]

# RWKV has no token for "start of text": what OpenAI means by an empty prompt is one new line here.
_EMPTY = "\n"


class CompletionRequest(msgspec.Struct, frozen=True):
    prompts: list[Prompt]
    sampling: SamplingFields
    stream: StreamFields


def completion_request(fields: Fields) -> CompletionRequest:
    """Reads the request; every error names its field."""
    if fields.boolean("echo"):
        raise fields.refuse("echo", "is not supported yet")
    if fields.text("suffix"):
        raise fields.refuse("suffix", "is not supported")
    wanted = fields.raw("logprobs")
    if wanted is not None and wanted is not False:  # 0 asks for those of the drawn tokens
        raise fields.refuse("logprobs", "is not supported yet")
    fields.text("model")
    return CompletionRequest(_prompts(fields), sampling_of(fields), stream_of(fields))


def _prompts(fields: Fields) -> list[Prompt]:
    """A string, token ids, or an array of either."""
    if not fields.has("prompt"):
        raise fields.wrong("prompt", "is required")
    value = fields.raw("prompt")
    if value is None or value == []:
        return [_EMPTY]
    if isinstance(value, str):
        return [value or _EMPTY]
    if isinstance(value, list):
        if _are_ids(value):
            return [value]
        if all(isinstance(one, str) or (isinstance(one, list) and _are_ids(one)) for one in value):
            return [one or _EMPTY for one in value]
    raise fields.wrong("prompt", "must be a string, an array of token ids, or an array of those")


def _are_ids(value: list[Any]) -> bool:
    return all(type(one) is int and 0 <= one < 2**31 for one in value)
