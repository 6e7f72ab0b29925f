"""Which form a model's chats have.

Called by `chat/turn.py` and `rwkv-native chat`. RWKV-4 has a form of its own, whatever its
tokenizer; reasoning models do not see their earlier thoughts again.

The texts of the others are those that the official templates make (World, G1): what people and
tools say is one block without blank lines, so that it can neither end a turn nor forge one; what
the assistant says keeps its paragraphs. Nothing has white space around it: the one blank after a
label is the only one that a model has seen there. `raw` keeps a message as it is, and a persona
with `verbatim` (`--prompt-format runner`) all of them, as RWKV Runner 1.9 does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from web import errors
from web.chat.messages import Conversation, Message
from web.chat.prompts import version4, world
from web.chat.prompts.parts import BEGUN, Ending, Names, Part, names_for
from web.chat.prompts.tools import preamble, spoken
from web.engine.families import Persona

# Of a conversation's boundaries those are marked that another request may well share: what it
# begins with (functions, an opening, the system's words), and the ends of its last messages.
_FIRST_MARKS, _LAST_MARKS = 3, 4

_LINE_FEEDS = re.compile(r"\n+")


class ChatPrompt(NamedTuple):
    """What a model is fed; an engine's MarkedText."""

    text: str
    names: Names
    marks: tuple[int, ...]
    """Numbers of characters after which others may go on differently."""
    answers: tuple[tuple[int, int], ...]
    """Where the assistant's texts begin, right after their labels, and end, without the blank line
    that follows: numbers of characters, ascending. The last one is the answer to come, of which
    there may be nothing yet, or a beginning."""
    ending: Ending
    begun: str | None
    """The message that the model continues, as it was sent, if it does."""

    @property
    def goes_on(self) -> bool:
        return self.begun is not None


def chat_prompt(
    persona: Persona, conversation: Conversation, tools: str | None = None
) -> ChatPrompt:
    """What a conversation is to this model. `tools` says what it may call if the conversation does
    not. Raises Refusal for one without messages, and for a model that does not talk."""
    if not conversation.messages:
        raise errors.no_messages()
    if not persona.chats:
        raise errors.no_chat(persona.family)
    return rendered(
        persona,
        conversation.messages,
        names_for(persona, conversation),
        conversation.presystem,
        ending_of(persona, conversation),
        conversation.tools.description or tools,
    )


def rendered(
    persona: Persona,
    messages: Sequence[Message],
    names: Names,
    presystem: bool = False,
    ending: Ending = "label",
    tools: str | None = None,
) -> ChatPrompt:
    """The same of its parts; `messages` may be empty."""
    parts = _parts(persona, messages, names, presystem, ending)
    if tools is not None:
        parts.insert(0, Part(preamble(tools)))
    texts = [part.text for part in parts]
    starts = [0, *accumulate(map(len, texts))]
    # Not before the label of the answer: that is a few tokens from the prompt's end.
    ends = starts[1 : len(parts) - 1] if ending != "nothing" else starts[1:-1]
    marks = ends[:_FIRST_MARKS] + ends[_FIRST_MARKS:][-_LAST_MARKS:]
    text = "".join(texts)
    answers = [
        (start + part.label, start + len(part.text.removesuffix("\n\n")))
        for start, part in zip(starts, parts, strict=False)
        if part.label
    ]
    begun = (messages[-1].content or "") if ending in BEGUN else None
    if begun is not None:  # what it ends with is its own
        answers[-1] = (answers[-1][0], len(text))
    return ChatPrompt(text, names, tuple(marks), tuple(answers), ending, begun)


def ending_of(persona: Persona, conversation: Conversation) -> Ending:
    """Whether the model continues the last message. It does so unasked with a message of the
    assistant, as other servers do, unless that is a call, or the form is RWKV Runner's."""
    last = conversation.messages[-1]
    asked = conversation.continues
    if asked is None:
        asked = last.prefix
    if asked and (last.content is not None or last.calls):
        return "verbatim"
    goes_on = asked is None and last.role == "assistant" and last.content is not None
    if goes_on and not (last.calls or persona.verbatim or conversation.labelled):
        return "begun"
    return "nothing" if conversation.labelled is False else "label"


def answer_text(persona: Persona, names: Names, answer: Message) -> str | None:
    """What follows the label where a later prompt holds this answer, without the blank line behind
    it. None: nothing does."""
    parts = _parts(persona, [answer], names, False, "nothing")
    return parts[0].text[parts[0].label :].removesuffix("\n\n") if parts else None


def _parts(
    persona: Persona, messages: Sequence[Message], names: Names, presystem: bool, ending: Ending
) -> list[Part]:
    """A prompt, cut where a message begins."""
    told = _told(persona, messages, ending)
    if persona.prompt == "version 4":
        raven = persona.family == "raven"
        return version4.parts(told, names, presystem, ending, raven=raven)
    return world.parts(told, names, presystem, ending)


def _told(persona: Persona, messages: Sequence[Message], ending: Ending) -> list[Message]:
    """The messages as the model gets to know them."""
    said = [spoken(message) for message in messages]
    if persona.verbatim:
        return said
    several = len({message.name for message in said if message.name}) > 1
    kept = len(said) - (ending == "verbatim")
    whole = len(said) - (ending in BEGUN)
    for number, message in enumerate(said[:kept]):
        if message.raw or message.content is None:
            continue
        text = message.content
        if persona.thinks and message.role == "assistant" and number < whole:
            text = without_thoughts(text)
        if persona.prompt == "world":
            text = cleaned(text, paragraphs=message.role == "assistant")
        if several and message.name:
            text = f"{message.name}: {text}"
        said[number] = msgspec.structs.replace(message, content=text)
    return said


def cleaned(text: str, paragraphs: bool) -> str:
    """A text without outer white space, its line ends as line feeds. Not `paragraphs`: and without
    blank lines."""
    text = text.replace("\r\n", "\n")
    return (text if paragraphs else _LINE_FEEDS.sub("\n", text)).strip()


def without_thoughts(answer: str) -> str:
    """Only what follows `</think>`: thoughts are for one turn."""
    return answer.rpartition("</think>")[2].lstrip() if "</think>" in answer else answer
