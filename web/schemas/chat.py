"""POST /chat/completions: the request as one value. Called by `resources/chat.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from web import errors
from web.schemas.fields import Fields
from web.schemas.sampling import SamplingFields, StreamFields, sampling_of, stream_of

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_LONGEST_NAME = 256


class Message(msgspec.Struct, frozen=True):
    role: str  # system, user, assistant or tool
    content: str | None  # None only for an assistant that said nothing
    prefix: bool = False  # the model continues this text, if it is the last message
    raw: bool = False  # for RWKV-4: this text stays as it is


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[Message]
    user_name: str | None
    assistant_name: str | None
    system_name: str | None
    presystem: bool
    sampling: SamplingFields
    stream: StreamFields


def chat_request(fields: Fields) -> ChatRequest:
    """Reads the request; every error names its field. `messages` may come out empty."""
    _refuse_what_changes_answers(fields)
    fields.text("model")
    if not fields.has("messages"):
        raise fields.wrong("messages", "is required")
    return ChatRequest(
        messages=[
            _message(value, f"{fields.name('messages')}[{i}]")
            for i, value in enumerate(fields.items("messages") or ())
        ],
        user_name=fields.text("user_name", 1, _LONGEST_NAME),
        assistant_name=fields.text("assistant_name", 1, _LONGEST_NAME),
        system_name=fields.text("system_name", 1, _LONGEST_NAME),
        presystem=bool(fields.boolean("presystem")),
        sampling=sampling_of(fields),
        stream=stream_of(fields),
    )


def _refuse_what_changes_answers(fields: Fields) -> None:
    if fields.boolean("logprobs"):
        raise fields.refuse("logprobs", "is not supported yet")
    # With the choice "none" a list of tools changes nothing.
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        if fields.items(name) and fields.raw(choice) != "none":
            raise fields.refuse(name, "is not supported yet")
    for name in ("tool_choice", "function_call"):
        if fields.raw(name) not in (None, "none", "auto"):
            raise fields.refuse(name, 'must be "none" or "auto": calls are not supported yet')
    if any(kind != "text" for kind in fields.items("modalities") or ()):
        raise fields.refuse("modalities", 'must be ["text"]')
    for name in ("audio", "web_search_options"):
        if fields.raw(name) is not None:
            raise fields.refuse(name)


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise errors.invalid(path, "must be an object")
    fields = Fields(value, path)
    given = fields.text("role")
    role = _ROLES.get(given or "")
    if role is None:
        raise fields.wrong("role", f"must be one of {', '.join(_ROLES)}")
    if role == "assistant":
        if fields.items("tool_calls"):
            raise fields.refuse("tool_calls", "is not supported yet")
        for name in ("function_call", "audio"):
            if fields.raw(name) is not None:
                raise fields.refuse(name)
    content = _content(fields)
    if content is None and role != "assistant":
        raise fields.wrong("content", "must be a string or an array of text parts")
    prefix, raw = fields.boolean("prefix"), fields.boolean("raw")
    return Message(role, content, role == "assistant" and bool(prefix), bool(raw))


def _content(fields: Fields) -> str | None:
    """A string as it is; text parts, one per line."""
    value = fields.raw("content")
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise fields.wrong("content", "must be a string or an array of text parts")
    texts = []
    for i, part in enumerate(value):
        path = f"{fields.name('content')}[{i}]"
        if not isinstance(part, dict):
            raise errors.invalid(path, "must be an object")
        inner = Fields(part, path)
        kind = inner.text("type")
        if kind != "text":
            raise inner.refuse("type", f'must be "text": {errors.clip(kind)} is not supported')
        text = inner.text("text")
        if text is None:
            raise inner.wrong("text", "is required")
        texts.append(text)
    return "\n".join(texts)
