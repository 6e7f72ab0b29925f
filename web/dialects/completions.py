"""OpenAI's completions. Called by `resources/openai/completions.py`."""

from __future__ import annotations

from typing import Any

from web.chat.answers import Answer
from web.chat.events import Event, Finish, Text
from web.dialects.openai import Api
from web.schemas.answers import Completion, CompletionChoice


def _choice(event: Event) -> dict[str, Any] | None:
    if type(event) is Text:
        text, reason = event.text, None
    elif type(event) is Finish:
        text, reason = "", event.reason
    else:  # there is no role, and calls are text
        return None
    return {"index": event.index, "text": text, "logprobs": None, "finish_reason": reason}


def _whole_choice(index: int, answer: Answer) -> CompletionChoice:
    return CompletionChoice(answer.text, index, answer.reason)


COMPLETIONS = Api("cmpl", "text_completion", _choice, Completion, _whole_choice)
