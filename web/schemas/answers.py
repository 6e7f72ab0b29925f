"""The shapes of answers, as OpenAI and RWKV Runner's clients read them. Encoded by msgspec, which
keeps this order of keys. Called by the resources and by `web/dialects/`, where the parts of streams
have theirs.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from web.chat import events


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str  # a JSON object


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None  # None: nothing but calls
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(msgspec.Struct, frozen=True):
    text: str
    index: int
    finish_reason: str
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


def usage(spent: events.Usage) -> Usage:
    prompt, completion, cached = msgspec.structs.astuple(spent)
    details = UNSET if cached is None else PromptTokensDetails(cached)
    return Usage(prompt, completion, prompt + completion, details)


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model_permission"] = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: None = None
    is_blocking: bool = False


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """In Mistral's words, by which clients choose what they offer."""

    completion_chat: bool
    function_calling: bool
    completion_fim: bool = False
    vision: bool = False
    audio: bool = False


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    permission: list[Permission] | UnsetType = UNSET
    root: str
    parent: None = None
    # Tokens that the model was trained for or the server takes, where either has a limit: by the
    # names of OpenRouter, Groq and vLLM.
    context_length: int | UnsetType = UNSET
    context_window: int | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET


class Models(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's, which lm-evaluation-harness asks for before it counts tokens."""

    tokenizer_class: str
    vocab_size: int
    eos_token: str | None  # None: the token that ends a text has none itself
    eos_token_id: int | None
    bos_token: None = None
    bos_token_id: None = None
    pad_token: None = None
    unk_token: None = None
    model_max_length: int | None
    chat_template: None = None  # chats are rendered by the server: /tokenize shows them


class Status(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal[0, 2, 3]  # offline, loading, working
    pid: int
    device_name: str
    model: str | None
    running: int
    waiting: int
    prompt_tokens: int
    completion_tokens: int
    draining: int  # models that have been replaced and still answer
    max_tokens: int  # of one answer at most
    default_max_tokens: int  # of a chat that does not say
    defaults: dict[str, float | bool | None]  # of requests that do not say; see `families.Defaults`
    progress: float | UnsetType = UNSET  # the share of the weights that is loaded
