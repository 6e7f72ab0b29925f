"""Finds the calls of tools in what a model writes, as it comes:

    get_weather
    ```python
    tool_call("location"="Paris", "days"="3")
    ```

Made by `chat/turn.py`, fed by `chat/answers.py`. Text that may become a call is held back; the rest
passes. Never runs or checks a call.
"""

from __future__ import annotations

import json
import re
import secrets
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from web.chat.events import ToolCall
from web.chat.messages import Function
from web.chat.tool_arguments import FENCE, ArgumentReader

_ID = string.ascii_letters + string.digits
_ID_LENGTH = 24
_MOST_BYTES = 16 << 20  # of descriptions: some thousands
_LONGEST_KEPT = 1 << 16  # characters of a description
_LONGEST = 1 << 20  # characters of the arguments of one call; what is longer stays text

# Between the name of a function and its arguments.
_OPENING = re.compile(r"```[\w\s]{0,32}?tool_call\s{0,4}\(")
_MAY_BE_OPENING = re.compile(r"`{0,2}\Z|```[\w\s]{0,48}\Z")
_LONGEST_OPENING = 64
_MOST_BLANKS = 16  # between a name and its opening
# Calls in one text that end only because the text does. Each is found by reading all that follows.
_MOST_ENDS = 4
_HELD_BLANKS = 64  # before a call; they belong to its form


class RememberedTools:
    """The descriptions of the tools that were called last, by the ids of the calls: who brings the
    result of a call need not describe its tools again, as with RWKV Runner."""

    def __init__(self) -> None:
        self._kept: LRUCache[str, str] = LRUCache(_MOST_BYTES, getsizeof=sys.getsizeof)

    def keep(self, call_id: str, description: str) -> None:
        if len(description) <= _LONGEST_KEPT:
            self._kept[call_id] = description

    def of(self, call_id: str | None) -> str | None:
        return None if call_id is None else self._kept.get(call_id)


class CallFinder:
    """Reads the answer `index`. `calls` is how many it has found; `noted` hears the id of each."""

    def __init__(
        self,
        functions: Sequence[Function],
        parallel: bool = True,
        noted: Callable[[str], None] | None = None,
        index: int = 0,
    ) -> None:
        self._index = index
        self._noted = noted
        self._parameters = {function.name: function.parameters for function in functions}
        self._names = sorted(self._parameters, key=len, reverse=True)
        self._beginnings = {name[:n] for name in self._names for n in range(1, len(name) + 1)}
        self._parallel = parallel
        self._held = ""  # text that may begin a call
        self._call: _Call | None = None
        self._after_call = self._said = False
        self.calls = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        """What can be told by now."""
        out: list[str | ToolCall] = []
        while text:
            if self._call is None:
                self._held += text
                text = self._text(out)
            else:
                text = self._arguments(text, out)
        return out

    def end(self) -> list[str | ToolCall]:
        """The rest: a call that lacks only its last marks, or text."""
        out: list[str | ToolCall] = []
        for _ in range(_MOST_ENDS):
            if self._call is None:
                break
            out += self.feed(self._arguments("", out, final=True))
        if self._call is not None:
            self._say(self._call.head + self._call.arguments.text, out)
            self._call = None
        self._say(self._held, out)
        self._held = ""
        return out

    def _text(self, out: list[str | ToolCall]) -> str:
        """Looks for the head of a call. What follows it is not read yet."""
        held, at = self._held, 0
        while (at := held.find(FENCE, at)) >= 0:
            if (opening := _OPENING.match(held, at)) is not None:
                name, start = self._named(held, at)
                if name is not None:
                    self._say(held[:start].rstrip(), out)
                    self._held = ""
                    self._call = _Call(name, held[start : opening.end()], ArgumentReader())
                    return held[opening.end() :]
            at += 1
        safe = self._safe(held)
        self._say(held[:safe], out)
        self._held = held[safe:]
        return ""

    def _named(self, text: str, end: int) -> tuple[str | None, int]:
        """The function whose name ends before `end`, blanks aside, and where it begins."""
        while end > 0 and text[end - 1].isspace():
            end -= 1
        for name in self._names:
            start = end - len(name)
            if text.endswith(name, 0, end) and start >= 0 and _begins_word(text, start):
                return name, start
        return None, end

    def _safe(self, text: str) -> int:
        """The number of characters that belong to no call, whatever follows."""
        start = len(text)
        fence = text.rfind(FENCE, max(0, start - _LONGEST_OPENING))
        opening = fence if fence >= 0 else len(text.rstrip("`"))
        if _MAY_BE_OPENING.match(text, opening) is not None:
            name, begin = self._named(text, opening)
            if name is not None and opening - begin - len(name) <= _MOST_BLANKS:
                start = begin
        if start == len(text):
            longest = len(self._names[0]) if self._names else 0
            for begin in range(max(0, start - longest), start):
                if text[begin:] in self._beginnings and _begins_word(text, begin):
                    start = begin
                    break
        held = text[max(0, start - _HELD_BLANKS) : start]
        return start - (len(held) - len(held.rstrip()))

    def _arguments(self, text: str, out: list[str | ToolCall], final: bool = False) -> str:
        """Looks for the end of a call. What follows it is not read yet."""
        call = self._call
        assert call is not None
        if not call.arguments.feed(text, final):
            if final or len(call.arguments.text) > _LONGEST:
                self._say(call.head + call.arguments.text, out)
                self._call = None
            return ""
        self._call = None
        whole, end = call.arguments.text, call.arguments.end
        self._found(call, whole[:end], out)
        return whole[end:]

    def _found(self, call: _Call, written: str, out: list[str | ToolCall]) -> None:
        arguments = call.arguments.arguments(self._parameters[call.name])
        if arguments is None:
            self._say(call.head + written, out)
            return
        if self.calls and not self._parallel:
            return
        self._after_call = True
        id = "call_" + "".join(secrets.SystemRandom().sample(_ID, _ID_LENGTH))
        if self._noted is not None:
            self._noted(id)
        text = json.dumps(arguments, ensure_ascii=False)
        out.append(ToolCall(self._index, self.calls, id, call.name, text))
        self.calls += 1

    def _say(self, text: str, out: list[str | ToolCall]) -> None:
        """Blanks around calls are part of their form."""
        if self._after_call:
            text = text.lstrip()
            if text and self._said:
                text = f"\n{text}"
        if text:
            self._after_call, self._said = False, True
            out.append(text)


@dataclass(slots=True)
class _Call:
    """A call that is being read."""

    name: str
    head: str  # as it was written
    arguments: ArgumentReader


def _begins_word(text: str, at: int) -> bool:
    """Whether a name may begin at `at`: not in the middle of a longer one."""
    return at == 0 or not (_in_word(text[at]) and _in_word(text[at - 1]))


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter in "_.-"
