"""POST /chat/completions: the request as one value. Called by `resources/openai/chat.py`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from web import errors
from web.chat import messages
from web.chat.messages import Call, Conversation
from web.engine.requests import SamplingOptions
from web.schemas.fields import WIRE, Fields
from web.schemas.sampling import StreamFields, sampling_of, stream_of
from web.schemas.tools import CallId, CallList, ToolList, call_id_of, calls_of, tools_of

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # the form before tools
}
_LONGEST_NAME = 256
# Parts of a message, by the names of OpenAI's two APIs and Anthropic's, that a model of text cannot
# read: what they hold, and what people call one.
_UNREAD = {
    **dict.fromkeys(("image_url", "input_image", "image"), ("images", "the picture")),
    **dict.fromkeys(("input_audio", "audio_url", "audio"), ("sound", "the recording")),
    **dict.fromkeys(("video_url", "input_video", "video"), ("videos", "the video")),
    **dict.fromkeys(("file", "input_file", "document"), ("files", "the file")),
}
# Of a speaker. Other names, which might hold a turn of their own, are not shown to the model.
_SPEAKER = re.compile(r"[\w-](?:[\w -]{0,62}[\w-])?")


_PART = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "type": {"const": kind},
                kind: {"type": "string", "description": words},
            },
            "required": ["type", kind],
        }
        for kind, words in (
            ("text", "What is said. 文本。"),
            ("refusal", "What the assistant said instead. 助手的拒绝内容。"),
        )
    ]
}

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=_LONGEST_NAME,
        description="The label of a role in the prompt. 提示词中该角色的名称。",
    ),
]


Content = Annotated[
    str | None,
    Meta(
        description="The text, or parts of type text. Null: nothing. "
        "消息文本，或文本片段的数组；null 表示空。",
        extra_json_schema={WIRE: {"type": ["string", "array", "null"], "items": _PART}},
    ),
]


class Message(msgspec.Struct, frozen=True):
    """The shape of a message on the wire, for /openapi.json."""

    role: Annotated[
        str, Meta(description="Who speaks. 说话的角色。", extra_json_schema={"enum": list(_ROLES)})
    ]
    content: Content
    prefix: Annotated[
        bool | None,
        Meta(
            description="Of a last message of the assistant: the model continues this very text; "
            "false: it begins another answer. By default it continues the text without its outer "
            "white space. 最后一条助手消息：true 从原文继续，false 另起回答；"
            "默认去除首尾空白后继续。"
        ),
    ] = None
    raw: Annotated[
        bool,
        Meta(description="The text stays as it is: white space, blank lines. 保持文本原样。"),
    ] = False
    calls: CallList = msgspec.field(name="tool_calls", default=())
    call_id: CallId | None = msgspec.field(name="tool_call_id", default=None)
    name: Annotated[
        str | None,
        Meta(
            description="Of a user: stands before the text where users of different names speak. "
            "用户名：多位不同名的用户发言时写在文本之前。"
        ),
    ] = None


class ConversationFields(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a Conversation on the wire."""

    messages: Annotated[
        list[Message], Meta(description="The conversation so far, oldest first. 到目前为止的对话。")
    ]
    user_name: Name | None
    assistant_name: Name | None
    system_name: Name | None
    presystem: Annotated[
        bool,
        Meta(description="Begin with a friendly exchange. 在对话前加入一段预设问答。"),
    ]
    continue_final_message: (
        Annotated[
            bool,
            Meta(
                description="As `prefix` of the last message, which must be the assistant's. "
                "等同于最后一条助手消息的 prefix。"
            ),
        ]
        | None
    )
    add_generation_prompt: (
        Annotated[
            bool,
            Meta(
                description="false: the prompt ends behind the last message, without the label of "
                "an answer; true: it ends with that label, also after a message of the assistant. "
                "false：提示词止于最后一条消息；true：总是附上回答的角色名。"
            ),
        ]
        | None
    )
    tools: ToolList


class ChatRequest(msgspec.Struct, frozen=True):
    conversation: Conversation
    sampling: SamplingOptions
    stream: StreamFields


