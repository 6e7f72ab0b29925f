"""What one request may cost, keys, and the log, on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from serving import Server, serving, wait_until

KEY = {"Authorization": "Bearer one-key"}


@pytest.fixture(scope="module")
def limited() -> Iterator[Server]:
    with serving(max_prompt_tokens=50, max_tokens=20, embed_token_ids=1) as server:
        yield server


@pytest.mark.parametrize(
    ("prompt", "tokens"), [("x" * 51, 51), ("é" * 26, 52), ([5] * 51, 51), ("x" * 300_000, 300_000)]
)
def test_prompts_that_are_too_long(limited: Server, prompt: object, tokens: int) -> None:
    answer = limited.post("/completions", {"prompt": prompt}, expect=400)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert answer["detail"] == f"prompt is too long: {tokens} tokens, limit 50"
    answer = limited.post("/embeddings", {"input": [prompt]}, expect=400)
    assert answer["detail"] == f"input is too long: {tokens} tokens, limit 50"
    chat = {"messages": [{"role": "user", "content": prompt}]}
    if isinstance(prompt, str):
        answer = limited.post("/chat/completions", chat, expect=400)
        assert answer["error"]["param"] == "messages"
    wait_until(limited.is_idle)


def test_tools_that_are_too_long(limited: Server) -> None:
    """Front ends send dozens of them with "Hello": the user learns what is long."""
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 300}}
    body = {"messages": [{"role": "user", "content": "Hello"}], "tools": [tool]}
    answer = limited.post("/chat/completions", body, expect=400)
    assert answer["error"]["code"] == "context_length_exceeded"
    said = re.fullmatch(
        r"messages is too long: (\d+) tokens, limit 50: (\d+) of them describe the tools",
        answer["detail"],
    )
    assert said and 300 < int(said[2]) < int(said[1])


def test_prompts_that_are_just_short_enough(limited: Server) -> None:
    for prompt in ("x" * 50, "é" * 25, [5] * 50):
        answer = limited.post("/completions", {"prompt": prompt, "max_tokens": 1})
        assert answer["usage"]["prompt_tokens"] == 50


def test_answers_that_are_too_long(limited: Server) -> None:
    """What asks for more than the limit, or says nothing, gets as much as there is."""
    status = limited.status()
    assert (status["max_tokens"], status["default_max_tokens"]) == (20, 20)
    for body in (
        {"prompt": "x"},
        {"messages": [{"role": "user", "content": "x"}], "stop": ["\0"]},
    ):
        path = "/completions" if "prompt" in body else "/chat/completions"
        for asked in ({}, {"max_tokens": 21}, {"max_tokens": 131072}, {"max_tokens": -1}):
            answer = limited.post(path, {**body, **asked, "ignore_eos": True})
            assert answer["usage"]["completion_tokens"] == 20
            assert answer["choices"][0]["finish_reason"] == "length"
    assert limited.post("/update-config", {"max_tokens": 21}) == "success"
    body = {"prompt": "x", "ignore_eos": True}
    assert limited.post("/completions", body)["usage"]["completion_tokens"] == 20


def test_keys_and_the_log() -> None:
    with serving(api_key="one-key,another", ready=False) as server:
        wait_until(lambda: server.process.poll() is None and _up(server))
        assert server.request("POST", "/completions", {"prompt": "hidden words"})[0] == 401
        body = {"prompt": "hidden words", "max_tokens": 3, "stream": True}
        named = {**KEY, "X-Request-Id": "mine-7"}
        wait_until(lambda: server.request("GET", "/health")[0] == 200)
        status, headers, raw = server.request("POST", "/completions", body, named)
        assert status == 200 and headers["x-request-id"] == "mine-7"
        log = wait_until(lambda: '"id":"mine-7"' in server.log() and server.log())
        assert "hidden" not in log and "one-key" not in log
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        entry = next(line for line in lines if line["id"] == "mine-7")
        assert entry["path"] == "/completions" and entry["status"] == 200
        assert entry["bytes"] >= len(raw) and entry["client"] == "127.0.0.1"
        assert [line["status"] for line in lines if line["method"] == "POST"] == [401, 200]


def _up(server: Server) -> bool:
    try:
        return server.request("GET", "/")[0] == 200
    except OSError:
        return False
