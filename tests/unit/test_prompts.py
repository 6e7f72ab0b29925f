"""Prompts: byte for byte what RWKV Runner feeds its models, and where answers end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from web.personas import WORLD, WORLD_BYTES, effective, persona_for
from web.prompts import world
from web.prompts.stops import DEFAULT_STOPS, chat_stops
from web.schemas.chat import chat_request
from web.schemas.completions import completion_request
from web.schemas.fields import Fields
from web.schemas.sampling import SamplingFields

DATA = Path(__file__).parents[1] / "contract" / "data" / "chat-prompts.json"
CASES = json.loads(DATA.read_text())["cases"]


def prompt_of(messages: list[dict[str, Any]], **options: Any) -> str:
    request = chat_request(Fields({"messages": messages, **options}))
    names = world.names_for(WORLD, request)
    return world.render(request.messages, names, request.presystem)


def u(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def a(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


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


def test_names_of_ones_own_end_turns() -> None:
    names = world.Names("Max", "Moritz", "System", "Observation")
    assert chat_stops(None, names) == [*DEFAULT_STOPS, "\n\nMax:", "\n\nMoritz:"]


def test_defaults_and_what_a_request_changes() -> None:
    use = effective(SamplingFields(), WORLD.defaults)
    assert (use.max_tokens, use.temperature, use.top_p, use.top_k) == (500, 1, 0.3, 0)
    assert (use.presence_penalty, use.frequency_penalty, use.penalty_decay) == (0, 1, 0.996)
    assert use.global_penalty is False
    assert effective(SamplingFields(), WORLD_BYTES.defaults).frequency_penalty == 0
    use = effective(SamplingFields(temperature=0.05, top_p=0.0, max_tokens=3), WORLD.defaults)
    assert (use.temperature, use.top_p, use.max_tokens) == (0.1, 0, 3)
    assert effective(SamplingFields(temperature=0.0), WORLD.defaults).temperature == 0


def test_special_tokens_belong_to_their_vocabulary() -> None:
    assert persona_for("world").no_repeat == (19137, 19151, 19156, 19126)
    assert len(persona_for("world").exempt) == 51
    assert persona_for("world-bytes").no_repeat == ()
    assert max(persona_for("world-bytes").exempt) <= 256
    assert persona_for("another").exempt == ()


def test_exempt_tokens_are_the_documented_characters() -> None:
    """Single bytes have id byte + 1 in the World vocabulary."""
    characters = '\n,.:?!"<>[]{}/\\|;~`@#$%^&*()_+-=0123456789 '
    single = {ord(c) + 1 for c in characters}
    assert {i for i in WORLD.exempt if i <= 256} == single
