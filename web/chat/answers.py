"""What a client gets of what a model writes in a chat: text without outer white space, and calls.

Called by `resources/openai/chat.py`, by `web/dialects/event_stream.py` for streams and by
`rwkv-native chat`. A model begins its answers with the blank after the label and often ends them
with a blank line: both belong to the form of the prompt (`chat/prompts/formats.py`), not to what
has been said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from web.chat.messages import Call, Message
from web.chat.tool_calls import CallFinder
from web.schemas.answers import ToolCall


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


class ChatAnswer:
    """Reads one answer: `text` and `calls` are what it has held so far."""

    def __init__(
        self,
        finder: CallFinder | None = None,
        begun: str | None = None,
        noted: Callable[[Message, Sequence[int]], None] | None = None,
    ) -> None:
        """`finder` looks for calls; `begun` is the text that the model continues, if it does;
        `noted` hears of an answer that has ended: the message with what it continues, and the ids
        that were drawn."""
        self._finder = finder
        self._begun = begun or ""
        self._noted = noted
        self._trimmer = Trimmer(continues=begun is not None)
        self._said: list[str] = []
        self.calls: list[ToolCall] = []

    @property
    def text(self) -> str:
        return "".join(self._said)

    @property
    def message(self) -> Message:
        """As a client sends it back in the next turn."""
        calls = tuple(
            Call(call.function.name, msgspec.json.decode(call.function.arguments))
            for call in self.calls
        )
        return Message("assistant", self._begun + self.text, calls=calls)

    def feed(self, text: str) -> list[str | ToolCall]:
        """What can be told by now."""
        return self._read([text] if self._finder is None else self._finder.feed(text))

    def end(self, ids: Sequence[int] = ()) -> list[str | ToolCall]:
        """The rest. `ids`: all that were drawn."""
        rest = [] if self._finder is None else self._read(self._finder.end())
        if self._noted is not None:
            self._noted(self.message, ids)
        return rest

    def _read(self, items: Sequence[str | ToolCall]) -> list[str | ToolCall]:
        out: list[str | ToolCall] = []
        for item in items:
            if isinstance(item, ToolCall):
                self._trimmer.drop()
                self.calls.append(item)
                out.append(item)
            elif text := self._trimmer.feed(item):
                self._said.append(text)
                out.append(text)
        return out
