"""Reads the fields of a JSON object, leniently in type and strictly in range.

Existing clients send `"12"`, `"true"` and `12.0` where a number or a boolean is meant, and null
where they mean nothing, so those are taken. Everything else is refused with the field's name and
its range. Called by the other schemas; knows no field by name.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from web import errors
from web.threadpool import in_thread

T = TypeVar("T")

# Bytes of a body above which a thread reads it. Such a thread lets the hub run every 5 ms, except
# inside one call of C: decoding 30 MB takes 0.05 s as text, 0.2 s or more as numbers, and seconds
# as millions of objects, so those are counted first, a piece at a time.
_LARGE = 64 << 10
_MOST_VALUES = 1 << 19  # strings, arrays and objects of one body
_MOST_NUMBERS = 1 << 21  # of one body; /tokenize gives 2^20 ids at most
_PIECE = 1 << 20  # bytes
_LONGEST_NUMBER = 400  # characters of a number in quotes

# In a field's extra_json_schema: what clients may send, where the struct holds something else.
WIRE = "x-wire"
TOKEN_ID = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}

_PACKED = b"\x1f\x8b"
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of byte order

_INTEGER = re.compile(r"[+-]?\d{1,30}(\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LONE = re.compile(rb"(?i)\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]")
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}


def read(body: bytes, schema: Callable[[Fields], T]) -> T:
    """The request that a body holds. Lets others run while it reads a large one."""
    if len(body) <= _LARGE:
        return schema(decode(body))

    def run() -> T:
        objects, commas = _values(body)
        if objects > _MOST_VALUES:
            raise errors.invalid(
                "body", f"must have at most {_MOST_VALUES} strings, arrays and objects"
            )
        if commas >= _MOST_NUMBERS:
            raise errors.invalid("body", f"must have at most {_MOST_NUMBERS} numbers")
        return schema(decode(body))

    return in_thread(run)


def _values(body: bytes) -> tuple[int, int]:
    """How many strings, arrays and objects a valid JSON text holds, and how many commas."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # what is escaped ends no string
    objects, commas = plain.count(b'"') // 2, 0
    if objects > _MOST_VALUES:
        return objects, commas
    outside = b"".join(plain.split(b'"')[::2])
    for start in range(0, len(outside), _PIECE):
        piece = outside[start : start + _PIECE]
        objects += piece.count(b"[") + piece.count(b"{")
        commas += piece.count(b",")
    return objects, commas


