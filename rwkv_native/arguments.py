"""Numbers that callers give, checked: an error names the argument and what it may be.

Called by whoever translates arguments for C.
"""

from __future__ import annotations

from typing import Any

from .errors import InvalidError


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """An integer of any kind from low to high, both included; no bool."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise _not_a("whole number", name, value)
    number = value.__index__()
    if not low <= number <= high:
        raise InvalidError(f"{name} must be {low} to {high}, not {number}")
    return number


def number(name: str, value: Any) -> float:
    """A float, of anything that Python makes one of but a text or a bool; it may be a NaN."""
    try:
        if not isinstance(value, str | bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _not_a("number", name, value)


def _not_a(what: str, name: str, value: Any) -> InvalidError:
    return InvalidError(f"{name} must be a {what}, not {value!r:.80}")
