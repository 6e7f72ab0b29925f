"""POST /completions: the request as one value. Called by `resources/openai/completions.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from web.engine.requests import Prompt, SamplingOptions
from web.schemas.fields import TOKEN_ID, Fields
from web.schemas.sampling import StreamFields, form_of, sampling_of, stream_of

# Its shape, for /openapi.json.
PROMPT = {
    "description": "A text, token ids, or several of either, which run side by side. "
    "文本、token 数组，或它们的数组。",
    "type": ["string", "array", "null"],
    "items": {
        "anyOf": [{"type": "string"}, TOKEN_ID, {"type": "array", "items": TOKEN_ID}],
    },
}

MOST_TEXTS = 2048  # of one request, as OpenAI takes to be embedded

_PIECE = 1 << 14  # ids that are checked at a time, so that the hub can run in between

# RWKV has no token for "start of text": what OpenAI means by an empty prompt is one new line here.
EMPTY = "\n"


# What an answer may be: text, or the file that a music model's text stands for.
FORMS = ("text", "midi", "wav")


class CompletionRequest(msgspec.Struct, frozen=True):
    prompts: list[Prompt]
    sampling: SamplingOptions
    stream: StreamFields
    echo: bool = False  # the answer begins with its prompt
    form: str = "text"  # one of FORMS


def completion_request(fields: Fields) -> CompletionRequest:
    """Reads the request; every error names its field."""
    if fields.text("suffix"):
        raise fields.refuse("suffix", "is not supported")
    wanted = fields.raw("logprobs")
    if wanted is not None and wanted is not False:  # 0 asks for those of the drawn tokens
        raise fields.refuse("logprobs", "is not supported yet")
    fields.text("model")
    form, stream, prompts = form_of(fields, FORMS), stream_of(fields), _prompts(fields)
    if form != "text" and stream.stream:
        raise fields.wrong("stream", f"must be false if response_format is {form}")
    if form != "text" and len(prompts) != 1:
        raise fields.wrong("prompt", f"must be one prompt if response_format is {form}")
    echo = fields.boolean("echo")
    return CompletionRequest(
        prompts,
        sampling_of(fields, FORMS),
        stream,
        form != "text" if echo is None else echo,
        form,
    )


def _prompts(fields: Fields) -> list[Prompt]:
    """A string, token ids, or an array of either."""
    if not fields.has("prompt"):
        raise fields.wrong("prompt", "is required")
    prompts = [""] if fields.raw("prompt") is None else texts_of(fields, "prompt")
    return [one if len(one) else EMPTY for one in prompts]


def texts_of(fields: Fields, field: str) -> list[Prompt]:
    """Any of them may be empty. 400 for more than OpenAI's API takes in one request."""
    value = fields.raw(field)
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if (ids := token_ids(value)) is not None:
            return [ids]
        texts = [one if isinstance(one, str) else token_ids(one) for one in value]
        if all(one is not None for one in texts):
            if len(texts) > MOST_TEXTS:
                raise fields.wrong(field, f"has too many texts: {len(texts)}, limit {MOST_TEXTS}")
            return texts
    raise fields.wrong(field, "must be a string, an array of token ids, or an array of those")


def token_ids(value: Any) -> list[int] | np.ndarray | None:
    """A list of token ids, as an array if it is long; None if it is something else."""
    if not isinstance(value, list):
        return None
    array = np.empty(len(value), np.int32) if len(value) > _PIECE else None
    for i in range(0, len(value), _PIECE):
        piece = value[i : i + _PIECE]
        if set(map(type, piece)) != {int} or min(piece) < 0 or max(piece) >= 2**31:
            return None
        if array is not None:
            array[i : i + len(piece)] = piece
    return value if array is None else array
