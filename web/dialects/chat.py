"""OpenAI's chat completions. Called by `resources/openai/chat.py`."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from web.chat.answers import Answer
from web.chat.events import Begin, Event, Finish, Text, ToolCall
from web.dialects.openai import Api
from web.schemas import answers as shapes


def _choice(event: Event) -> dict[str, Any] | None:
    reason = None
    match event:
        case Text():
            delta: dict[str, Any] = {"content": event.text}
        case ToolCall():
            function = {"name": event.name, "arguments": event.arguments}
            call = {"id": event.id, "type": "function", "function": function}
            delta = {"tool_calls": [{"index": event.number, **call}]}
        case Finish():
            delta, reason = {}, event.reason
        case Begin():
            delta = {"role": "assistant", "content": ""}
        case _:
            return None
    return {"index": event.index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _whole_choice(index: int, answer: Answer) -> shapes.ChatChoice:
    calls = [
        shapes.ToolCall(id=call.id, function=shapes.CalledFunction(call.name, call.arguments))
        for call in answer.calls
    ]
    text = answer.text or (None if calls else "")
    message = shapes.ChatMessage(content=text, tool_calls=calls or UNSET)
    return shapes.ChatChoice(index, message, answer.reason)


CHAT = Api("chatcmpl", "chat.completion.chunk", _choice, shapes.ChatCompletion, _whole_choice)
