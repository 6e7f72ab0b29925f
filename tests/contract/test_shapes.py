"""What answers look like, streamed and not: fields, order of events, usage, finish reasons."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from serving import Server, chat_text, completion_texts, serving, wait_until

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CHAT = ["/chat/completions", "/v1/chat/completions"]
COMPLETIONS = ["/completions", "/v1/completions"]


def test_root(server: Server) -> None:
    status, headers, body = server.request("GET", "/")
    assert (status, body) == (200, b'{"Hello":"World!"}')
    assert headers["content-type"] == "application/json"
    status, headers, body = server.request("HEAD", "/")
    assert (status, body) == (200, b"")


def test_status(server: Server) -> None:
    status = server.status()
    assert status["status"] == 3
    assert status["device_name"] == "CPU"
    assert status["pid"] > 0
    assert status["running"] >= 0 and status["waiting"] >= 0
    assert "progress" not in status


@pytest.mark.parametrize("path", CHAT)
def test_chat(server: Server, path: str) -> None:
    before = int(time.time())
    answer = server.post(path, {**HELLO, "model": "anything"})
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert before <= answer["created"] <= time.time()
    assert answer["model"] == "demo"
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len("User: Hello\n\nAssistant:")  # one token per byte
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("path", CHAT)
def test_chat_stream(server: Server, path: str) -> None:
    events = server.stream(path, {**HELLO, "seed": 5})
    assert events[-1] == "[DONE]"
    first, *middle, last = events[:-1]
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] in ("stop", "length")
    for event in (first, *middle, last):
        assert event["object"] == "chat.completion.chunk"
        assert event["id"] == first["id"]
        assert event["created"] == first["created"]
        assert event["model"] == "demo"
        assert "usage" not in event
    for event in middle:
        (choice,) = event["choices"]
        assert choice["delta"]["content"] and set(choice["delta"]) == {"content"}
        assert choice["finish_reason"] is None
    whole = server.post(path, {**HELLO, "seed": 5})
    assert chat_text(events) == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_usage_in_a_stream(server: Server, path: str) -> None:
    body = {"messages": HELLO["messages"]} if "chat" in path else {"prompt": ["a", "bc"]}
    body |= {"seed": 1, "max_tokens": 6}
    events = server.stream(path, {**body, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    assert all(event["usage"] is None and event["choices"] for event in events[:-2])
    assert events[-2]["choices"] == []
    server.post(path, body)  # from now on as much of it is known as ever
    usage = server.stream(path, {**body, "stream_options": {"include_usage": True}})[-2]["usage"]
    assert usage == server.post(path, body)["usage"]
    assert usage["prompt_tokens"] == events[-2]["usage"]["prompt_tokens"]
    off = server.stream(path, {**body, "stream_options": {"include_usage": False}})
    assert all("usage" not in event for event in off[:-1])


def test_stream_headers(server: Server) -> None:
    _, headers, _ = server.request("POST", "/chat/completions", {**HELLO, "stream": True})
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["connection"] == "keep-alive"


@pytest.mark.parametrize("path", COMPLETIONS)
def test_completion(server: Server, path: str) -> None:
    answer = server.post(path, {"prompt": "Hello", "max_tokens": 7, "logit_bias": {"0": -100}})
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "demo"
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["text"]
    assert choice["finish_reason"] == "length"  # true to fact: 7 tokens were asked for
    assert choice["logprobs"] is None
    known = answer["usage"].pop("prompt_tokens_details")
    assert known.keys() == {"cached_tokens"} and 0 <= known["cached_tokens"] <= 5
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def test_completion_of_several_prompts(server: Server) -> None:
    prompts = [f"User: What is {i} plus {i}?\n\nAssistant:" for i in range(8)]
    rest = {"max_tokens": 12, "seed": 3, "stop": ["\n\n"]}
    alone = [server.post("/completions", {"prompt": p, **rest}) for p in prompts]
    together = server.post("/completions", {"prompt": prompts, **rest})
    assert [c["index"] for c in together["choices"]] == list(range(8))
    assert [c["text"] for c in together["choices"]] == [a["choices"][0]["text"] for a in alone]
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together["usage"][field] == sum(a["usage"][field] for a in alone)

    events = server.stream("/v1/completions", {"prompt": prompts, **rest})
    texts = completion_texts(events)
    assert [texts[i] for i in range(8)] == [a["choices"][0]["text"] for a in alone]
    ends = [c for e in events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert sorted(c["index"] for c in ends) == list(range(8))
    assert all(c["text"] == "" for c in ends)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (None, 1),
        ("", 1),
        ([], 1),
        ([""], 1),
        (["", "ab"], 3),
        ("é", 2),
        ([98, 99], 2),  # ids
        ([[98], [98, 99]], 3),
        (["a", [98, 99]], 3),
    ],
)
def test_forms_of_a_prompt(server: Server, prompt: object, tokens: int) -> None:
    answer = server.post("/completions", {"prompt": prompt, "max_tokens": 1})
    assert answer["usage"]["prompt_tokens"] == tokens


def test_ids_and_text_are_the_same_prompt(server: Server) -> None:
    rest = {"max_tokens": 8, "seed": 1}
    text = server.post("/completions", {"prompt": "abc", **rest})
    ids = server.post("/completions", {"prompt": [98, 99, 100], **rest})
    assert text["choices"] == ids["choices"]


def test_stop_strings_are_cut_and_told(server: Server) -> None:
    rest = {"prompt": "The", "max_tokens": 60, "temperature": 0, "logit_bias": {"0": -100}}
    whole = server.post("/completions", rest)["choices"][0]["text"]
    stop = whole[10:12]
    cut = whole[: whole.index(stop)]
    for value in (stop, [stop], ["never there", stop]):
        choice = server.post("/completions", {**rest, "stop": value})["choices"][0]
        assert choice["text"] == cut
        assert choice["finish_reason"] == "stop"
    events = server.stream("/completions", {**rest, "stop": stop})
    assert completion_texts(events) == {0: cut}


def test_stop_token_ids(server: Server) -> None:
    rest = {"prompt": "The", "max_tokens": 30, "temperature": 0, "logit_bias": {"0": -100}}
    whole = server.post("/completions", rest)["choices"][0]["text"]
    stop = whole.encode()[5] + 1
    answer = server.post("/completions", {**rest, "stop_token_ids": [stop]})
    at = whole.encode().index(bytes([stop - 1]))
    assert answer["choices"][0]["text"].encode() == whole.encode()[:at]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == at + 1  # the stop token counts


def test_logit_bias_decides(server: Server) -> None:
    answer = server.post(
        "/completions", {"prompt": "The", "max_tokens": 5, "logit_bias": {"91": 100}}
    )
    assert answer["choices"][0]["text"] == "ZZZZZ"


def test_seeds(server: Server) -> None:
    rest = {"prompt": "User: ", "max_tokens": 24, "top_p": 1, "temperature": 2}

    def text(**extra: object) -> str:
        return server.post("/completions", {**rest, **extra})["choices"][0]["text"]

    assert text(seed=7) == text(seed=7)
    assert text(seed=-7) == text(seed=-7)
    assert len({text(seed=seed) for seed in range(4)}) > 1
    assert len({text() for _ in range(4)}) > 1  # without one, every request draws its own
    assert text(temperature=0) == text(temperature=0, seed=4)


def test_lenient_types(server: Server) -> None:
    """What RWKV Runner's clients send: its transcript `lax coercions accepted`, and more."""
    answer = server.post(
        "/completions",
        {
            "prompt": "x", "max_tokens": "12", "temperature": "0.5", "stream": "no", "top_k": 3.0,
            "global_penalty": "off", "top_p": None, "stop": None, "seed": None, "user": 5,
            "metadata": {"a": "b"}, "frequency_penalty": True, "n": 1, "unknown": [1],
        },
    )  # fmt: skip
    assert answer["usage"]["completion_tokens"] <= 12
    events = server.stream("/completions", {"prompt": "x", "max_tokens": 1})
    assert events[-1] == "[DONE]"
    status, headers, _ = server.request(
        "POST", "/completions", {"prompt": "x", "max_tokens": 1, "stream": "yes"}
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")


def test_max_completion_tokens(server: Server) -> None:
    body = {**HELLO, "logit_bias": {"0": -100}, "stop": []}
    assert (
        server.post("/chat/completions", {**body, "max_completion_tokens": 3})["usage"][
            "completion_tokens"
        ]
        == 3
    )
    assert (
        server.post("/chat/completions", {**body, "max_tokens": 9, "max_completion_tokens": 4})[
            "usage"
        ]["completion_tokens"]
        == 4
    )
    assert (
        server.post("/chat/completions", {**body, "max_tokens": 2, "max_completion_tokens": None})[
            "usage"
        ]["completion_tokens"]
        == 2
    )


def test_content_parts_and_developer(server: Server) -> None:
    rest = {"max_tokens": 12, "seed": 2}
    plain = [{"role": "system", "content": "S"}, {"role": "user", "content": "one\ntwo"}]
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "S"}]},
        {
            "role": "user",
            "name": "someone",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        },
    ]
    one = server.post("/chat/completions", {"messages": plain, **rest})
    other = server.post("/chat/completions", {"messages": parts, **rest})
    assert one["choices"] == other["choices"]
    assert one["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]


def test_models(server: Server) -> None:
    for path in ("/models", "/v1/models"):
        listed = server.get(path)
        assert listed["object"] == "list"
        (real,) = listed["data"]
        assert real["object"] == "model" and real["owned_by"] == "rwkv" and real["root"] == "demo"
        assert real["parent"] is None and real["created"] > 1_700_000_000
        assert server.get(f"{path}/demo") == real
        assert server.get(f"{path}/some-RWKV-model") == real
        assert real["capabilities"]["completion_chat"] and not real["capabilities"]["vision"]
        assert "context_length" not in real, "nothing says how long its texts were"
        for name in ("gpt-3.5-turbo", "text-davinci-003"):  # asked for by name, not listed
            asked = server.get(f"{path}/{name}")
            assert asked["id"] == name and asked["permission"][0]["allow_logprobs"] is True


def test_trailing_slash_and_query(server: Server) -> None:
    assert server.get("/status/")["status"] == 3
    assert server.get("/v1/models/?limit=1")["object"] == "list"
    assert server.post("/chat/completions/", {**HELLO, "max_tokens": 1})["model"] == "demo"


def test_request_ids(server: Server) -> None:
    _, headers, _ = server.request("GET", "/status", headers={"X-Request-Id": "mine-1"})
    assert headers["x-request-id"] == "mine-1"
    _, first, _ = server.request("GET", "/status", headers={"X-Request-Id": "a b\tc"})
    _, second, _ = server.request("GET", "/nope")
    assert first["x-request-id"].startswith("req-")
    assert first["x-request-id"] != second["x-request-id"]


def test_cors(server: Server) -> None:
    origin = {"Origin": "http://localhost:3000"}
    _, headers, _ = server.request("GET", "/status", headers=origin)
    assert headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in headers
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers=asked)
    assert status == 200
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    assert "access-control-allow-credentials" not in headers
    _, headers, _ = server.request("POST", "/chat/completions", {"messages": 5}, origin)
    assert headers["access-control-allow-origin"] == "*"  # so that a page can read the error
    _, headers, _ = server.request("GET", "/status")
    assert "access-control-allow-origin" not in headers


