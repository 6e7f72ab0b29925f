"""Finds the calls of tools in what a model writes, as it comes:

    get_weather
    ```python
    tool_call("location"="Paris", "days"="3")
    ```

Used by `resources/chat.py`, for whole answers, and by `web/sse.py`, for streams. Text that may
become a call is held back; the rest passes. Never runs or checks a call.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import string
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from web.schemas.answers import CalledFunction, ToolCall
from web.schemas.tools import Function

_ID = string.ascii_letters + string.digits
_ID_LENGTH = 24
_MOST_KEPT = 1000
_LONGEST_KEPT = 1 << 16  # characters of a description
_LONGEST = 8192  # characters of the arguments of one call; what is longer stays text

_HEAD = re.compile(r"([\w.-]{1,64})\s{0,16}```[\w\s]{0,32}?tool_call\s{0,4}\(")
_MAY_BE_HEAD = re.compile(r"\s{0,64}(?:[\w.-]{1,64}\s{0,16}(?:`{1,2}|```[\w\s]{0,48})?)?\Z")
_LONGEST_HEAD = 200  # characters in which _MAY_BE_HEAD looks
_CLOSE = re.compile(r"\)\s{0,16}```")

_NEXT = r"(?=\s*,\s*(?:\"[^\"]*\"|'[^']*'|\w+)\s*=|\s*,?\s*\Z)"  # another pair, or the end
_KEY = re.compile(r"[\s,]*(?:\"(?P<a>[^\"]*)\"|'(?P<b>[^']*)'|(?P<c>\w+))\s*=\s*")
_VALUE = {
    '"': re.compile(rf'"(?P<value>.*?)"{_NEXT}', re.S),
    "'": re.compile(rf"'(?P<value>.*?)'{_NEXT}", re.S),
    "": re.compile(rf"(?P<value>.*?){_NEXT}", re.S),
}
_PYTHON = {"True": True, "False": False, "None": None}
_KINDS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class RememberedTools:
    """The descriptions of the tools that were called last, by the ids of the calls: who brings the
    result of a call need not describe its tools again, as with RWKV Runner."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()

    def keep(self, call_id: str, description: str) -> None:
        if len(description) <= _LONGEST_KEPT:
            self._kept[call_id] = description
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def of(self, call_id: str | None) -> str | None:
        return None if call_id is None else self._kept.get(call_id)


class CallFinder:
    """Reads one answer. `calls` is how many it has found; `noted` hears the id of each."""

    def __init__(
        self,
        functions: Sequence[Function],
        parallel: bool = True,
        noted: Callable[[str], None] | None = None,
    ) -> None:
        self._noted = noted
        self._parameters = {function.name: function.parameters for function in functions}
        self._parallel = parallel
        self._held = ""  # text that may begin a call, or the arguments of one
        self._head = ""  # as it was written; "" outside a call
        self._name = ""
        self._after_call = self._said = False
        self.calls = 0

    def feed(self, text: str) -> list[str | ToolCall]:
        """What can be told by now."""
        self._held += text
        out: list[str | ToolCall] = []
        while self._arguments(out) if self._head else self._text(out):
            pass
        return out

    def end(self) -> list[str | ToolCall]:
        """The rest: a call that lacks only its last marks, or text."""
        out: list[str | ToolCall] = []
        if self._head:
            body = self._held.rstrip().rstrip("`").rstrip()
            if body.endswith(")"):
                self._found(body[:-1], out)
            else:
                self._say(self._head + self._held, out)
        else:
            self._say(self._held, out)
        self._head = self._held = ""
        return out

    def _text(self, out: list[str | ToolCall]) -> bool:
        """Looks for the head of a call. True: there is more to read."""
        head = _HEAD.search(self._held)
        if head is None:
            tail = max(0, len(self._held) - _LONGEST_HEAD)
            held = _MAY_BE_HEAD.search(self._held, tail)
            safe = held.start() if held is not None else len(self._held)
            self._say(self._held[:safe], out)
            self._held = self._held[safe:]
            return False
        known = head[1] in self._parameters
        before = self._held[: head.start()].rstrip() if known else self._held[: head.end()]
        self._say(before, out)
        self._held = self._held[head.end() :]
        if known:
            self._head, self._name = head[0], head[1]
        return True

    def _arguments(self, out: list[str | ToolCall]) -> bool:
        """Looks for the end of a call. True: there is more to read."""
        close = _CLOSE.search(self._held)
        if close is not None and close.start() <= _LONGEST:
            body, self._held = self._held[: close.start()], self._held[close.end() :]
            self._found(body, out)
        elif len(self._held) > _LONGEST:
            self._say(self._head + self._held, out)
            self._held = ""
        else:
            return False
        self._head = ""
        return True

    def _found(self, body: str, out: list[str | ToolCall]) -> None:
        if self.calls and not self._parallel:
            return
        self.calls += 1
        self._after_call = True
        arguments = arguments_of(body, self._parameters.get(self._name))
        id = "call_" + "".join(secrets.SystemRandom().sample(_ID, _ID_LENGTH))
        if self._noted is not None:
            self._noted(id)
        text = json.dumps(arguments, ensure_ascii=False)
        out.append(ToolCall(id=id, function=CalledFunction(self._name, text)))

    def _say(self, text: str, out: list[str | ToolCall]) -> None:
        """Blanks around calls are part of their form."""
        if self._after_call:
            text = text.lstrip()
            if text and self._said:
                text = f"\n{text}"
        if text:
            self._after_call, self._said = False, True
            out.append(text)


def arguments_of(text: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """The pairs of a call. Values are strings, unless they stand without quotes or the function's
    parameters say another type. A quote inside a value stays; what is no pair ends the reading."""
    found: dict[str, Any] = {}
    at = 0
    while (key := _KEY.match(text, at)) is not None:
        quote = text[key.end() : key.end() + 1]
        value = _VALUE[quote if quote in ("'", '"') else ""].match(text, key.end())
        if value is None:
            break
        name = next(part for part in (key["a"], key["b"], key["c"]) if part is not None)
        given = value["value"]
        found[name] = _typed(given, _kinds(parameters, name), quoted=quote in ("'", '"'))
        at = value.end()
    return found


def _kinds(parameters: dict[str, Any] | None, name: str) -> list[str]:
    """The JSON types that a function's parameter may have."""
    properties = (parameters or {}).get("properties")
    schema = properties.get(name) if isinstance(properties, dict) else None
    kind = schema.get("type") if isinstance(schema, dict) else None
    kinds = kind if isinstance(kind, list) else [kind]
    return [one for one in kinds if isinstance(one, str)]


def _typed(text: str, kinds: list[str], quoted: bool) -> Any:
    if "string" in kinds or (quoted and not kinds):
        return text
    value = _literal(text.strip())
    if not kinds:
        return value
    fits = any(type(value) in _KINDS.get(kind, ()) for kind in kinds)
    return value if fits else text


def _literal(text: str) -> Any:
    """A value as Python or JSON writes it; the text itself if it is neither."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value
