"""What a prompt is made of. Made by `chat/prompts/world.py` and `chat/prompts/version4.py`, put
together by `chat/prompts/formats.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from web.chat.messages import Conversation
from web.engine.families import Persona

# How a prompt ends: with the label of an answer, inside an answer that the model goes on with
# (cleaned as others are, or verbatim), or behind its last message.
Ending = Literal["label", "begun", "verbatim", "nothing"]
BEGUN: frozenset[Ending] = frozenset({"begun", "verbatim"})


class Part(NamedTuple):
    """One message as a model sees it, or the label of the answer to come."""

    text: str
    label: int = 0
    """Of an answer: characters of its label, colon included. Else 0."""


@dataclass(frozen=True, slots=True)
class Names:
    """The label of each role."""

    user: str
    assistant: str
    system: str
    tool: str


def names_for(persona: Persona, conversation: Conversation) -> Names:
    """The persona's names, replaced by those that the conversation brings."""
    return Names(
        user=conversation.user_name or persona.user,
        assistant=conversation.assistant_name or persona.assistant,
        system=conversation.system_name or persona.system,
        tool=persona.tool,
    )
