"""How long answers are, and what -1, 0 and empty mean to other servers' clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server, serving

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "stop": []}
TEXT = {"prompt": "Hello"}
ON = {"ignore_eos": True, "temperature": 1, "top_p": 1}  # nothing but the length ends it


@pytest.fixture(scope="module")
def brief() -> Iterator[Server]:
    with serving(access_log=0, default_max_tokens=600) as one:
        yield one


def counted(server: Server, path: str, body: dict[str, Any]) -> tuple[int, str]:
    answer = server.post(path, body)
    return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]


def test_what_is_not_said(brief: Server) -> None:
    """A chat goes on until it ends, a completion for the guide's 500; /update-config wins."""
    chat = {**CHAT, **ON}
    for unset in ({}, {"max_tokens": -1}, {"max_completion_tokens": -1}, {"max_tokens": None}):
        assert counted(brief, "/chat/completions", {**chat, **unset}) == (600, "length")
    assert counted(brief, "/completions", {**TEXT, **ON}) == (500, "length")
    assert counted(brief, "/completions", {**TEXT, **ON, "min_tokens": 510}) == (510, "length")
    assert brief.status()["default_max_tokens"] == 600
    assert brief.post("/update-config", {"max_tokens": 7}) == "success"
    assert counted(brief, "/chat/completions", {**chat, "max_tokens": -1}) == (7, "length")
    assert counted(brief, "/completions", {**TEXT, **ON}) == (7, "length")
    assert brief.post("/update-config", {"max_tokens": -1}) == "success"  # taken back
    assert counted(brief, "/completions", {**TEXT, **ON}) == (500, "length")


def test_the_default_of_chats(server: Server) -> None:
    """Not cut at 500: coding clients send no limit. The demo model alone, which ends by itself."""
    body = {**CHAT, **ON, "max_tokens": None}
    events = server.stream("/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert events[-2]["usage"]["completion_tokens"] == 4096
    assert server.status()["default_max_tokens"] == 4096


@pytest.mark.parametrize(("path", "body"), [("/chat/completions", CHAT), ("/completions", TEXT)])
def test_no_tokens(server: Server, path: str, body: dict[str, Any]) -> None:
    answer = server.post(path, {**body, "max_tokens": 0})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert choice.get("text", choice.get("message", {}).get("content")) == ""
    assert answer["usage"]["completion_tokens"] == 0 < answer["usage"]["prompt_tokens"]
    events = server.stream(
        path, {**body, "max_tokens": 0, "stream_options": {"include_usage": True}}
    )
    assert events[-3]["choices"][0]["finish_reason"] == "length"
    assert events[-2]["usage"]["completion_tokens"] == 0
    echoed = server.post("/completions", {**TEXT, "max_tokens": 0, "echo": True})
    assert echoed["choices"][0]["text"] == "Hello"


def test_at_least_and_for_ever(server: Server) -> None:
    ends_at_once = {**TEXT, "logit_bias": {"0": 100}, "max_tokens": 30}
    assert counted(server, "/completions", ends_at_once) == (0, "stop")
    # With the bias, what follows the least length is the end.
    assert counted(server, "/completions", {**ends_at_once, "min_tokens": 9}) == (9, "stop")
    assert counted(server, "/completions", {**ends_at_once, "ignore_eos": True}) == (30, "length")
    # A turn's label, without which the demo model would begin the user's part.
    chat = {"messages": CHAT["messages"], "temperature": 0, "max_tokens": 150}
    assert counted(server, "/chat/completions", chat)[1] == "stop"
    assert counted(server, "/chat/completions", {**chat, "ignore_eos": True}) == (150, "length")
    marked = {**chat, "ignore_eos": True, "stop": ["\n\nUser:"]}
    assert counted(server, "/chat/completions", marked)[1] == "stop"
    stopped = {**ends_at_once, "logit_bias": {"98": 100}, "stop": ["aaa"]}  # a, and a again
    free = {**stopped, "penalty_decay": 0.0, "frequency_penalty": 0}
    assert counted(server, "/completions", free) == (3, "stop")
    assert counted(server, "/completions", {**free, "min_tokens": 12}) == (12, "stop")
    answer = server.post("/completions", {**TEXT, "max_tokens": 3, "min_tokens": 4}, expect=400)
    assert answer["error"]["param"] == "min_tokens"
    assert "must not be above max_tokens, which is 3" in answer["detail"]


def test_minus_one_and_above(server: Server) -> None:
    """top_k -1 is off, seed -1 is any, and what is above a range that others clamp is taken."""
    wild = {**TEXT, "max_tokens": 24, "temperature": 3, "top_p": 1, "frequency_penalty": 0}

    def text(**more: Any) -> str:
        return server.post("/completions", {**wild, **more})["choices"][0]["text"]

    assert len({text(seed=-1) for _ in range(4)}) == 4
    assert text(seed=-2) == text(seed=-2) and text(seed=7) == text(seed=7)
    assert text(seed=7, top_k=-1) == text(seed=7, top_k=0) == text(seed=7, top_k=5000)
    assert text(seed=7, top_k=200) == text(seed=7, top_k=200)
    assert text(seed=7, stop="") == text(seed=7, stop=[""]) == text(seed=7)
    assert text(seed=7, penalty_decay=0.9) == text(seed=7), "nothing is penalised"
