"""Calls of tools, found in text that comes in any pieces."""

from __future__ import annotations

import json
import math
import random
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.chat.events import ToolCall
from web.chat.messages import Call, Function
from web.chat.prompts.tools import _written
from web.chat.tool_arguments import ArgumentReader
from web.chat.tool_calls import CallFinder, RememberedTools

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


def arguments_of(text: str, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of a whole call: what stands between its parentheses."""
    reader = ArgumentReader()
    return reader.arguments(parameters) if reader.feed(text + ")", final=True) else None


def found(pieces: list[str], **options: Any) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """The text, and the calls."""
    finder = CallFinder([WEATHER, CLOCK], **options)
    items = [item for piece in pieces for item in finder.feed(piece)] + finder.end()
    calls = [item for item in items if isinstance(item, ToolCall)]
    assert [call.number for call in calls] == [*range(finder.calls)]
    assert len({call.id for call in calls}) == len(calls)
    assert all(re.fullmatch(r"call_[A-Za-z0-9]{24}", call.id) for call in calls)
    text = "".join(item for item in items if isinstance(item, str))
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


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
    assert text == "I am just a language model and do not know"
    held = "".join(str(item) for item in CallFinder([WEATHER]).feed("I would get_wea"))
    assert held == "I would"
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
        ('"location"="never closed', {"location": "never closed"}),
        ('"location"="x) ```", "days"=3', {"location": "x) ```", "days": 3}),
        ('"location": "Paris", "days": 3', {"location": "Paris", "days": 3}),
        # Values by their place, as models write them that have seen more Python than examples.
        ('{"location": "Paris", "days": 3}', {"location": "Paris", "days": 3}),
        ("{'location': 'a) ```'}", {"location": "a) ```"}),
        ('"{"days": 3}"', {"days": 3}),
        ('"Paris"', {"location": "Paris"}),
        ("Paris", {"location": "Paris"}),
        ('"Paris", 3', {"location": "Paris", "days": 3}),
        ('"Paris", "share"=1', {"location": "Paris", "share": 1}),
        ('"tags"=["a)", {"b": ")```"}], "days"=2', {"tags": ["a)", {"b": ")```"}], "days": 2}),
        ('"tags"=[unclosed, "days"=2', {"tags": "[unclosed", "days": 2}),
    ],
)
def test_arguments(text: str, arguments: dict[str, Any]) -> None:
    assert arguments_of(text, WEATHER.parameters) == arguments


@given(st.text("\"'=, a()[]{}\\\n"))
def test_any_arguments_are_read(text: str) -> None:
    json.dumps(arguments_of(text, WEATHER.parameters), allow_nan=False)


def test_what_no_parameter_takes_is_no_call() -> None:
    assert arguments_of('"Paris"', None) is None
    assert arguments_of('"a", "b"', {"properties": {"x": {}}}) is None
    call = 'what-time\n```python\ntool_call("Paris")\n```'
    assert found([call]) == (call, [])


OPTIONAL = {
    "properties": {
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "hourly": {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
        "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "addr": {"$ref": "#/$defs/Addr"},
        "home": {"allOf": [{"description": "x"}, {"$ref": "#/$defs/Addr"}]},
        "level": {"enum": [1, 2, 3]},
        "mixed": {"enum": ["1", 2, None]},
        "fixed": {"const": 7},
        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "any": {"anyOf": [{}, {"type": "integer"}]},
        "list": {"items": {}},
        "loop": {"$ref": "#/properties/loop"},
        "way~/": {"$ref": "#/properties/way~0~1"},
        "nowhere": {"$ref": "https://example.com/x"},
        "odd": {"$ref": "#/$defs/Addr/required/0"},
    },
    "$defs": {"Addr": {"properties": {"city": {"type": "string"}}, "required": ["city"]}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"days"="3"', 3),
        ('"days"="None"', None),
        ('"days"="soon"', "soon"),
        ('"hourly"="True"', True),
        ('"tags"="[\'a\']"', ["a"]),
        ("\"addr\"=\"{'city': 'Paris'}\"", {"city": "Paris"}),
        ("\"home\"=\"{'city': 'Paris'}\"", {"city": "Paris"}),
        ('"level"="2"', 2),
        ('"level"="9"', 9),
        ('"mixed"="1"', "1"),
        ('"mixed"="2"', 2),
        ('"mixed"="None"', None),
        ('"fixed"="7"', 7),
        ('"name"="None"', "None"),
        ('"name"=None', None),
        ('"name"="12"', "12"),
        ('"any"="12"', "12"),
        ('"list"="[1]"', [1]),
        ('"loop"="1"', "1"),
        ('"way~/"="1"', "1"),
        ('"nowhere"="1"', "1"),
        ('"odd"="1"', "1"),
    ],
)
def test_types_of_schemas(text: str, value: Any) -> None:
    (read,) = (arguments_of(text, OPTIONAL) or {}).values()
    assert (read, type(read)) == (value, type(value))


def test_a_schema_without_end_is_looked_at_for_a_while() -> None:
    both = [{"$ref": "#/properties/a"}] * 100
    endless = {"properties": {"a": {"anyOf": both}}}
    assert arguments_of('"a"="1"', endless) == {"a": "1"}


NAMES = ["srv/get", "srv:get", "@get", "get weather", "获取天气", "a", "get", "(x)"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_found(name: str) -> None:
    call = f'{name}\n```python\ntool_call("a"="b")\n```'
    for others in ([], NAMES):
        for pieces in ([f"So: {call}"], list(f"So: {call}")):
            finder = CallFinder([Function(one, None, None) for one in [name, *others]])
            items = [item for piece in pieces for item in finder.feed(piece)] + finder.end()
            assert "".join(item for item in items if isinstance(item, str)) == "So:"
            (call_found,) = (item for item in items if isinstance(item, ToolCall))
            assert call_found.name == name


def test_a_name_inside_of_another_is_none() -> None:
    text = 'forget\n```python\ntool_call("a"="b")\n```'
    finder = CallFinder([Function("get", None, None)])
    assert finder.feed(text) + finder.end() == [text]


FILE = Function(
    "write_file",
    None,
    {"properties": {"path": {"type": "string"}, "content": {"type": "string"}}},
)
CONTENTS = [
    "# Demo\n```python\nprint(1)\n```\nend",  # the report's
    '# Demo\n```python\nprint("hi")\n```\nend',
    "f(x)\n```",  # a fence that is never closed
    'say ")\n',
    "a\n```\nb\n```\n```c\nd(')')\n```",
    "x" * 20_000,
    '"), ("',
    "",
]


@pytest.mark.parametrize("content", CONTENTS)
def test_values_lose_nothing(content: str) -> None:
    call = Call("write_file", {"path": "a.md", "content": content})
    text = f"I write.\n\n{_written(call)}\n\n"
    for pieces in ([text], list(text)):
        finder = CallFinder([FILE])
        items = [item for piece in pieces for item in finder.feed(piece)] + finder.end()
        assert "".join(item for item in items if isinstance(item, str)) == "I write."
        (made,) = (item for item in items if isinstance(item, ToolCall))
        assert json.loads(made.arguments) == call.arguments


@given(st.dictionaries(st.text("ab_", min_size=1), st.text("ab (){}[]`\n.'\\"), max_size=3))
def test_what_a_history_shows_is_read_back(arguments: dict[str, str]) -> None:
    text = _written(Call("what-time", arguments))
    finder = CallFinder([CLOCK])
    items = finder.feed(text) + finder.end()
    (made,) = (item for item in items if isinstance(item, ToolCall))
    assert json.loads(made.arguments) == arguments


def test_a_call_behind_one_with_an_open_fence_is_found() -> None:
    first = 'get_weather\n```python\ntool_call("location"="```x")\n```'
    assert found([f"{first}\n{NOW}"])[1] == [
        ("get_weather", {"location": "```x"}),
        ("what-time", {}),
    ]


OPEN = 'get_weather\n```python\ntool_call("location"="'
# Its end is doubtful to the last, since all that follows closes as many fences as it opens.
DOUBTFUL = '")\n``` ``` get_weather\n```python\ntool_call("location"="```'


def test_few_calls_end_with_the_text_alone() -> None:
    """Each is found by reading all that follows; what they leave is text, and nothing is lost."""
    text, calls = found([OPEN + "```" + DOUBTFUL * 100])
    assert 1 <= len(calls) <= 5
    assert text.count("get_weather") > 90
    assert text.endswith(DOUBTFUL[4:])


@pytest.mark.parametrize("depth", [40, 500, 960, 985])
def test_what_is_nested_too_deep_is_text(depth: int) -> None:
    """Python could not write it again: the stack is as deep then."""
    value = "[" * depth + "]" * depth
    assert arguments_of(f"a={value}", None) == {"a": value}


def test_half_of_a_surrogate_pair_is_text() -> None:
    """No answer could hold it."""
    assert arguments_of("a=['\\ud800']", None) == {"a": "['\\ud800']"}


HARD = {
    "marks": OPEN + "`" * 1_200_000,
    "ends": OPEN + '")' * 1_000_000,
    "letters": "天" * 400_000,
    "blanks": " " * 400_000,
    "fences": "```" * 130_000,
    "names": "get_weather " * 33_000,
    "heads": "get_weather\n```\n" * 25_000,
    "open": OPEN + '", ' * 130_000,
    "quotes": OPEN + '"' * 400_000,
    "keys": OPEN + '", "' + "x" * 400_000,
    "closes": OPEN + '``` ")' * 60_000,
    "brackets": "get_weather ```tool_call(a=" + "[" * 400_000,
    "bare": "get_weather ```tool_call(a=" + ",)" * 200_000,
    "pairs": "get_weather ```tool_call(" + '"a"="b", ' * 40_000,
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_time_is_linear(text: str) -> None:
    """Twice the text takes about twice the time, as one piece and as many small ones."""

    def seconds(length: int, size: int) -> float:
        best = math.inf
        for _ in range(2):
            finder = CallFinder([WEATHER])
            start = time.process_time()
            for at in range(0, length, size):
                finder.feed(text[at : min(at + size, length)])
            finder.end()
            best = min(best, time.process_time() - start)
        return best

    whole = len(text) // 10
    for size in (len(text), 20):
        assert seconds(whole, size) < 9 * seconds(whole // 4, size) + 0.02


@pytest.mark.parametrize("parameters", [None, {}, {"properties": 5}, {"properties": {"a": 5}}])
def test_odd_schemas(parameters: Any) -> None:
    assert arguments_of('"a"="1"', parameters) == {"a": "1"}


def test_remembered_tools_are_bounded_by_bytes_and_forgotten_by_use() -> None:
    kept = RememberedTools()
    kept.keep("used", "early")
    for n in range(300):  # of 64 K characters, four bytes each: 75 MB
        kept.keep(f"call_{n}", chr(0x1F300 + n % 256) * (1 << 16))
        assert kept.of("used") == "early"
    held = [kept.of(f"call_{n}") for n in range(300)]
    assert held[-1] is not None and held[0] is None
    assert sum(4 * len(text) for text in held if text) <= 16 << 20
    kept.keep("long", "x" * ((1 << 16) + 1))
    assert kept.of("long") is None
