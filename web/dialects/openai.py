"""What OpenAI's two old APIs, chats and completions, have in common: frames of server-sent events
that end in LF LF, and objects that begin alike. `chat.py` and `completions.py` have what differs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from web.chat.answers import Answer
from web.chat.events import Event, Usage
from web.dialects import openai_errors
from web.engine.serving import Serving
from web.errors import Refusal
from web.schemas import answers as shapes

_DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Api:
    """One of the two."""

    id: str  # what ids begin with
    chunk: str  # `object` of a frame
    choice: Callable[[Event], Any]
    """An event as the choice of a frame; None: it has none."""
    whole: type[shapes.ChatCompletion] | type[shapes.Completion]
    whole_choice: Callable[[int, Answer], Any]


class Chunk(msgspec.Struct, kw_only=True):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Any]
    usage: shapes.Usage | UnsetType | None


class OpenAiEncoder:
    """One answer. A frame costs 1 us of a core, of which 0.5 us are JSON."""

    content_type = "text/event-stream; charset=utf-8"
    ping = b": ping\n\n"

    def __init__(self, api: Api, serving: Serving, include_usage: bool = False) -> None:
        self._api = api
        self._heading = {
            "id": f"{api.id}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": serving.name,
            "system_fingerprint": serving.fingerprint,
        }
        self._include_usage = include_usage
        # With include_usage every chunk has the field, and all but the last have null.
        usage = None if include_usage else UNSET
        self._chunk = Chunk(object=api.chunk, choices=[], usage=usage, **self._heading)

    def frames(self, events: Iterable[Event]) -> bytes:
        out, chunk, choice_of = [], self._chunk, self._api.choice
        for event in events:
            if (choice := choice_of(event)) is not None:
                chunk.choices = [choice]
                out.append(_frame(chunk))
            elif isinstance(event, Usage):
                if self._include_usage:
                    chunk.choices, chunk.usage = [], _usage(event)
                    out.append(_frame(chunk))
                out.append(_DONE)
        return b"".join(out)

    def failed(self, refusal: Refusal) -> bytes:
        """OpenAI's clients raise it."""
        return _frame(openai_errors.body(refusal)) + _DONE

    def body(self, answers: Sequence[Answer], usage: Usage) -> bytes:
        choices = [self._api.whole_choice(*one) for one in enumerate(answers)]
        return _encode(self._api.whole(choices=choices, usage=_usage(usage), **self._heading))


def _frame(value: Any) -> bytes:
    return b"data: %b\n\n" % _encode(value)


def _usage(usage: Usage) -> shapes.Usage:
    return shapes.usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
