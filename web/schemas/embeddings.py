"""POST /embeddings: requests and answers. Called by `resources/openai/embeddings.py`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from web import errors
from web.engine.requests import EmbeddingOptions, Prompt
from web.schemas.completions import texts_of
from web.schemas.fields import TOKEN_ID, Fields
from web.schemas.sampling import refuse_truncation

# The shape of what is embedded, for /openapi.json.
INPUT = {
    "description": "A text, token ids, or several of either; none may be empty. "
    "文本、token 数组，或它们的数组，均不可为空。",
    "type": ["string", "array"],
    "minLength": 1,
    "minItems": 1,
    "items": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            TOKEN_ID,
            {"type": "array", "items": TOKEN_ID, "minItems": 1},
        ],
    },
}
EncodingFormat = Annotated[
    str,
    Meta(
        description="base64: little-endian float32. base64 为小端 float32 的编码。",
        extra_json_schema={"enum": ["float", "base64", None]},
    ),
]
Dimensions = Annotated[
    int,
    Meta(
        ge=1,
        le=4096,  # what the engine takes
        description="Numbers of a vector; the model's width if absent. 向量维数，默认为模型宽度。",
    ),
]
FastMode = Annotated[
    bool,
    Meta(
        description="Vectors of the first layer: cheaper, and to be compared with their like only. "
        "取第一层的向量：更快，只能相互比较。"
    ),
]


class EmbeddingFields(msgspec.Struct, frozen=True):
    """What is asked of every text of a request, as it is on the wire."""

    encoding_format: EncodingFormat | None = None
    dimensions: Dimensions | None = None
    fast_mode: FastMode | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True):
    inputs: list[Prompt]
    options: EmbeddingOptions
    packed: bool  # as base64


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding_request(fields: Fields) -> EmbeddingRequest:
    """Reads the request; every error names its field."""
    fields.text("model")
    refuse_truncation(fields)
    given = fields.plain(EmbeddingFields, "encoding_format", "dimensions", "fast_mode")
    if given["encoding_format"] not in (None, "float", "base64"):
        raise fields.wrong("encoding_format", "must be float or base64")
    options = EmbeddingOptions(given["dimensions"], bool(given["fast_mode"]))
    return EmbeddingRequest(_inputs(fields), options, given["encoding_format"] == "base64")


def _inputs(fields: Fields) -> list[Prompt]:
    """A string, token ids, or an array of either; none may be empty."""
    if fields.raw("input") in (None, "", [], [[]]):
        raise errors.no_input()
    inputs = texts_of(fields, "input")
    for index, one in enumerate(inputs):
        if len(one) == 0:
            raise fields.wrong(f"input[{index}]", "must not be empty")
    return inputs
