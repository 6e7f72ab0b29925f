"""Tools, as OpenAI's own client sees them. No small model calls functions, so the answers are
scripted: the application is the real one, in this process, over an engine that plays a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from player import CALL, SECOND, TOOLS, Player, application

ASKED: list[Any] = [{"role": "user", "content": "What is the weather like in Paris?"}]


@pytest.fixture
def player() -> Player:
    return Player()


@pytest.fixture
def client(player: Player, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    transport = httpx2.WSGITransport(application(player, monkeypatch))  # type: ignore[arg-type]
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(base_url="http://x/v1", api_key="any", http_client=http) as one,
    ):
        yield one


def ask(client: openai.OpenAI, messages: list[Any] = ASKED, **more: Any) -> Any:
    more = {"tools": TOOLS, **more}
    return client.chat.completions.create(model="m", messages=messages, **more).choices[0]


def test_a_call(client: openai.OpenAI, player: Player) -> None:
    player.text = CALL
    choice = ask(client)
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"location": "Paris", "days": 3}
    assert player.prompts[0].startswith("System: You are a helpful assistant with access to")
    assert '"name": "get_weather"' in player.prompts[0]


def test_its_result(client: openai.OpenAI, player: Player) -> None:
    """With the tools again, as OpenAI wants them, or without, as RWKV Runner does."""
    player.text = CALL
    message = ask(client).message
    said = message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "22 degrees"}
    player.text = " It is warm."
    for more in ({}, {"tools": openai.NOT_GIVEN}):
        choice = ask(client, [*ASKED, said, result], **more)
        assert choice.finish_reason == "stop" and choice.message.content == "It is warm."
        assert choice.message.tool_calls is None
    assert player.prompts[1] == player.prompts[2]
    assert player.prompts[1].startswith(player.prompts[0].removesuffix("Assistant:"))
    assert player.prompts[1].endswith(
        'Assistant: get_weather\n```python\ntool_call("location"="Paris", "days"="3")\n```\n\n'
        "Observation: 22 degrees\n\nAssistant:"
    )
    unknown = {**result, "tool_call_id": "call_nobody"}
    ask(client, [*ASKED, said, unknown], tools=openai.NOT_GIVEN)
    assert player.prompts[3].startswith("User: ")


def test_several_calls(client: openai.OpenAI, player: Player) -> None:
    player.text = CALL + SECOND
    calls = ask(client).message.tool_calls
    assert [json.loads(call.function.arguments)["location"] for call in calls] == ["Paris", "Rome"]
    assert len({call.id for call in calls}) == 2
    assert len(ask(client, parallel_tool_calls=False).message.tool_calls) == 1


@pytest.mark.parametrize("before", ["", "Let me look."])
def test_streamed_calls(client: openai.OpenAI, player: Player, before: str) -> None:
    player.text = before + CALL + SECOND + "\n\n"
    with client.chat.completions.stream(model="m", messages=ASKED, tools=TOOLS) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or "") == before
    calls = choice.message.tool_calls or []
    wanted = [{"location": "Paris", "days": 3}, {"location": "Rome"}]
    assert [json.loads(call.function.arguments) for call in calls] == wanted
    assert [call.function.name for call in calls] == ["get_weather"] * 2


def test_text_where_a_call_was_possible(client: openai.OpenAI, player: Player) -> None:
    player.text = " It is sunny.\n```python\nprint(1)\n```"
    assert ask(client).message.content == player.text.strip()
    with client.chat.completions.stream(model="m", messages=ASKED, tools=TOOLS) as stream:
        choice = stream.get_final_completion().choices[0]
    assert (choice.finish_reason, choice.message.content) == ("stop", player.text.strip())


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": TOOLS[0]["function"]}]
)
def test_choices_that_act_as_auto(client: openai.OpenAI, player: Player, choice: Any) -> None:
    player.text = CALL
    assert ask(client, tool_choice=choice).finish_reason == "tool_calls"


def test_without_a_choice(client: openai.OpenAI, player: Player) -> None:
    player.text = CALL
    choice = ask(client, tool_choice="none")
    assert (choice.finish_reason, choice.message.content) == ("stop", CALL.strip())
    assert player.prompts[0].startswith("User: ")
