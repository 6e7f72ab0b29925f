"""An answer as a telegram: one JSON object, or a line of JSON for each part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from web.chat.answers import Answer
from web.chat.events import Event, Finish, Text, Usage
from web.errors import Refusal


def problem(refusal: Refusal) -> dict[str, Any]:
    """The body of an error."""
    return {"stop": refusal.message, "about": refusal.param}


class TelegramEncoder:
    content_type = "application/x-ndjson"
    ping = b""  # a line would be a part

    def frames(self, events: Iterable[Event]) -> bytes:
        return b"".join(map(self._line, events))

    def failed(self, refusal: Refusal) -> bytes:
        return msgspec.json.encode(problem(refusal)) + b"\n"

    def body(self, answers: Sequence[Answer], usage: Usage) -> bytes:
        (answer,) = answers
        return msgspec.json.encode(
            {"words": answer.text, "end": answer.reason, "price": usage.completion_tokens}
        )

    def _line(self, event: Event) -> bytes:
        match event:
            case Text(text=text):
                said: dict[str, Any] = {"words": text}
            case Finish(reason=reason):
                said = {"end": reason}
            case Usage(completion_tokens=tokens):
                said = {"price": tokens}
            case _:
                return b""
        return msgspec.json.encode(said) + b"\n"
