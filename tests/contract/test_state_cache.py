"""The cache of states over HTTP: what a follow-up costs, the routes that control it, what is told
about it, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server, serving
from test_metrics import Change, scraped

from web.chat.messages import Message
from web.chat.prompts.formats import rendered
from web.chat.prompts.parts import Names
from web.engine.families import WORLD

GREEDY = {"temperature": 0, "max_tokens": 40}
SYSTEM = {"role": "system", "content": "You answer as shortly as anybody could ever wish."}
NAMES = Names("User", "Assistant", "System", "Observation")


@pytest.fixture(scope="module")
def cached() -> Iterator[Server]:
    """A server whose counts nobody else changes."""
    with serving(access_log=0, cache_mb=64) as one:
        yield one


@pytest.fixture
def fresh(cached: Server) -> Server:
    cached.post("/enable-state-cache", None)
    return cached


def chat(server: Server, messages: list[dict[str, str]], **more: Any) -> tuple[str, Any]:
    answer = server.post("/chat/completions", {"messages": messages, **GREEDY, **more})
    return answer["choices"][0]["message"]["content"], answer["usage"]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def known(usage: Any) -> int:
    return usage["prompt_tokens_details"]["cached_tokens"]


def test_a_turn_costs_its_new_tokens_only(fresh: Server) -> None:
    messages = [SYSTEM]
    with serving(access_log=0, cache_mb=0) as plain:
        for question in ("What is 2 plus 3?", "What is 4 plus 4?", "Hello"):
            follows = len(messages) > 1
            messages.append(said("user", question))
            text, usage = chat(fresh, messages)
            prompt = rendered(WORLD, [Message(**one) for one in messages], NAMES).text
            assert usage["prompt_tokens"] == len(prompt)  # a token is a byte
            plain_text, plain_usage = chat(plain, messages)
            assert text == plain_text and known(plain_usage) == 0
            new = f"\n\nUser: {question}\n\nAssistant:" if follows else prompt
            assert usage["prompt_tokens"] - known(usage) <= len(new)
            assert text == text.strip()
            messages.append(said("assistant", text))


def test_conversations_share_how_they_begin(fresh: Server) -> None:
    begun = len(f"System: {SYSTEM['content']}\n\n")
    assert known(chat(fresh, [SYSTEM, said("user", "Hello")])[1]) == 0
    assert known(chat(fresh, [SYSTEM, said("user", "Count to five.")])[1]) == begun
    # An answer that is read back otherwise: from behind what was asked.
    talk = [SYSTEM, said("user", "Hello"), said("assistant", "something else")]
    asked = begun + len("User: Hello\n\nAssistant:")
    assert known(chat(fresh, [*talk, said("user", "Bye")])[1]) == asked


def test_a_repeated_prompt(fresh: Server) -> None:
    body = {"prompt": ["User: Hello\n\nAssistant:", "Once"], "max_tokens": 9, "temperature": 0}
    first = fresh.post("/completions", body)
    again = fresh.post("/v1/completions", body)
    assert first["choices"] == again["choices"]
    assert (known(first["usage"]), known(again["usage"])) == (0, 27)
    assert first["usage"]["prompt_tokens"] == again["usage"]["prompt_tokens"] == 27
    events = fresh.stream("/completions", {**body, "stream_options": {"include_usage": True}})
    assert events[-2]["usage"] == again["usage"]


def test_routes(fresh: Server) -> None:
    def hello() -> int:
        return known(chat(fresh, [said("user", "Hello")])[1])

    assert (hello(), hello() > 0) == (0, True)
    for reset in ("/reset-state", "/reset-state-cache", "/enable-state-cache"):
        assert fresh.post(reset, None) == "success"
        assert (hello(), hello() > 0) == (0, True)
    assert fresh.post("/disable-state-cache", None) == "success"
    assert (hello(), hello()) == (0, 0)
    for reset in ("/reset-state", "/reset-state-cache"):
        answer = fresh.post(reset, {"whatever": 1}, expect=400)
        assert answer["detail"] == "trie not loaded"
        assert answer["error"]["code"] == "state_cache_disabled"
    assert fresh.post("/disable-state-cache", b"not json") == "success"
    assert fresh.post("/enable-state-cache", None) == "success"
    assert (hello(), hello() > 0) == (0, True)
    assert fresh.request("GET", "/enable-state-cache")[0] == 405


def test_another_model_starts_afresh(fresh: Server) -> None:
    hello = [said("user", "Hello")]
    chat(fresh, hello)
    change = Change(fresh)
    fresh.post("/disable-state-cache", None)
    assert known(chat(fresh, hello)[1]) == 0
    fresh.post("/switch-model", {"model": "demo.safetensors"})
    assert known(chat(fresh, hello)[1]) == 0
    assert known(chat(fresh, hello)[1]) > 0
    # Counters go on, for they are the model's.
    assert change.of_model("prefix_cache_queries_total") == 2 * len("User: Hello\n\nAssistant:")


def test_metrics(fresh: Server) -> None:
    change = Change(fresh)
    usages = [chat(fresh, [said("user", "What is 2 plus 3?")])[1] for _ in range(3)]
    assert change.of_model("prefix_cache_queries_total") == sum(u["prompt_tokens"] for u in usages)
    assert change.of_model("prefix_cache_hits_total") == sum(map(known, usages)) > 0
    assert change.of_model("prefix_cache_boundary_fallbacks_total") == 0
    assert change.of_model("prefix_cache_evictions_total") == 0
    label = frozenset({("model_name", "demo")})
    values = scraped(fresh)
    assert values["rwkv:prefix_cache_bytes", label] > 0
    assert values["rwkv:prefix_cache_limit_bytes", label] == 64 << 20


def test_nothing_is_told_in_deploy_mode() -> None:
    hello = {"messages": [said("user", "Hello")], **GREEDY}
    with serving(access_log=0, deploy=1) as server:
        status = server.status()["prompt_tokens"]
        seen = []
        for _ in range(2):
            seen.append(server.post("/chat/completions", hello)["usage"])
            events = server.stream(
                "/chat/completions", {**hello, "stream_options": {"include_usage": True}}
            )
            seen.append(events[-2]["usage"])
            now = server.status()["prompt_tokens"]
            assert now - status == 2 * seen[0]["prompt_tokens"]
            status = now
        assert all(usage == seen[0] and "prompt_tokens_details" not in usage for usage in seen)
        assert b"cache" not in server.request("GET", "/metrics")[2]
        for path in ("enable-state-cache", "disable-state-cache", "reset-state"):
            server.post(f"/{path}", None, expect=403)
        server.post("/reset-state-cache", None, expect=403)


def test_the_smallest_cache_loses_nothing() -> None:
    with serving(access_log=0, cache_mb=1) as small, serving(access_log=0, cache_mb=0) as plain:
        for number in range(12):
            question = [said("user", f"What is {number} plus 3?")]
            assert chat(small, question)[0] == chat(plain, question)[0]
        values = scraped(small)
        label = frozenset({("model_name", "demo")})
        assert values["rwkv:prefix_cache_evictions_total", label] > 0
        assert values["rwkv:prefix_cache_bytes", label] <= 1 << 20
