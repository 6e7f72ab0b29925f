"""Every field that OpenAI's own client can send is served, refused by name, or on the list of those
that are ignored because they cannot change an answer; docs/compatibility.md has that list."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from serving import ROOT, Server

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
SERVED = {
    *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop", "stream", "echo"),
    *("stream_options", "tools", "tool_choice", "parallel_tool_calls"),
}
# With values that a client may send.
IGNORED: dict[str, list[Any]] = {
    "metadata": [{"a": "b"}],
    "prediction": [{"type": "content", "content": "x"}],
    "prompt_cache_key": ["a"],
    "prompt_cache_options": [{}],
    "prompt_cache_retention": ["24h"],
    "reasoning_effort": ["none", "low", "high"],
    "safety_identifier": ["a"],
    "service_tier": ["auto", "flex"],
    "store": [True, False],
    "user": ["someone"],
    "verbosity": ["low"],
}
# Field -> what asks for more than can be given, and what does not.
REFUSED: dict[str, tuple[list[Any], list[Any]]] = {
    "audio": ([{"voice": "alloy", "format": "wav"}, {}], [None]),
    "best_of": ([2], [1, None]),
    "function_call": ([{"name": "f"}, "required"], ["none", "auto", None]),
    "functions": ([[{"name": "f"}]], [[], None]),
    "logprobs": ([True], [False, None]),
    "modalities": ([["text", "audio"], ["audio"]], [["text"], None]),
    "moderation": ([{"model": "omni-moderation-latest"}, {}], [None]),
    "n": ([2, 128], [1, None]),
    "response_format": (
        [
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
            {"type": "grammar"},
        ],
        [{"type": "text"}, None],
    ),
    "suffix": (["end"], ["", None]),
    "top_logprobs": ([1, 20], [0, None]),
    "web_search_options": ([{}], [None]),
}
CHAT = set(chats.CompletionCreateParamsNonStreaming.__annotations__)
TEXT = set(completions.CompletionCreateParamsNonStreaming.__annotations__)


def routes(field: str) -> list[tuple[str, dict[str, Any]]]:
    """Where OpenAI knows the field, with a request that is right without it."""
    found = [("/v1/chat/completions", HELLO)] if field in CHAT else []
    return found + ([("/v1/completions", {"prompt": "x"})] if field in TEXT else [])


def test_every_field_is_known() -> None:
    assert SERVED | IGNORED.keys() | REFUSED.keys() == CHAT | TEXT


@pytest.mark.parametrize("field", IGNORED)
def test_ignored_fields_change_nothing(server: Server, field: str) -> None:
    for path, body in routes(field):
        body = {**body, "max_tokens": 8, "seed": 1}
        plain = server.post(path, body)
        for value in IGNORED[field]:
            answer = server.post(path, {**body, field: value})
            assert answer["choices"] == plain["choices"]
            assert answer["usage"]["total_tokens"] == plain["usage"]["total_tokens"]


@pytest.mark.parametrize("field", REFUSED)
def test_refused_fields_are_named(server: Server, field: str) -> None:
    too_much, harmless = REFUSED[field]
    for path, body in routes(field):
        body = {**body, "max_tokens": 1}
        for value in too_much:
            answer = server.post(path, {**body, field: value}, expect=400)
            assert answer["error"]["param"].partition(".")[0] == field
            assert answer["error"]["code"] == "unsupported_value"
        for value in harmless:
            server.post(path, {**body, field: value})


def test_all_are_in_the_documentation() -> None:
    table = (ROOT / "docs" / "compatibility.md").read_text().partition("## Fields of OpenAI")[2]
    for field in (*IGNORED, *REFUSED):
        assert f"`{field}`" in table