def chat_request(fields: Fields) -> ChatRequest:
    """Reads the request; every error names its field. `messages` may come out empty."""
    _refuse_what_changes_answers(fields)
    fields.text("model")
    if not fields.has("messages"):
        raise fields.wrong("messages", "is required")
    conversation = Conversation(
        messages=[
            _message(value, f"{fields.name('messages')}[{i}]")
            for i, value in enumerate(fields.items("messages") or ())
        ],
        **fields.plain(ConversationFields, "user_name", "assistant_name", "system_name"),
        presystem=bool(fields.boolean("presystem")),
        continues=fields.boolean("continue_final_message"),
        labelled=fields.boolean("add_generation_prompt"),
        tools=tools_of(fields),
    )
    request = ChatRequest(conversation, sampling_of(fields), stream_of(fields))
    _refuse_contradictions(fields, conversation)
    return request


def _refuse_contradictions(fields: Fields, conversation: Conversation) -> None:
    """A message cannot both go on and have ended."""
    last = conversation.messages[-1] if conversation.messages else None
    begun = last is not None and last.role == "assistant"
    continued = conversation.continues
    if continued and last is not None and not begun:
        raise fields.wrong(
            "continue_final_message", "must not be true unless the last message is the assistant's"
        )
    prefix = last.prefix if last is not None and begun else None
    if None not in (prefix, continued) and prefix != continued:
        raise fields.wrong(
            "continue_final_message", "must not contradict the prefix of the last message"
        )
    if conversation.labelled and (prefix or continued):
        raise fields.wrong(
            "add_generation_prompt", "must not be true if the last message is continued"
        )


def _refuse_what_changes_answers(fields: Fields) -> None:
    if fields.boolean("logprobs"):
        raise fields.refuse("logprobs", "is not supported yet")
    # With the choice "none" a list of functions changes nothing.
    if fields.items("functions") and fields.raw("function_call") != "none":
        raise fields.refuse("functions", "is not supported: use tools")
    if fields.raw("function_call") not in (None, "none", "auto"):
        raise fields.refuse("function_call", "is not supported: use tool_choice")
    if any(kind != "text" for kind in fields.items("modalities") or ()):
        raise fields.refuse("modalities", 'must be ["text"]')
    if fields.boolean("echo"):
        raise fields.refuse("echo", "is not supported in chats: /v1/completions has it")
    for name in ("audio", "moderation", "web_search_options"):
        if fields.raw(name) is not None:
            raise fields.refuse(name)


def _message(value: Any, path: str) -> messages.Message:
    if not isinstance(value, dict):
        raise errors.invalid(path, "must be an object")
    fields = Fields(value, path)
    given = fields.text("role")
    role = _ROLES.get(given or "")
    if role is None:
        raise fields.wrong("role", f"must be one of {', '.join(_ROLES)}")
    calls: tuple[Call, ...] = ()
    if role == "assistant":
        calls = calls_of(fields)
        for name in ("function_call", "audio"):
            if fields.raw(name) is not None:
                raise fields.refuse(name)
    content = _content(fields)
    if content is None and role == "assistant" and not calls:
        content = fields.text("refusal")
    if content is None and role != "assistant":
        if not fields.has("content"):
            raise fields.wrong("content", "must be a string or an array of text parts")
        content = ""
    prefix, raw = fields.boolean("prefix"), fields.boolean("raw")
    return messages.Message(
        role,
        content,
        prefix if role == "assistant" else None,
        bool(raw),
        calls,
        call_id_of(fields) if role == "tool" else None,
        _speaker(fields) if role == "user" else None,
    )


def _speaker(fields: Fields) -> str | None:
    name = fields.text("name")
    return name if name is not None and _SPEAKER.fullmatch(name) else None


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
        if (what := _UNREAD.get(kind or "")) is not None:
            raise errors.unread(inner.name("type"), *what)
        if kind not in ("text", "refusal"):
            raise inner.refuse("type", f'must be "text": {errors.clip(kind)} is not supported')
        text = inner.text(kind)
        if text is None:
            raise inner.wrong(kind, "is required")
        texts.append(text)
    return "\n".join(texts)