def test_text_is_utf8_not_escaped(server: Server) -> None:
    # Bytes of "é": the demo model's tokens are bytes, and a character needs both.
    rest = {"prompt": "x", "max_tokens": 4, "temperature": 0}
    bias = {str(0xC3 + 1): 60, str(0xA9 + 1): 60}
    answer = server.post("/completions", {**rest, "logit_bias": bias})
    text = answer["choices"][0]["text"]
    assert set(text) <= {"é", "\ufffd"}
    _, _, raw = server.request("POST", "/completions", {**rest, "logit_bias": bias})
    assert json.loads(raw)["choices"][0]["text"] == text
    assert rb"\u" not in raw


def test_fingerprints_and_headers(server: Server) -> None:
    """One name for what answers, in answers and in each chunk; OpenAI's headers on all of them."""
    path, body = "/v1/chat/completions", {**HELLO, "max_tokens": 1}
    status, headers, raw = server.request("POST", path, body)
    name = json.loads(raw)["system_fingerprint"]
    assert status == 200 and name.startswith("fp_") and len(name) == 13
    assert int(headers["openai-processing-ms"]) >= 0 and headers["openai-version"]
    events = server.stream(path, body)
    assert {event["system_fingerprint"] for event in events[:-1]} == {name}
    assert server.post("/completions", {"prompt": "x"})["system_fingerprint"] == name
    _, headers, _ = server.request("POST", path, {})
    assert int(headers["openai-processing-ms"]) >= 0


def test_connections_that_are_not_kept() -> None:
    with serving(access_log=0, timeout_keep_alive=0, model="none", ready=False) as server:
        wait_until(lambda: _answers(server))
        assert server.request("GET", "/")[1]["connection"] == "close"


def _answers(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return server.request("GET", "/")[0] == 200
    return False