def decode(body: bytes) -> Fields:
    """The object that a request body holds."""
    body = body.removeprefix(b"\xef\xbb\xbf")  # some editors put a byte order mark before UTF-8
    if not body.strip():
        raise errors.bad_json("it is empty")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise errors.bad_json("it is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as problem:  # ValueError: not UTF-8
        raise errors.bad_json(_what_is_wrong(str(problem), body)) from None
    if not isinstance(value, dict):
        raise errors.invalid("body", "must be a JSON object")
    return Fields(value)


def _what_is_wrong(problem: str, body: bytes) -> str:
    if body.startswith(_PACKED):
        return "it must be UTF-8, and is packed by gzip"
    if body.startswith(_MARKS) or b"\0" in body[:4]:  # JSON begins with two letters of ASCII
        return "it must be UTF-8, and seems to be UTF-16 or UTF-32"
    if ("truncated" in problem or "surrogate" in problem) and _LONE.search(body):
        return "it holds half of a surrogate pair, which is no character"
    return problem.partition(" - at `")[0]  # such a path names no field: `$[...]`


class Fields:
    """One JSON object. Every getter returns None for a field that is absent or null."""

    __slots__ = ("_path", "_values")

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def name(self, field: str) -> str:
        """What errors call a field: `temperature`, `messages[2].content`."""
        return f"{self._path}.{field}" if self._path else field

    def raw(self, field: str) -> Any:
        return self._values.get(field)

    def has(self, field: str) -> bool:
        return field in self._values

    def integer(self, field: str, low: int, high: int) -> int | None:
        value = self._values.get(field)
        if value is None:
            return None
        number = as_integer(value)
        if number is None or not low <= number <= high:
            raise self.wrong(field, f"must be an integer between {low} and {high}")
        return number

    def number(self, field: str, low: float, high: float) -> float | None:
        value = self._values.get(field)
        if value is None:
            return None
        number = as_number(value)
        if number is None or not low <= number <= high:  # NaN is in no range
            raise self.wrong(field, f"must be a number between {low:g} and {high:g}")
        return number

    def boolean(self, field: str) -> bool | None:
        value = self._values.get(field)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        if isinstance(value, (int, float)) and value in (0, 1):
            return bool(value)
        raise self.wrong(field, "must be true or false")

    def text(self, field: str, shortest: int = 0, longest: int | None = None) -> str | None:
        value = self._values.get(field)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(field, "must be a string")
        if len(value) < shortest:
            raise self.wrong(field, f"must have at least {shortest} character")
        if longest is not None and len(value) > longest:
            raise self.wrong(field, f"must have at most {longest} characters")
        return value

    def items(self, field: str, most: int | None = None) -> list[Any] | None:
        value = self._values.get(field)
        if value is not None and not isinstance(value, list):
            raise self.wrong(field, "must be an array")
        if value is not None and most is not None and len(value) > most:
            raise self.wrong(field, f"must have at most {most} elements")
        return value

    def table(self, field: str) -> Fields | None:
        value = self._values.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(field, "must be an object")
        return Fields(value, self.name(field))

    def plain(self, struct: type[msgspec.Struct], *names: str) -> dict[str, Any]:
        """These fields of a struct, read by the types and ranges of its annotations. So a range is
        said once, for requests and for /openapi.json."""
        getters = _getters(struct)
        return {name: getters[name](self) for name in names}

    def pairs(self) -> list[tuple[str, Any]]:
        return list(self._values.items())

    def wrong(self, field: str, problem: str) -> errors.Refusal:
        return errors.invalid(self.name(field), problem)

    def refuse(self, field: str, what: str = "is not supported") -> errors.Refusal:
        return errors.unsupported(self.name(field), what)


@functools.cache
def _getters(struct: type[msgspec.Struct]) -> dict[str, Callable[[Fields], Any]]:
    """How each field of a struct is read that is a number, a boolean or a text."""
    known = {}
    for field in inspect.type_info(struct).fields:  # type: ignore[union-attr]
        kinds = getattr(field.type, "types", [field.type])
        plain = [
            _getter(field.name, kind) for kind in kinds if not isinstance(kind, inspect.NoneType)
        ]
        if len(plain) == 1 and plain[0] is not None:
            known[field.name] = plain[0]
    return known


def _getter(name: str, kind: inspect.Type) -> Callable[[Fields], Any] | None:
    match kind:
        case inspect.Metadata():  # a description
            return _getter(name, kind.type)
        case inspect.IntType(ge=int(low), le=int(high)):
            return lambda fields: fields.integer(name, low, high)
        case inspect.FloatType(ge=low, le=high) if low is not None and high is not None:
            return lambda fields: fields.number(name, low, high)
        case inspect.BoolType():
            return lambda fields: fields.boolean(name)
        case inspect.StrType():
            return lambda fields: fields.text(name, kind.min_length or 0, kind.max_length)
    return None


def as_integer(value: Any) -> int | None:
    """12, 12.0, "12", "12.0", true -> an int; None for anything else."""
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value.partition(".")[0])
    return None


def as_number(value: Any) -> float | None:
    """0.5, 1, "0.5", true -> a float; None for anything else, also for infinities."""
    if isinstance(value, str):
        fits = len(value) <= _LONGEST_NUMBER and _NUMBER.fullmatch(value)
        value = float(value) if fits else None
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
