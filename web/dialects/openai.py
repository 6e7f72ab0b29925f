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
    choice: Callable[[Event], dict[str, Any] | None]
    """An event as the choice of a frame; None: it has none."""
    whole: type[shapes.ChatCompletion] | type[shapes.Completion]
    whole_choice: Callable[[int, Answer], Any]


class OpenAiEncoder:
    """One turn. A frame costs about 1 us of a core, half of it JSON."""

    content_type = "text/event-stream; charset=utf-8"
    ping = b": ping\n\n"

    def __init__(self, api: Api, serving: Serving, include_usage: bool = False) -> None:
        self._api = api
        self._include_usage = include_usage
        self._heading: dict[str, Any] = {
            "id": f"{api.id}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": serving.name,
            "system_fingerprint": serving.fingerprint,
        }
        self._chunk = {"id": None, "object": api.chunk, **self._heading, "choices": []}
        if include_usage:  # then every chunk has the field, and all but the last have null
            self._chunk["usage"] = None

    def frames(self, events: Iterable[Event]) -> bytes:
        out, chunk, choice_of = [], self._chunk, self._api.choice
        for event in events:
            if (choice := choice_of(event)) is not None:
                chunk["choices"] = [choice]
                out.append(_frame(chunk))
            elif isinstance(event, Usage):
                if self._include_usage:
                    out.append(_frame({**chunk, "choices": [], "usage": shapes.usage(event)}))
                out.append(_DONE)
        return b"".join(out)

    def failed(self, refusal: Refusal) -> bytes:
        """OpenAI's clients raise it."""
        return _frame(openai_errors.body(refusal)) + _DONE

    def body(self, answers: Sequence[Answer], usage: Usage) -> bytes:
        choices = [self._api.whole_choice(*one) for one in enumerate(answers)]
        return _encode(self._api.whole(choices=choices, usage=shapes.usage(usage), **self._heading))


def _frame(value: Any) -> bytes:
    return b"data: %b\n\n" % _encode(value)
