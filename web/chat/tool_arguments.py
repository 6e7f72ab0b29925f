"""The arguments of a call as a model writes them, read while they come:

    "location"="Paris", "days"="3")
    ```

Models learnt this form from examples in which values stand between quotes as they are: nothing in
them is escaped, so a value may hold quotes, parentheses and fences of code. A quote ends a value
only where another pair or the end of the call follows it. Used by `web/chat/tool_calls.py`. Takes
time linear in the text, in however many pieces it comes.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, NamedTuple

import msgspec

from web.chat.messages import is_deep

FENCE = "```"
_LONGEST_KEY = 256  # characters; so far is looked ahead of each quote
_MOST_BLANKS = 64  # in a row, between the marks of a call
_MOST_PLACES = 64  # of a function's schema are looked at for one value
_LONGEST_PYTHON = 1 << 14  # characters of a value that Python's own parser may read

_QUOTES = ("'", '"')
_BRACKETS = re.compile(r"[][{}\"'\\]")
_WORD = re.compile(rf"\w{{1,{_LONGEST_KEY}}}")
_BARE_ENDS = re.compile(r"[,)]")

_PYTHON = {"True": True, "False": False, "None": None}
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class _Undecided(Exception):
    """More text is needed."""


class _Pair(NamedTuple):
    """`name` is None for a value by its place."""

    name: str | None
    text: str
    quoted: bool


class ArgumentReader:
    """Reads what follows `tool_call(`. `feed` until `end` is known."""

    def __init__(self) -> None:
        self.text = ""
        self.end: int | None = None
        """The number of characters of the arguments, their closing marks included."""
        self._pairs: list[_Pair] = []
        self._at = 0  # everything before has been read
        self._value: _Value | None = None

    def feed(self, text: str, final: bool = False) -> bool:
        """Reads on. True: the end has been found. `final`: no more text comes, so a call may lack
        its last marks."""
        whole, self.text = self.text, ""
        whole += text  # in its place: nobody else has it
        self.text = whole
        if final:
            whole = self.text.rstrip().rstrip("`").rstrip()
            if whole.endswith(")"):
                self.text = whole + FENCE
        try:
            while self.end is None:
                self._read(final)
        except _Undecided:
            if final:
                self._give_up()
        return self.end is not None

    def arguments(self, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the call gives to a function whose JSON schema is `parameters`. Values between
        quotes are strings, unless the schema says another type. None: the text cannot be read."""
        pairs = self._pairs
        schema = parameters or {}
        named = schema.get("properties")
        names = list(named) if isinstance(named, dict) else []
        if len(pairs) == 1 and pairs[0].name is None:
            value = _literal(pairs[0].text.strip())
            one_text = len(names) == 1 and pairs[0].quoted
            if isinstance(value, dict) and not one_text:
                return value if all(isinstance(key, str) for key in value) else None
        free = iter([name for name in names if name not in {pair.name for pair in pairs}])
        found: dict[str, Any] = {}
        for pair in pairs:
            name = next(free, None) if pair.name is None else pair.name
            if name is None:
                return None
            found[name] = _typed(pair.text, _Schemas(schema).property(name), pair.quoted)
        return found

    # -- one step each; _Undecided where the text ends too early

    def _read(self, final: bool) -> None:
        if self._value is None:
            at = self._at
            while at < len(self.text) and (self.text[at].isspace() or self.text[at] == ","):
                at += 1
            self._at = at
            if (after := _closed(self.text, at, final)) is not None:
                self.end = after
                return
            key, at = _key(self.text, at, final)
            if at >= len(self.text):
                raise _Undecided
            self._value = _Value(key, self.text, at)
        value = self._value
        stop, after = value.ends(self.text, final)
        self._take(value, stop)
        if after is None:
            self._at = stop + value.quoted
        else:
            self.end = after

    def _take(self, value: _Value, stop: int) -> None:
        text = self.text[value.start : stop]
        self._pairs.append(_Pair(value.name, text if value.quoted else text.strip(), value.quoted))
        self._value = None

    def _give_up(self) -> None:
        """The answer has ended inside of the arguments."""
        value = self._value
        if value is None:
            return
        if value.doubtful is not None:
            stop, self.end = value.doubtful
            self._take(value, stop)
        elif self.text.endswith(")" + FENCE):  # a value that lacks its closing mark
            self.end = len(self.text)
            self._take(value, self.end - len(")" + FENCE))


