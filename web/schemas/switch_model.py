"""POST /switch-model: the request as one value. Called by `resources/runner/switch_model.py`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from web.files.allowed_paths import LONGEST
from web.schemas.fields import Fields

_LONGEST_STRATEGY = 1024


Model = Annotated[
    str,
    Meta(
        max_length=LONGEST,
        description="The file to load, or a name that /models has shown; null or empty unloads. "
        "要加载的模型文件或 /models 中出现过的名称，null 或空表示卸载。",
    ),
]
Strategy = Annotated[
    str,
    Meta(
        max_length=_LONGEST_STRATEGY,
        description="Where it computes, and in which type. 运行策略：设备与精度。",
        examples=["auto", "cpu fp32"],
    ),
]
Tokenizer = Annotated[
    str,
    Meta(max_length=LONGEST, description="A tokenizer's name or file. 分词器名称或文件。"),
]
Deploy = Annotated[
    bool,
    Meta(
        description="From now on, refuse requests that change the server, also if the load fails. "
        "从此拒绝会改变服务器的请求，加载失败时也是如此。"
    ),
]


class SwitchRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: Model | None  # None: unload
    strategy: Strategy
    tokenizer: Tokenizer | None  # None: the one that the model asks for
    deploy: Deploy


def asks_for_deploy(fields: Fields) -> bool:
    return bool(fields.boolean("deploy"))


def switch_request(fields: Fields) -> SwitchRequest:
    """Reads the request; every error names its field."""
    if not fields.has("model"):
        raise fields.wrong("model", "is required; null unloads the model")
    fields.boolean("customCuda")  # kernels of one's own: there is nothing to choose here
    given = fields.plain(SwitchRequest, "model", "strategy", "tokenizer", "deploy")
    return SwitchRequest(
        model=given["model"] or None,
        strategy=given["strategy"] or "auto",
        tokenizer=given["tokenizer"] or None,
        deploy=bool(given["deploy"]),
    )
