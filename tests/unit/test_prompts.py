"""Prompts: byte for byte what RWKV Runner feeds its models, or means to; and where answers end."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from web.personas import G1, RAVEN, WORLD, Persona
from web.prompts import world
from web.prompts.formats import chat_prompt, conversation
from web.prompts.stops import DEFAULT_STOPS, chat_stops
from web.schemas.chat import chat_request
from web.schemas.completions import completion_request
from web.schemas.fields import Fields

DATA = Path(__file__).parents[1] / "contract" / "data" / "chat-prompts.json"
CASES = json.loads(DATA.read_text())["cases"]


def prompt_of(messages: list[dict[str, Any]], **options: Any) -> str:
    request = chat_request(Fields({"messages": messages, **options}))
    return conversation(WORLD, request)[0]


def u(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(content: str | None, *arguments: dict[str, Any]) -> dict[str, Any]:
    """Calls of the function f."""
    functions = [{"name": "f", "arguments": json.dumps(one)} for one in arguments]
    calls = [{"id": "c", "type": "function", "function": function} for function in functions]
    return a(content, tool_calls=calls)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_prompts(case: dict[str, Any]) -> None:
    if "chat" in case["path"]:
        request = dict(case["request"])
        assert prompt_of(request.pop("messages"), **request) == case["prompt"]
    else:
        # Runner refuses an empty stop string only by swallowing the answer; we name it.
        request = {k: v for k, v in case["request"].items() if k != "stop"}
        assert completion_request(Fields(request)).prompts[0] == case["prompt"]


@pytest.mark.parametrize(
    ("messages", "options", "prompt"),
    [
        ([u("hello")], {}, "User: hello\n\nAssistant:"),
        (
            [{"role": "system", "content": "S"}, u("hi")],
            {"user_name": "Bob", "assistant_name": "Alice", "system_name": "Sys"},
            "Sys: S\n\nBob: hi\n\nAlice:",
        ),
        ([u("hi"), a("yo")], {}, "User: hi\n\nAssistant: yo\n\nAssistant:"),
        ([u("hi"), a(None), u("again")], {}, "User: hi\n\nUser: again\n\nAssistant:"),
        ([u("hi"), a("<think>", prefix=True)], {}, "User: hi\n\nAssistant: <think>"),
        (
            [u("hi"), a("<think>\n</think>", prefix=True)],
            {},
            "User: hi\n\nAssistant: <think>\n</think>",
        ),
        (
            [u("hi"), a("<think>", prefix=True), u("more")],
            {},
            "User: hi\n\nAssistant: <think>\n\nUser: more\n\nAssistant:",
        ),
        ([u("hi"), a(None, prefix=True)], {}, "User: hi\n\nAssistant:"),
        ([u("hi"), a("", prefix=True)], {}, "User: hi\n\nAssistant: "),
        ([{"role": "developer", "content": "D"}, u("x")], {}, "System: D\n\nUser: x\n\nAssistant:"),
        (
            [u("x"), {"role": "tool", "tool_call_id": "c", "content": "42"}],
            {},
            "User: x\n\nObservation: 42\n\nAssistant:",
        ),
        (
            [
                *(u("hi"), call("", {"a": "b", "n": 3, "l": [1, True, None]})),
                *({"role": "tool", "content": "42", "tool_call_id": "c"}, u("and?")),
            ],
            {},
            'User: hi\n\nAssistant: f\n```python\ntool_call("a"="b", "n"="3", '
            '"l"="[1, True, None]")\n```\n\nObservation: 42\n\nUser: and?\n\nAssistant:',
        ),
        (
            [u("x"), call("So:", {}, {"k": 'a "b"'})],
            {},
            "User: x\n\nAssistant: So:\nf\n```python\ntool_call()\n```\n"
            'f\n```python\ntool_call("k"="a "b"")\n```\n\nAssistant:',
        ),
        (
            [u("w")],
            {"tools": [{"function": {"name": "\u5929\u6c14", "strict": True}}]},
            "System: You are a helpful assistant with access to the following functions. Use them "
            'if required -[\n  {\n    "name": "\\u5929\\u6c14",\n    "description": null,\n'
            '    "parameters": null\n  }\n]\n\nUser: w\n\nAssistant:',
        ),
        (
            [u("w")],
            {"tools": [{"function": {"name": "f"}}], "tool_choice": "none"},
            "User: w\n\nAssistant:",
        ),
        ([u("  a\r\n\r\n b ")], {}, "User:   a\r\n\r\n b \n\nAssistant:"),
    ],
)
def test_rules(messages: list[dict[str, Any]], options: dict[str, Any], prompt: str) -> None:
    assert prompt_of(messages, **options) == prompt


def test_presystem_comes_first() -> None:
    prompt = prompt_of([{"role": "system", "content": "S"}, u("x")], presystem=True)
    assert prompt.startswith("User: hi\n\nAssistant: Hi. ")
    assert prompt.endswith("\n\nSystem: S\n\nUser: x\n\nAssistant:")


NAMES = world.Names("User", "Assistant", "System", "Observation")


def test_default_stops_are_the_documented_list() -> None:
    assert chat_stops(None, NAMES) == list(DEFAULT_STOPS)
    words = "User Question Q Human Bob Assistant Answer A Bot Alice Observation"
    assert [stop.removeprefix("\n\n") for stop in DEFAULT_STOPS] == words.split(" ")
    assert "\n\nAss" not in DEFAULT_STOPS  # no first-token words


def test_own_stops_keep_the_turns_apart() -> None:
    assert chat_stops(("END",), NAMES) == ["END", "\n\nUser:", "\n\nAssistant:"]
    assert chat_stops((), NAMES) == ["\n\nUser:", "\n\nAssistant:"]
    assert chat_stops(("\n\n",), NAMES) == ["\n\n"]


def test_raven_turns() -> None:
    assert chat_stops(None, RAVEN_NAMES) == list(DEFAULT_STOPS)
    assert chat_stops(("END",), RAVEN_NAMES) == ["END", "\n\nBob:", "\n\nAlice:"]


def test_names_of_ones_own_end_turns() -> None:
    names = world.Names("Max", "Moritz", "System", "Observation")
    assert chat_stops(None, names) == [*DEFAULT_STOPS, "\n\nMax:", "\n\nMoritz:"]


# -- RWKV-4


RAVEN_NAMES = world.Names("Bob", "Alice", "System", "Observation")


def version4_of(messages: list[dict[str, Any]], raven: bool = True, **options: Any) -> str:
    request = chat_request(Fields({"messages": messages, **options}))
    persona = RAVEN if raven else WORLD
    names = world.names_for(persona, request)
    return chat_prompt(
        replace(persona, prompt="version 4"), request.messages, names, request.presystem
    )


def s(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": content, **more}


@pytest.mark.parametrize(
    ("messages", "options", "prompt"),
    [
        ([u("hello")], {}, "Bob: hello\n\nAlice:"),
        ([u("hi"), a("yo"), u("so")], {}, "Bob: hi\n\nAlice: yo\n\nBob: so\n\nAlice:"),
        ([s("Be kind.\n"), u("hi")], {}, "Be kind.\n\nBob: hi\n\nAlice:"),
        # CR LF and CR become LF, one pass of double new lines, then outer white space goes.
        ([u(" a\r\n\r\nb\rc\n\n\n\nd \n")], {}, "Bob:  a\nb\nc\n\nd\n\nAlice:"),
        (
            [{**u(" a\r\n\r\nb "), "raw": True}, u(" x ")],
            {},
            "Bob:  a\r\n\r\nb \n\nBob:  x\n\nAlice:",
        ),
        ([s("a\n\nb", raw=True), u("x")], {}, "a\n\nb\n\nBob: x\n\nAlice:"),
        (
            [u("hi")],
            {"user_name": "Max", "assistant_name": "Moritz"},
            "Max: hi\n\nMoritz:",
        ),
        ([u("hi"), a(None), u("again")], {}, "Bob: hi\n\nBob: again\n\nAlice:"),
        ([u("hi"), a("Well,", prefix=True)], {}, "Bob: hi\n\nAlice: Well,"),
        ([a("x", prefix=True), u("y")], {}, "Alice: x\n\nBob: y\n\nAlice:"),
        ([u("hi"), a("yo")], {}, "Bob: hi\n\nAlice: yo\n\nAlice:"),
        (
            [u("x"), {"role": "tool", "tool_call_id": "c", "content": "42"}],
            {},
            "Bob: x\n\nObservation: 42\n\nAlice:",
        ),
    ],
)
def test_version_4(messages: list[dict[str, Any]], options: dict[str, Any], prompt: str) -> None:
    assert version4_of(messages, **options) == prompt


@pytest.mark.parametrize("messages", [[u("hello")], [u("hi"), u("there")]])
def test_version_4_keeps_what_runner_loses(messages: list[dict[str, Any]]) -> None:
    """Recorded: "\\n\\nAlice:" for one message, whatever it says."""
    assert all(message["content"] in version4_of(messages) for message in messages)


def test_version_4_openings() -> None:
    raven = version4_of([u("hello")], presystem=True)
    assert raven.startswith("\nBelow is ") and raven.endswith(".\n\nBob: hello\n\nAlice:")
    assert "a girl named Alice and her friend Bob" in raven
    spoken = version4_of([u("hello")], raven=False, presystem=True)
    assert spoken == world.opening(NAMES) + "User: hello\n\nAssistant:"
    named = version4_of([u("x")], presystem=True, user_name="Max", assistant_name="Eve")
    assert "Eve and her friend Max" in named and "Alice" not in named and "Bob" not in named


@pytest.mark.parametrize(
    ("system", "first_person", "raven"),
    [
        ("You are a cat.", "I am a cat.", "Alice is a cat."),
        ("If you're sad, you are sad.", "If I'm sad, I am sad.", "If Alice is sad, Alice is sad."),
        ("You like\nyour fish\r\n", "I like my fish", "Alice like Alice's fish"),
        ("Your name is Tom", "My name is Tom", "Alice's name is Tom"),
        ("You're late; you know.", "I'm late; I know.", "Alice is late; Alice know."),
        ("\u4f60\u662f\u732b", "\u6211\u662f\u732b", "Alice\u662f\u732b"),
        (" a\n\nb\nc ", "a b c", "a b c"),
    ],
)
def test_version_4_introductions(system: str, first_person: str, raven: str) -> None:
    """The system's words to the model become the model's about itself, or those about Alice."""
    assert version4_of([s(system), u("hi")], raven=False, presystem=True) == (
        f"User: hi\n\nAssistant: Hi. {first_person}\n\nUser: hi\n\nAssistant:"
    )
    told = version4_of([s(system), u("hi")], presystem=True)
    assert told.startswith("Below is ") and "Alice and her friend Bob. " in told
    assert told.endswith(f". {raven}\n\nBob: hi\n\nAlice:")
    assert "Hi." not in version4_of([s(system), u("hi")], raven=False)


def test_version_4_of_nothing() -> None:
    assert version4_of([]) == "Alice:" and version4_of([a(None, prefix=True)]) == "Alice:"
    assert version4_of([s("You are")], presystem=True).endswith("Alice is\n\nAlice:")


# -- marks


def marked(messages: list[dict[str, Any]], persona: Persona = WORLD, **options: Any) -> list[str]:
    """A prompt, cut at its marks."""
    request = chat_request(Fields({"messages": messages, **options}))
    text, _, marks = conversation(persona, request)
    ends = [0, *marks, len(text)]
    return [text[i:j] for i, j in pairwise(ends)]


def test_marks_are_where_messages_begin() -> None:
    assert marked([u("a")]) == ["User: a\n\nAssistant:"]
    assert marked([s("S"), u("a"), a("é"), u("c")]) == [
        "System: S\n\n",
        "User: a\n\n",
        "Assistant: é\n\n",
        "User: c\n\nAssistant:",
    ]
    assert marked([u("a"), a("b"), u("c"), a("d", prefix=True)]) == [
        "User: a\n\n",
        "Assistant: b\n\n",
        "User: c\n\nAssistant: d",
    ]
    version4 = replace(WORLD, prompt="version 4")
    assert marked([s("S"), u("a")], version4) == ["S\n\n", "User: a\n\nAssistant:"]


def test_marks_of_a_long_conversation() -> None:
    """What it begins with, and its last messages."""
    talk = marked([u("a"), a("b")] * 50)
    assert len(talk) == 8
    assert talk[:3] == ["User: a\n\n", "Assistant: b\n\n", "User: a\n\n"]
    assert talk[-3:] == ["Assistant: b\n\n", "User: a\n\n", "Assistant: b\n\nAssistant:"]
    tool = {"type": "function", "function": {"name": "f"}}
    opened = marked([s("S"), u("a")], presystem=True, tools=[tool])
    labels = [part.partition(":")[0] for part in opened]
    assert labels == ["System", "User", "System", "User"]


# -- reasoning models


def g1_of(messages: list[dict[str, Any]]) -> str:
    request = chat_request(Fields({"messages": messages}))
    return chat_prompt(G1, request.messages, NAMES)


def test_thoughts_are_for_one_turn() -> None:
    assert g1_of([u("hi")]) == "User: hi\n\nAssistant:"
    thinking = a(" <think>\nA </think> B\n</think>\n\nHello.")
    assert g1_of([u("hi"), thinking, u("so")]) == (
        "User: hi\n\nAssistant: Hello.\n\nUser: so\n\nAssistant:"
    )
    quoted = u("what is </think>?")
    assert g1_of([quoted]) == "User: what is </think>?\n\nAssistant:"
    assert g1_of([u("hi"), a("plain  ")]) == "User: hi\n\nAssistant: plain  \n\nAssistant:"


@pytest.mark.parametrize("begun", ["<think", "<think>", "<think>\n</think", "<think></think>"])
def test_thinking_is_asked_for_by_a_prefix(begun: str) -> None:
    assert g1_of([u("hi"), a(begun, prefix=True)]) == f"User: hi\n\nAssistant: {begun}"


def test_other_families_keep_everything() -> None:
    said = a("<think>x</think>y")
    request = chat_request(Fields({"messages": [said]}))
    assert chat_prompt(WORLD, request.messages, NAMES) == (
        "Assistant: <think>x</think>y\n\nAssistant:"
    )