class _Value:
    """A value that has begun."""

    __slots__ = ("_at", "_depth", "_fences", "_inner", "doubtful", "name", "quoted", "start")

    def __init__(self, name: str | None, text: str, at: int) -> None:
        self.name = name
        self.quoted = text[at] in _QUOTES
        self.start = self._at = at + self.quoted
        # Brackets that are open in a value without quotes, -1 once they prove to be none.
        self._depth = 0 if not self.quoted and text[at] in "[{" else -1
        self._inner = ""  # the quote of a string inside of brackets
        self._fences = 0
        self.doubtful: tuple[int, int] | None = None  # the first end that a block of code may hold

    def ends(self, text: str, final: bool) -> tuple[int, int | None]:
        """Where the value ends, and where the call does if it is its last."""
        if self.quoted:
            return self._quoted(text, text[self.start - 1], final)
        if self._depth >= 0:
            try:
                if (found := self._bracketed(text, final)) is not None:
                    return found
            except _Undecided:
                if not final:
                    raise
            self._depth, self._at = -1, self.start
        return self._bare(text, final)

    def _quoted(self, text: str, quote: str, final: bool) -> tuple[int, int | None]:
        while (at := text.find(quote, self._at)) >= 0:
            more, after = _next(text, at + 1, final, self.name is None)
            self._fences += text.count(FENCE, self._at, at)
            self._at = at + 1
            if more:
                return at, None
            if after is not None:
                if self._fences % 2 == 0:
                    return at, after
                # These marks close a block of code that the value has opened.
                self.doubtful = self.doubtful or (at, after)
        rest = text[self._at :]
        self._fences += rest.count(FENCE)
        # A fence may be cut in two by the end of the text: its marks are counted with the rest.
        cut = (len(rest) - len(rest.rstrip("`"))) % len(FENCE)
        self._at = len(text) - cut
        raise _Undecided

    def _bracketed(self, text: str, final: bool) -> tuple[int, int | None] | None:
        """None: the brackets do not end where a value may end."""
        while (mark := _BRACKETS.search(text, self._at)) is not None:
            letter, at = mark[0], mark.end()
            if letter == "\\":
                if at >= len(text):
                    self._at = mark.start()
                    raise _Undecided
                at += 1
            elif letter in _QUOTES:
                if not self._inner:
                    self._inner = letter
                elif self._inner == letter:
                    self._inner = ""
            elif not self._inner:
                depth = self._depth + (1 if letter in "[{" else -1)
                if depth == 0:
                    more, after = _next(text, at, final, self.name is None)
                    return (at, after) if more or after is not None else None
                self._depth = depth
            self._at = at
        self._at = len(text)
        raise _Undecided

    def _bare(self, text: str, final: bool) -> tuple[int, int | None]:
        while (mark := _BARE_ENDS.search(text, self._at)) is not None:
            more, after = _next(text, mark.start(), final, self.name is None)
            if more or after is not None:
                return mark.start(), after
            self._at = mark.end()
        self._at = len(text)
        raise _Undecided


def _next(text: str, at: int, final: bool, placed: bool) -> tuple[bool, int | None]:
    """What follows a value: whether it is another pair, and where the call ends if it does. Behind
    a value by its place, `placed`, another may stand."""
    at = _skip(text, at, final)
    if text.startswith(",", at):
        at = _skip(text, at + 1, final)
        if placed or _key(text, at, final)[0] is not None:
            return True, None
    return False, _closed(text, at, final)


def _key(text: str, at: int, final: bool) -> tuple[str | None, int]:
    """A name and where its value begins; None for a value by its place."""
    if at >= len(text) and not final:
        raise _Undecided
    quote = text[at : at + 1]
    if quote in _QUOTES:
        end = text.find(quote, at + 1, at + 2 + _LONGEST_KEY)
        if end < 0:
            if not final and len(text) < at + 2 + _LONGEST_KEY:
                raise _Undecided
            return None, at
        name, end = text[at + 1 : end], end + 1
    else:
        word = _WORD.match(text, at)
        if word is None:
            return None, at
        name, end = word[0], word.end()
    end = _skip(text, end, final)
    if text[end : end + 1] not in ("=", ":"):
        return None, at
    return name, _skip(text, end + 1, final)


