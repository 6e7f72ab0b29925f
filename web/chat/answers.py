"""What a client gets of what a model writes: pieces of text go in, events come out.

In a chat that is text without outer white space, and calls. A model begins its answers with the
blank after the label and often ends them with a blank line: both belong to the form of the prompt
(`chat/prompts/formats.py`), not to what has been said. Called by `chat/turn.py` and by `rwkv-native
chat`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from web.chat.events import Begin, Event, Finish, Reason, Text, ToolCall
from web.chat.messages import Call, Message
from web.chat.prompts.formats import ChatPrompt, answer_text
from web.chat.tool_calls import CallFinder
from web.engine.families import Persona
from web.engine.known_answers import Fed, KnownAnswers


class Trimmer:
    """Takes the outer white space off a text that comes in pieces."""

    __slots__ = ("_begun", "_held")

    def __init__(self, continues: bool = False) -> None:
        """`continues`: another text, so that white space before it is between the two."""
        self._begun = continues
        self._held = ""  # white space that is the outer one unless more follows

    def feed(self, text: str) -> str:
        """What is inside for certain."""
        if not self._begun:
            text = text.lstrip()
        inner = text.rstrip()
        if not inner:
            self._held += text
            return ""
        self._begun = True
        out, self._held = self._held + inner, text[len(inner) :]
        return out

    def drop(self) -> None:
        """What follows is no text."""
        self._held = ""


class Answer:
    """Reads one answer: `text`, `calls` and `reason` are what it has held so far."""

    def __init__(
        self,
        index: int = 0,
        trimmer: Trimmer | None = None,
        finder: CallFinder | None = None,
        *,
        echoed: str = "",
        begun: str = "",
        noted: Callable[[Message, Sequence[int]], None] | None = None,
    ) -> None:
        """`trimmer` reads a chat; without one a text stays as it is. `finder` looks for calls.
        `echoed` is what the answer begins with, `begun` what the model continues and the answer
        leaves out. `noted` hears of an answer that has ended: the message with what it continues,
        and the ids that were drawn."""
        self._index = index
        self._trimmer = trimmer
        self._finder = finder
        self._said = [echoed]
        self._begun = begun
        self._noted = noted
        self.calls: list[ToolCall] = []
        self.reason: Reason = "stop"

    @property
    def text(self) -> str:
        return "".join(self._said)

    @property
    def message(self) -> Message:
        """As a client sends it back in the next turn."""
        calls = tuple(Call(call.name, msgspec.json.decode(call.arguments)) for call in self.calls)
        return Message("assistant", self._begun + self.text, calls=calls)

    def begin(self) -> list[Event]:
        """What comes before anything that the model says."""
        return [Begin(self._index), *(Text(self._index, text) for text in self._said if text)]

    def feed(self, text: str) -> list[Event]:
        """What can be told by now."""
        if self._finder is not None:
            return self._read(self._finder.feed(text))
        if self._trimmer is not None:
            text = self._trimmer.feed(text)
        self._said.append(text)
        return [Text(self._index, text)] if text else []

    def end(self, reason: Reason, ids: Sequence[int] = ()) -> list[Event]:
        """The rest. `ids`: all that were drawn."""
        rest = [] if self._finder is None else self._read(self._finder.end())
        self.reason = "tool_calls" if self.calls else reason
        if self._noted is not None:
            self._noted(self.message, ids)
        return [*rest, Finish(self._index, self.reason)]

    def _read(self, items: Sequence[str | ToolCall]) -> list[Event]:
        out: list[Event] = []
        for item in items:
            if isinstance(item, str):
                if text := item if self._trimmer is None else self._trimmer.feed(item):
                    self._said.append(text)
                    out.append(Text(self._index, text))
            else:
                if self._trimmer is not None:
                    self._trimmer.drop()
                self.calls.append(item)
                out.append(item)
        return out


def answer_to(
    prompt: ChatPrompt,
    fed: Fed,
    persona: Persona,
    known: KnownAnswers,
    finder: CallFinder | None = None,
    index: int = 0,
) -> Answer:
    """What reads an answer to a prompt, and keeps its ids for the next turn."""

    def noted(message: Message, ids: Sequence[int]) -> None:
        text = answer_text(persona, prompt.names, message)
        if text is not None and prompt.ending != "nothing":
            known.keep(fed, text, ids)

    trimmer = Trimmer(continues=prompt.goes_on)
    return Answer(index, trimmer, finder, begun=prompt.begun or "", noted=noted)
