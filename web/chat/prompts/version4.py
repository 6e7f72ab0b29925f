"""The chat format of RWKV-4: messages joined by a blank line, each without blank lines of its own.

Called by `chat/prompts/formats.py`. The format is the one that RWKV Runner means (runner-api 2.6);
since August 2024 its program loses the content of every message instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from web.chat.messages import Message
from web.chat.prompts.parts import BEGUN, Ending, Names, Part
from web.chat.prompts.world import opening as world_opening


def parts(
    messages: Sequence[Message],
    names: Names,
    presystem: bool = False,
    ending: Ending = "label",
    raven: bool = False,
) -> list[Part]:
    """`<label>: <content>` of users and assistants, the bare text of the system, then
    `<assistant>:`, or nothing after a last message that the model goes on with."""
    begun = ""
    if presystem:
        if messages and messages[0].role == "system":
            begun = _introduction(messages[0], names, raven)
            messages = messages[1:]
        else:
            begun = _raven_opening(names) if raven else world_opening(names)
    labels = {"user": names.user, "assistant": names.assistant, "tool": names.tool}
    made = [Part(begun)] if begun else []
    for message in messages:
        if message.content is not None:
            label, form = labels.get(message.role), str if message.raw else _tidy
            text = message.content if label is None else f"{label}: {message.content}"
            answer = len(form(f"{label}:")) if message.role == "assistant" else 0
            made.append(Part(f"{form(text)}\n\n", answer))
    if ending == "label":
        made.append(Part(f"{names.assistant}:", len(names.assistant) + 1))
    elif ending in BEGUN:
        made[-1] = Part(made[-1].text[:-2], made[-1].label)
    return made


def _tidy(text: str) -> str:
    """Blank lines would end a turn: one pass takes most of them out."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\n", "\n").strip()


def _raven_opening(names: Names) -> str:
    return (
        f"\nBelow is a long and friendly talk between a girl named {names.assistant} and her friend"
        f" {names.user}. {names.assistant} is very intelligent, creative and friendly. She likes to"
        f" tell {names.user} about herself and what she thinks, hardly ever asks questions, and"
        f" gives {names.user} kind, helpful and detailed advice.\n\n"
    )


def _introduction(message: Message, names: Names, raven: bool) -> str:
    """The system's words to the assistant, in its own mouth, or in Raven's case about her."""
    text = message.content or ""
    if not message.raw:
        text = _tidy(text).replace("\n", " ")
    for said, meant in _about(names.assistant) if raven else _FIRST_PERSON:
        text = text.replace(said, meant)
    if raven:
        return (
            f"Below is a long and friendly talk between a girl named {names.assistant} and her"
            f" friend {names.user}. {text}\n\n"
        )
    return f"{names.user}: hi\n\n{names.assistant}: Hi. {text}\n\n"


# "Your" comes before "You", which would make it "Ir", as it does in RWKV Runner.
_FIRST_PERSON = (
    ("You are", "I am"),
    ("you are", "I am"),
    ("You're", "I'm"),
    ("you're", "I'm"),
    ("Your", "My"),
    ("your", "my"),
    ("You", "I"),
    ("you", "I"),
    ("\u4f60", "\u6211"),
)


def _about(name: str) -> tuple[tuple[str, str], ...]:
    """The same, about someone with a name."""
    meant = (f"{name} is", f"{name} is", f"{name} is", f"{name} is", f"{name}'s", f"{name}'s")
    meant += (name, name, name)
    return tuple((said, own) for (said, _), own in zip(_FIRST_PERSON, meant, strict=True))