def _closed(text: str, at: int, final: bool) -> int | None:
    """Where a call ends whose closing parenthesis stands at `at`; None: it does not."""
    if not text.startswith(")", at):
        return None
    at = _skip(text, at + 1, final)
    if text.startswith(FENCE, at):
        return at + len(FENCE)
    if not final and FENCE.startswith(text[at : at + len(FENCE) + 1]):
        raise _Undecided
    return None


def _skip(text: str, at: int, final: bool) -> int:
    """Behind some blanks. What follows them must be known."""
    end = min(len(text), at + _MOST_BLANKS)
    while at < end and text[at].isspace():
        at += 1
    if at == len(text) and not final:
        raise _Undecided
    return at


# -- types


class _Type(NamedTuple):
    """What a JSON schema says of a value."""

    kinds: frozenset[str] = frozenset()  # empty: anything
    values: tuple[Any, ...] = ()  # of an enum or a const; empty: all


class _Schemas:
    """Looks into one function's schema, at so many places at most: it is a stranger's."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = _MOST_PLACES

    def property(self, name: str) -> _Type:
        properties = self._root.get("properties")
        return self._type(properties.get(name)) if isinstance(properties, dict) else _Type()

    def _type(self, schema: Any) -> _Type:
        self._left -= 1
        if not isinstance(schema, dict) or self._left < 0:
            return _Type()
        if isinstance(ref := schema.get("$ref"), str):
            return self._type(self._target(ref))
        given = schema.get("type")
        named = given if isinstance(given, list) else [given]
        kinds = frozenset(one for one in named if isinstance(one, str) and one in _KINDS)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list) and values:
            return _Type(kinds or frozenset(map(_kind_of, values)), tuple(values))
        if kinds:
            return _Type(kinds)
        for word in ("anyOf", "oneOf"):
            if isinstance(schemas := schema.get(word), list) and schemas:
                return _either(list(map(self._type, schemas[:_MOST_PLACES])))
        if isinstance(schemas := schema.get("allOf"), list):
            types = map(self._type, schemas[:_MOST_PLACES])
            return next((one for one in types if one.kinds), _Type())
        if "properties" in schema:
            return _Type(frozenset(("object",)))
        return _Type(frozenset(("array",))) if "items" in schema else _Type()

    def _target(self, ref: str) -> Any:
        """What a JSON pointer into this document, such as `#/$defs/City`, names."""
        place: Any = self._root
        for part in ref.split("/")[1:] if ref.startswith("#") else ("",):
            name = part.replace("~1", "/").replace("~0", "~")
            place = place.get(name) if isinstance(place, dict) else None
        return place


def _either(types: list[_Type]) -> _Type:
    if not all(one.kinds for one in types):
        return _Type()
    kinds = frozenset().union(*(one.kinds for one in types))
    listed = all(one.values or one.kinds == {"null"} for one in types)
    return _Type(kinds, tuple(v for one in types for v in one.values) if listed else ())


def _kind_of(value: Any) -> str:
    return next(kind for kind, types in _KINDS.items() if type(value) in types)


def _typed(text: str, wanted: _Type, quoted: bool) -> Any:
    """A value of the wanted type if the text is one, else the text."""
    if text in wanted.values:
        return text
    if quoted and ("string" in wanted.kinds or not wanted.kinds) and not wanted.values:
        return text
    value = _literal(text.strip())
    if any(type(value) is type(one) and value == one for one in wanted.values):
        return value
    if quoted and "string" in wanted.kinds:
        return text
    fits = not wanted.kinds or any(type(value) in _KINDS[kind] for kind in wanted.kinds)
    return value if fits else text


def _literal(text: str) -> Any:
    """A value as Python or JSON writes it; the text itself if it is neither."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        if len(text) > _LONGEST_PYTHON:
            return text
        try:
            value = ast.literal_eval(text)
            # ValueError also for half of a surrogate pair, which is no character.
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return text
    return text if is_deep(value) else value
