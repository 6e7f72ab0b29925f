"""The chat format of RWKV-5 and later: `User: ...`, a blank line, `Assistant:`.

Called by `chat/prompts/formats.py`, which has cleaned the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from web.chat.messages import Message
from web.chat.prompts.parts import BEGUN, Ending, Names, Part


def opening(names: Names) -> str:
    """`presystem`: an exchange that sets the tone before the conversation."""
    return (
        f"{names.user}: hi\n\n"
        f"{names.assistant}: Hi. I am a knowledgeable assistant and will answer every question "
        "completely, correctly and clearly. Please ask me anything.\n\n"
    )


def parts(
    messages: Sequence[Message], names: Names, presystem: bool = False, ending: Ending = "label"
) -> list[Part]:
    """`<label>: <content>` and a blank line for each message, then `<assistant>:` without a blank:
    the model was trained to begin its answer with it."""
    labels = {
        "user": names.user,
        "assistant": names.assistant,
        "system": names.system,
        "tool": names.tool,
    }
    label = len(names.assistant) + 1
    made = [Part(opening(names))] if presystem else []
    for message in messages:
        if message.content is not None:
            text = f"{labels[message.role]}: {message.content}\n\n"
            made.append(Part(text, label if message.role == "assistant" else 0))
    if ending == "label":
        made.append(Part(f"{names.assistant}:", label))
    elif ending in BEGUN:
        text = made[-1].text[:-2]  # the model goes on with this very text
        if ending == "begun" and not messages[-1].content:
            text = text[:-1]  # of which there is none yet, so the blank is its own
        made[-1] = Part(text, label)
    return made
