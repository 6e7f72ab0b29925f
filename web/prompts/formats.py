"""Which form a model's chats have.

Called by `resources/chat.py`, `resources/tokenize.py` and `rwkv-native chat`. RWKV-4 has a form of
its own, whatever its tokenizer; reasoning models do not see their earlier thoughts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from web import errors
from web.personas import Persona
from web.prompts import version4, world
from web.prompts.tools import preamble, spoken
from web.prompts.world import Names, names_for
from web.schemas.chat import ChatRequest, Message

# Of a conversation's boundaries those are marked that another request may well share: what it
# begins with (functions, an opening, the system's words), and the ends of its last messages.
_FIRST_MARKS, _LAST_MARKS = 3, 4


class Conversation(NamedTuple):
    """What a model is fed."""

    text: str
    names: Names
    marks: tuple[int, ...]
    """Numbers of characters after which others may go on differently."""


def conversation(persona: Persona, request: ChatRequest, tools: str | None = None) -> Conversation:
    """What a request's conversation is to this model. `tools` says what it may call if the request
    does not. Raises 400 for one without messages, and for a model that does not talk."""
    if not request.messages:
        raise errors.no_messages()
    if not persona.chats:
        raise errors.no_chat(persona.family)
    names = names_for(persona, request)
    tools = request.tools.description or tools
    messages = [spoken(message) for message in request.messages]
    parts = _parts(persona, messages, names, request.presystem)
    if tools is not None:
        parts.insert(0, preamble(tools))
    # Not before the label of the answer: that is a few tokens from the prompt's end.
    ends = [*accumulate(map(len, parts[:-2]))]
    marks = ends[:_FIRST_MARKS] + ends[_FIRST_MARKS:][-_LAST_MARKS:]
    return Conversation("".join(parts), names, tuple(marks))


def chat_prompt(
    persona: Persona, messages: Sequence[Message], names: Names, presystem: bool = False
) -> str:
    """The text that a model is fed for a conversation."""
    return "".join(_parts(persona, messages, names, presystem))


def _parts(
    persona: Persona, messages: Sequence[Message], names: Names, presystem: bool
) -> list[str]:
    """The same, cut where a message begins."""
    if persona.prompt == "version 4":
        return version4.parts(messages, names, presystem, raven=persona.family == "raven")
    if persona.thinks:
        messages = without_thoughts(messages)
    return world.parts(messages, names, presystem)


def without_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Of an answer only what follows `</think>`: thoughts are for one turn. A last message that the
    model continues stays whole."""
    return [
        message
        if message.role != "assistant"
        or message.content is None
        or "</think>" not in message.content
        or (message.prefix and message is messages[-1])
        else msgspec.structs.replace(
            message, content=message.content.rpartition("</think>")[2].lstrip()
        )
        for message in messages
    ]
