"""Calls of tools, found in text that comes in any pieces."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.schemas.answers import ToolCall
from web.schemas.tools import Function
from web.tool_calls import CallFinder, arguments_of

WEATHER = Function(
    "get_weather",
    None,
    {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "days": {"type": "integer"},
            "share": {"type": ["number", "null"]},
            "metric": {"type": "boolean"},
            "tags": {"type": "array"},
            "more": {"type": "object"},
        },
    },
)
CLOCK = Function("what-time", "the time", None)
CALL = 'get_weather\n```python\ntool_call("location"="Paris", "unit"="celsius")\n```'
NOW = "what-time\n```python\ntool_call()\n```"


def found(pieces: list[str], **options: Any) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """The text, and the calls."""
    finder = CallFinder([WEATHER, CLOCK], **options)
    items = [item for piece in pieces for item in finder.feed(piece)] + finder.end()
    calls = [item for item in items if isinstance(item, ToolCall)]
    assert finder.calls == len(calls)
    assert len({call.id for call in calls}) == len(calls)
    assert all(re.fullmatch(r"call_[A-Za-z0-9]{24}", call.id) for call in calls)
    text = "".join(item for item in items if isinstance(item, str))
    return text, [(call.function.name, json.loads(call.function.arguments)) for call in calls]


PARIS = ("get_weather", {"location": "Paris", "unit": "celsius"})
ANSWERS = [
    (f" {CALL}\n\n", "", [PARIS]),
    (CALL, "", [PARIS]),
    (CALL.removesuffix("\n```"), "", [PARIS]),  # a stop cut its last line
    (CALL.removesuffix("```"), "", [PARIS]),
    (f" {CALL}\n{NOW}", "", [PARIS, ("what-time", {})]),
    (f"Let me see.\n\n{CALL}", "Let me see.", [PARIS]),
    (f"{NOW} and then {CALL} done", "and then\ndone", [("what-time", {}), PARIS]),
    (" It is sunny.\n\n", " It is sunny.\n\n", []),
    ("", "", []),
    ("word", "word", []),
    ("x\n```python\nprint(1)\n```\n", "x\n```python\nprint(1)\n```\n", []),
    ("other\n```python\ntool_call()\n```", "other\n```python\ntool_call()\n```", []),
    (CALL[:40], CALL[:40], []),  # cut short
    ("get_weather ``` tool_call('days'='3')```", "", [("get_weather", {"days": 3})]),
]


@pytest.mark.parametrize(("answer", "text", "calls"), ANSWERS)
def test_answers(answer: str, text: str, calls: list[Any]) -> None:
    whole = found([answer])
    assert whole == (text, calls)
    assert found(list(answer)) == whole
    for seed in range(20):
        source = random.Random(seed)
        cuts = sorted(source.sample(range(len(answer) + 1), min(4, len(answer))))
        pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
        assert found(pieces) == whole


def test_one_call_if_asked() -> None:
    assert found([CALL, NOW], parallel=False)[1] == [PARIS]


@given(st.text("ab `\n(tool_call)python\"'=,"))
def test_text_without_calls_passes_whole(text: str) -> None:
    finder = CallFinder([Function("nothing-like-it", None, None)])
    items = [item for letter in text for item in finder.feed(letter)] + finder.end()
    assert "".join(items) == text  # type: ignore[arg-type]


def test_plain_text_is_not_held_for_long() -> None:
    finder = CallFinder([WEATHER])
    text = "".join(str(item) for item in finder.feed("I am just a language model and do not know"))
    assert text == "I am just a language model and do not"
    for hard in ("x" * 100_000, "```" * 30_000, " " * 100_000, "a ```" + "b " * 50_000):
        finder = CallFinder([WEATHER])
        said = sum(len(item) for item in finder.feed(hard) if isinstance(item, str))
        assert said > len(hard) - 200


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ('"location"="Paris"', {"location": "Paris"}),
        ("'location'='Paris'", {"location": "Paris"}),
        ('location="Paris", "days"=3', {"location": "Paris", "days": 3}),
        ('"location"=""', {"location": ""}),
        ('"location"="a "quoted" place"', {"location": 'a "quoted" place'}),
        ('"location"="a, b", "days"="3"', {"location": "a, b", "days": 3}),
        ('"location"="12"', {"location": "12"}),  # declared as a string
        ('"days"="3"', {"days": 3}),
        ('"days"="three"', {"days": "three"}),
        ('"days"="3.5"', {"days": "3.5"}),
        ('"days"="True"', {"days": "True"}),
        ('"share"="0.5"', {"share": 0.5}),
        ('"share"="None"', {"share": None}),
        ('"metric"="True"', {"metric": True}),
        ('"metric"="false"', {"metric": False}),
        ('"tags"="[1, True, None]"', {"tags": [1, True, None]}),
        ("\"tags\"=\"['a', 'b']\"", {"tags": ["a", "b"]}),
        ('"tags"=["a", "b"], "days"=2', {"tags": ["a", "b"], "days": 2}),
        ('"more"="{\'a\': 1}"', {"more": {"a": 1}}),
        ('"unknown"="3"', {"unknown": "3"}),
        ('"unknown"=3, "x"=None, "y"=word', {"unknown": 3, "x": None, "y": "word"}),
        ('"location"="Zürich", ', {"location": "Zürich"}),
        ('\n  "location" = "Paris",\n  "days" = "2"\n', {"location": "Paris", "days": 2}),
        ("nonsense", {}),
        ('"location"="never closed', {}),
    ],
)
def test_arguments(text: str, arguments: dict[str, Any]) -> None:
    assert arguments_of(text, WEATHER.parameters) == arguments


@given(st.text("\"'=, a()[]{}\\\n"))
def test_any_arguments_are_read(text: str) -> None:
    json.dumps(arguments_of(text, WEATHER.parameters), allow_nan=False)


@pytest.mark.parametrize("text", ['"a"=' + '", ' * 2700, '"a"="' + " " * 8000, '"a"=,' * 1600])
def test_hard_arguments_end(text: str) -> None:
    arguments_of(text[:8192], WEATHER.parameters)


@pytest.mark.parametrize("parameters", [None, {}, {"properties": 5}, {"properties": {"a": 5}}])
def test_odd_schemas(parameters: Any) -> None:
    assert arguments_of('"a"="1"', parameters) == {"a": "1"}
