"""Tools of a chat: the functions that a request offers, and the calls in its history.

Called by `schemas/chat.py`. Schemas of parameters are passed on as they are.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from web import errors
from web.chat.messages import DEEPEST, Call, Function, Tools, is_deep
from web.schemas.fields import WIRE, Fields

_MOST_TOOLS = 128
_LONGEST_NAME = 64
_LONGEST_ID = 256
_LONGEST_TOOLS = 128 << 10  # characters of all of them as JSON


_NAME = {"type": "string", "minLength": 1, "maxLength": _LONGEST_NAME}


def _functions(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """The JSON schema of an array of tools or calls."""
    function = {"type": "object", "properties": properties, "required": list(required)}
    return {
        "type": ["array", "null"],
        "maxItems": _MOST_TOOLS,
        "items": {
            "type": "object",
            "properties": {"type": {"const": "function"}, "function": function},
            "required": ["function"],
        },
    }


ToolList = Annotated[
    Tools,
    Meta(
        description="Functions that the model may call. 模型可以调用的函数。",
        extra_json_schema={
            WIRE: _functions(
                {
                    "name": _NAME,
                    "description": {"type": ["string", "null"]},
                    "parameters": {"type": ["object", "null"]},
                },
                "name",
            )
        },
    ),
]
CallList = Annotated[
    tuple[Call, ...],
    Meta(
        description="The calls that the assistant has made. 助手已发起的函数调用。",
        extra_json_schema={
            WIRE: _functions({"name": _NAME, "arguments": {"type": "string"}}, "name", "arguments")
        },
    ),
]
CallId = Annotated[
    str,
    Meta(
        max_length=_LONGEST_ID,
        description="Of a tool's message: the call that it answers. "
        "工具消息：所回答的函数调用的 id。",
    ),
]
_NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"name": _NAME},
    "required": ["name"],
}
_CHOSEN: dict[str, Any] = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": _NAMED},
    "required": ["type"],
}
# What stands beside `tools`, as clients send it.
CHOICES: dict[str, Any] = {
    "tool_choice": {
        "description": "Which of them the model may call: none, or only those that are named. That "
        'it must call one cannot be enforced yet: "required" and "any" act as "auto". '
        "允许调用哪些函数；目前无法强制调用。",
        "anyOf": [
            {"enum": ["none", "auto", "required", "any", None]},
            {
                "type": "object",
                "properties": {"type": {"enum": ["none", "auto", "required", "any"]}},
                "required": ["type"],
            },
            {**_CHOSEN, "required": ["function"]},
            {
                "type": "object",
                "properties": {
                    "type": {"const": "allowed_tools"},
                    "allowed_tools": {
                        "type": "object",
                        "properties": {
                            "mode": {"enum": ["auto", "required"]},
                            "tools": {"type": "array", "items": _CHOSEN, "maxItems": _MOST_TOOLS},
                        },
                        "required": ["tools"],
                    },
                },
                "required": ["type", "allowed_tools"],
            },
        ],
    },
    "parallel_tool_calls": {
        "type": ["boolean", "null"],
        "description": "More than one call in an answer. 一次回答中是否允许多个函数调用。",
    },
}


def tools_of(fields: Fields) -> Tools:
    """What a request offers: those tools that its choice leaves. That the model must call one acts
    as that it may, as in RWKV Runner."""
    functions = tuple(
        _function(value, f"{fields.name('tools')}[{i}]")
        for i, value in enumerate(fields.items("tools", _MOST_TOOLS) or ())
    )
    parallel = fields.boolean("parallel_tool_calls") is not False
    functions = _chosen(fields, functions)
    if not functions:
        return Tools(parallel=parallel)
    values = [msgspec.structs.asdict(function) for function in functions]
    if is_deep(values):
        raise fields.wrong("tools", f"must be nested at most {DEEPEST} deep")
    if len(json.dumps(values)) > _LONGEST_TOOLS:
        raise fields.wrong("tools", f"must have at most {_LONGEST_TOOLS} characters as JSON")
    return Tools(functions, json.dumps(values, indent=2), parallel)


def calls_of(fields: Fields) -> tuple[Call, ...]:
    """The calls of one message of the assistant."""
    return tuple(
        _call(value, f"{fields.name('tool_calls')}[{i}]")
        for i, value in enumerate(fields.items("tool_calls", _MOST_TOOLS) or ())
    )


def call_id_of(fields: Fields) -> str | None:
    """Which call a message of the role `tool` answers."""
    return fields.text("tool_call_id", longest=_LONGEST_ID)


def _function(value: Any, path: str) -> Function:
    inner = _inside(value, path)
    parameters = inner.table("parameters")
    return Function(
        _name(inner),
        inner.text("description"),
        None if parameters is None else dict(parameters.pairs()),
    )


def _call(value: Any, path: str) -> Call:
    inner = _inside(value, path)
    given = inner.raw("arguments")
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given or "{}")
        except (msgspec.MsgspecError, RecursionError):
            given = None
    if not isinstance(given, dict):
        raise inner.wrong("arguments", "must be a JSON object, as a string")
    if is_deep(given):
        raise inner.wrong("arguments", f"must be nested at most {DEEPEST} deep")
    return Call(_name(inner), given)


def _inside(value: Any, path: str) -> Fields:
    """The function of a tool or call."""
    if not isinstance(value, dict):
        raise errors.invalid(path, "must be an object")
    fields = Fields(value, path)
    if fields.text("type") not in (None, "function"):
        raise fields.refuse("type", 'must be "function"')
    inner = fields.table("function")
    if inner is None:
        raise fields.wrong("function", "is required")
    return inner


def _name(fields: Fields) -> str:
    name = fields.text("name", 1, _LONGEST_NAME)
    if name is None:
        raise fields.wrong("name", "is required")
    return name


def _chosen(fields: Fields, functions: tuple[Function, ...]) -> tuple[Function, ...]:
    """Those that the model may call, by `tool_choice` in all the forms that clients know."""
    choice = fields.raw("tool_choice")
    if not isinstance(choice, dict):
        return _by_word(fields, choice, functions)
    inner = Fields(choice, fields.name("tool_choice"))
    kind = inner.text("type")
    if kind in _WORDS:  # as Anthropic and LangChain have it
        return _by_word(fields, kind, functions)
    if kind != "allowed_tools":
        names = {_chosen_name(inner)}
    else:
        # OpenAI's API has an object inside, the Responses API has none.
        allowed = inner.table("allowed_tools") or inner
        mode = allowed.text("mode")
        if mode not in (None, "auto", "required"):
            raise allowed.wrong("mode", 'must be "auto" or "required"')
        listed = allowed.items("tools", _MOST_TOOLS)
        if not listed:
            raise allowed.wrong("tools", "must name at least one tool")
        names = set()
        for i, one in enumerate(listed):
            path = f"{allowed.name('tools')}[{i}]"
            if not isinstance(one, dict):
                raise errors.invalid(path, "must be an object")
            names.add(_chosen_name(Fields(one, path)))
    if not names <= {function.name for function in functions}:
        raise fields.wrong("tool_choice", "must name one of the tools")
    return tuple(function for function in functions if function.name in names)


_WORDS = ("none", "auto", "required", "any")


def _by_word(fields: Fields, choice: Any, functions: tuple[Function, ...]) -> tuple[Function, ...]:
    if choice not in (None, *_WORDS):
        words = ", ".join(f'"{word}"' for word in _WORDS)
        raise fields.wrong("tool_choice", f"must be {words}, or name functions")
    if choice in ("required", "any") and not functions:
        raise fields.wrong("tool_choice", f'must not be "{choice}" without tools')
    return () if choice == "none" else functions


def _chosen_name(fields: Fields) -> str:
    """The name in `{"type": "function", "function": {"name": ...}}` or without the object inside;
    the same of custom tools and of Anthropic's `{"type": "tool", "name": ...}`."""
    kind = fields.text("type") or "function"
    if kind not in ("function", "custom", "tool"):
        raise fields.refuse("type", 'must be "function" or "allowed_tools"')
    if not fields.has("name"):
        inner = fields.table(kind)
        if inner is None:
            raise fields.wrong(kind, "is required")
        fields = inner
    return _name(fields)
