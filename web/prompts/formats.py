"""Which form a model's chats have.

Called by `resources/chat.py`, `resources/tokenize.py` and `rwkv-native chat`. RWKV-4 has a form of
its own, whatever its tokenizer; reasoning models do not see their earlier thoughts again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from web import errors
from web.personas import Persona
from web.prompts import version4, world
from web.prompts.tools import preamble, spoken
from web.prompts.world import Names, names_for
from web.schemas.chat import ChatRequest, Message


def conversation(
    persona: Persona, request: ChatRequest, tools: str | None = None
) -> tuple[str, Names]:
    """The text that a request's conversation is to this model, and the names in it. `tools` says
    what it may call if the request does not. Raises 400 for one without messages, and for a model
    that does not talk."""
    if not request.messages:
        raise errors.no_messages()
    if not persona.chats:
        raise errors.no_chat(persona.family)
    names = names_for(persona, request)
    tools = request.tools.description or tools
    begun = "" if tools is None else preamble(tools)
    messages = [spoken(message) for message in request.messages]
    return begun + chat_prompt(persona, messages, names, request.presystem), names


def chat_prompt(
    persona: Persona, messages: Sequence[Message], names: Names, presystem: bool = False
) -> str:
    """The text that a model is fed for a conversation."""
    if persona.prompt == "version 4":
        return version4.render(messages, names, presystem, raven=persona.family == "raven")
    if persona.thinks:
        messages = without_thoughts(messages)
    return world.render(messages, names, presystem)


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
