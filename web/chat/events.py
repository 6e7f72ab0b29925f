"""What a turn says, one thing at a time and in the words of no API: every dialect encodes these.

`index` is the answer, of several to one request. What ends a turn early is no event: `Turn.take`
raises it, for streams and whole answers alike. News of another kind (thoughts, log-probabilities)
is a struct here, and a case in each dialect that shows it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Reason = Literal["stop", "length", "tool_calls"]


class Begin(msgspec.Struct, frozen=True, gc=False):
    """The first event of an answer, before the model is asked."""

    index: int


class Text(msgspec.Struct, frozen=True, gc=False):
    index: int
    text: str  # never empty


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A call as a whole: only its end shows that it is one, and what its arguments are."""

    index: int
    number: int  # of several in one answer, from 0
    id: str
    name: str
    arguments: str  # a JSON object


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The last event of an answer."""

    index: int
    reason: Reason


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The last event of a turn: tokens of all its answers."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None  # of the prompts, that were not computed; None: that is not told


Event = Begin | Text | ToolCall | Finish | Usage
