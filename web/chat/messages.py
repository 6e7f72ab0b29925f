"""A conversation as plain values: what has been said, what may be called, and how the prompt ends.
Schemas parse into them, commands make them; they know nothing of JSON, nor of an API.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

DEEPEST = 32  # arrays and objects in each other


class Function(msgspec.Struct, frozen=True):
    """What the model may call; encoded in this order into the prompt."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None


class Call(msgspec.Struct, frozen=True):
    """A call that the assistant has made."""

    name: str
    arguments: dict[str, Any]


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None  # None: the assistant said nothing
    prefix: bool | None = None  # of the last one, see Conversation.continues
    raw: bool = False  # the text stays as it is: white space, blank lines
    calls: tuple[Call, ...] = ()
    call_id: str | None = None  # of a tool: the call that it answers
    name: str | None = None  # of a user, where several speak


class Tools(msgspec.Struct, frozen=True):
    functions: tuple[Function, ...] = ()  # those that the model may call
    description: str | None = None  # as prompts show them; None: there are none
    parallel: bool = True  # more than one call in an answer


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    messages: list[Message]  # oldest first
    tools: Tools = Tools()
    user_name: str | None = None  # labels of the roles; None: the family's
    assistant_name: str | None = None
    system_name: str | None = None
    presystem: bool = False  # begins with an exchange that sets the tone
    continues: bool | None = None  # the model goes on with the last message; None: as it says
    labelled: bool | None = None  # whether the prompt ends with the label of an answer, if asked


def is_deep(value: Any, levels: int = DEEPEST) -> bool:
    """Whether arrays and objects stand in each other more than so many levels deep. What is deeper
    is read, but cannot be written everywhere: that takes as much of Python's stack."""
    if not isinstance(value, (dict, list, tuple)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deep(one, levels - 1) for one in inner)
