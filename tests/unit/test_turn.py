"""A turn: several answers at once, each with its own calls and its own end."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from player import CALL, SECOND

from web import errors
from web.chat.answers import Answer, Trimmer
from web.chat.events import Begin, Event, Finish, Text, ToolCall, Usage
from web.chat.messages import Function
from web.chat.tool_calls import CallFinder
from web.chat.turn import Turn
from web.dialects.chat import CHAT
from web.dialects.openai import OpenAiEncoder
from web.engine.generation import Piece

WEATHER = Function("get_weather", None, {"properties": {"days": {"type": "integer"}}})


class Script:
    """Stands in for a Generation: every take() plays the next step."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.closed = 0
        self.results = [SimpleNamespace(ids=array("i", [index])) for index in range(2)]

    @property
    def done(self) -> bool:
        return not self.steps

    def take(self, timeout: float | None = None) -> list[Piece]:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def usage(self) -> tuple[int, int, int | None]:
        return 2, 3, 1

    def close(self) -> None:
        self.closed += 1


def turn_of(*steps: Any, noted: dict[int, list[int]] | None = None) -> Turn:
    def reader(index: int) -> Answer:
        def note(message: Any, ids: Any) -> None:
            if noted is not None:
                noted[index] = list(ids)

        return Answer(index, Trimmer(), CallFinder([WEATHER], index=index), noted=note)

    return Turn(Script(*steps), [reader(0), reader(1)])  # type: ignore[arg-type]


# Two answers, their pieces between each other's: two calls, and text with a call.
BOTH = [
    [Piece(0, CALL[:30], None), Piece(1, " Let me", None)],
    [Piece(1, f" look.{CALL}", None), Piece(0, CALL[30:], None)],
    [Piece(0, SECOND, None), Piece(1, "\n", "length")],
    [Piece(0, "", "stop")],
]


def test_answers_with_calls_at_once() -> None:
    noted: dict[int, list[int]] = {}
    turn = turn_of(*BOTH, noted=noted)
    assert turn.take() == [Begin(0), Begin(1)]  # before anything is waited for
    events: list[Event] = []
    while not turn.done:
        events += turn.take()
    assert events.pop() == Usage(2, 3, 1)
    shown = [
        (e.index, e.number, e.arguments) if isinstance(e, ToolCall) else e
        for e in events
        if not isinstance(e, Usage)
    ]
    assert shown == [
        Text(1, "Let me"),
        Text(1, " look."),
        (1, 0, '{"location": "Paris", "days": 3}'),
        (0, 0, '{"location": "Paris", "days": 3}'),
        (0, 1, '{"location": "Rome"}'),
        Finish(1, "tool_calls"),
        Finish(0, "tool_calls"),
    ]
    assert noted == {0: [0], 1: [1]}  # each with the ids of its own


def test_whole_answers_are_those_of_a_stream() -> None:
    streamed, whole = turn_of(*BOTH), turn_of(*BOTH)
    serving: Any = SimpleNamespace(name="m", fingerprint="fp_1")
    frames = b""
    while not streamed.done:
        frames += OpenAiEncoder(CHAT, serving).frames(streamed.take())
    body = msgspec.json.decode(OpenAiEncoder(CHAT, serving).body(whole.answers, whole.collect()))
    assert whole.generation.closed == 1  # type: ignore[attr-defined]
    blocks = [one.removeprefix("data: ") for one in frames.decode().split("\n\n")[:-2]]
    parts = [msgspec.json.decode(block)["choices"][0] for block in blocks]
    for index, choice in enumerate(body["choices"]):
        own = [part for part in parts if part["index"] == index]
        deltas = [part["delta"] for part in own]
        text = "".join(delta.get("content", "") for delta in deltas)
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        message = choice["message"]
        assert (choice["index"], choice["finish_reason"]) == (index, own[-1]["finish_reason"])
        assert (message["content"] or "") == text
        assert [call.pop("index") for call in calls] == [*range(2 - index)]
        told = [(call["function"], call["type"]) for call in calls]
        assert [(call["function"], call["type"]) for call in message["tool_calls"]] == told


@pytest.mark.parametrize("problem", [errors.generation_failed("no numbers"), errors.ClientGone()])
def test_what_ends_a_turn_early_frees_it(problem: Exception) -> None:
    turn = turn_of([Piece(0, "x", None)], problem)
    with pytest.raises(type(problem)):
        turn.collect()
    assert turn.generation.closed == 1 and not turn.done  # type: ignore[attr-defined]


def test_a_long_piece_is_read_in_parts() -> None:
    text = "word " * 2000
    turn = turn_of([Piece(0, text, "stop"), Piece(1, "", "stop")])
    turn.collect()
    assert turn.answers[0].text == text.rstrip() and turn.answers[0].reason == "stop"
