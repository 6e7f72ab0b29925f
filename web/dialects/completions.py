"""OpenAI's completions. Called by `resources/openai/completions.py`."""

from __future__ import annotations

import msgspec

from web.chat.answers import Answer
from web.chat.events import Event, Finish, Text
from web.dialects.openai import Api
from web.schemas.answers import Completion, CompletionChoice


class TextChoice(msgspec.Struct, gc=False):
    index: int
    text: str
    logprobs: None = None
    finish_reason: str | None = None


def _choice(event: Event) -> TextChoice | None:
    if type(event) is Text:
        return TextChoice(event.index, event.text)
    if type(event) is Finish:
        return TextChoice(event.index, "", None, event.reason)
    return None  # there is no role, and calls are text


def _whole_choice(index: int, answer: Answer) -> CompletionChoice:
    return CompletionChoice(answer.text, index, answer.reason)


COMPLETIONS = Api("cmpl", "text_completion", _choice, Completion, _whole_choice)
