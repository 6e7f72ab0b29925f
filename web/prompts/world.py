"""The chat format of RWKV-5 and later: `User: ...`, a blank line, `Assistant:`.

Called by `resources/chat.py`. Content is used verbatim: nothing is trimmed or normalised, since
the prompts that clients tuned elsewhere must come out byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from web.personas import Persona
from web.schemas.chat import ChatRequest, Message


@dataclass(frozen=True, slots=True)
class Names:
    """The label of each role."""

    user: str
    assistant: str
    system: str
    tool: str


def names_for(persona: Persona, request: ChatRequest) -> Names:
    """The persona's names, replaced by those that the request brings."""
    return Names(
        user=request.user_name or persona.user,
        assistant=request.assistant_name or persona.assistant,
        system=request.system_name or persona.system,
        tool=persona.tool,
    )


def opening(names: Names) -> str:
    """`presystem`: an exchange that sets the tone before the conversation."""
    return (
        f"{names.user}: hi\n\n"
        f"{names.assistant}: Hi. I am a knowledgeable assistant and will answer every question "
        "completely, correctly and clearly. Please ask me anything.\n\n"
    )


def parts(messages: Sequence[Message], names: Names, presystem: bool = False) -> list[str]:
    """`<label>: <content>` and a blank line for each message, then `<assistant>:` without a blank:
    the model was trained to begin its answer with it."""
    labels = {
        "user": names.user,
        "assistant": names.assistant,
        "system": names.system,
        "tool": names.tool,
    }
    texts = [opening(names)] if presystem else []
    said = [message for message in messages if message.content is not None]
    for message in said:
        texts.append(f"{labels[message.role]}: {message.content}\n\n")
    if messages and messages[-1].prefix and messages[-1].content is not None:
        texts[-1] = texts[-1][:-2]  # the model goes on with this very text
    else:
        texts.append(f"{names.assistant}:")
    return texts
