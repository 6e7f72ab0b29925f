"""POST /tokenize and /detokenize: what a model is fed, and the way back."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest
from player import CALL, TOOLS, Player, application
from serving import Server, serving

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("text", ["hello", "é你\n\x00", " \r\n", "x" * 200_000])
def test_a_prompt(server: Server, text: str) -> None:
    answer = server.post("/tokenize", {"prompt": text})
    assert answer["prompt"] == text
    assert answer["tokens"] == [byte + 1 for byte in text.encode()]  # the demo model's
    assert answer["count"] == len(answer["tokens"])
    assert server.post("/detokenize", {"tokens": answer["tokens"]}) == {"prompt": text}


def test_an_empty_prompt(server: Server) -> None:
    """It is what /completions makes of it."""
    assert server.post("/tokenize", {"prompt": ""})["prompt"] == "\n"
    assert server.post("/detokenize", {"tokens": []}) == {"prompt": ""}


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "User: hello\n\nAssistant:"),
        ({"user_name": "Bob", "assistant_name": "Alice"}, "Bob: hello\n\nAlice:"),
        (
            {
                "messages": [
                    *CHAT["messages"],
                    {"role": "assistant", "content": "<", "prefix": True},
                ]
            },
            "User: hello\n\nAssistant: <",
        ),
    ],
)
def test_a_conversation(server: Server, fields: dict[str, Any], prompt: str) -> None:
    body = {**CHAT, **fields, "max_tokens": 1, "temperature": "0.5"}
    answer = server.post("/tokenize", body)
    assert answer["prompt"] == prompt
    assert answer["count"] == server.post("/chat/completions", body)["usage"]["prompt_tokens"]


def test_the_form_of_runner() -> None:
    talk = [
        {"role": "user", "content": " a\r\n\r\nb\n"},
        {"role": "assistant", "content": " c\n\n"},
    ]
    with serving(access_log=0, prompt_format="runner") as server:
        told = server.post("/tokenize", {"messages": talk})["prompt"]
    assert told == "User:  a\r\n\r\nb\n\n\nAssistant:  c\n\n\n\nAssistant:"


def test_broken_characters(server: Server) -> None:
    assert server.post("/detokenize", {"tokens": [0xE4 + 1, 0x41 + 1]}) == {"prompt": "\ufffdA"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": None}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "x", **CHAT}, "prompt"),
        ("/tokenize", {"prompt": "x" * ((1 << 20) + 1)}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "messages[0].role"),
        ("/tokenize", {**CHAT, "temperature": 9}, "temperature"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [100_000]}, "tokens"),
        ("/detokenize", {"tokens": [1] * ((1 << 20) + 1)}, "tokens"),
        ("/detokenize", {"tokens": [1] * (1 << 22)}, "body"),
    ],
)
def test_refusals(server: Server, path: str, body: Any, field: str) -> None:
    answer = server.post(path, body, expect=400)
    assert answer["error"]["param"] == field
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.parametrize("name", ["prompt", "content", "text"])
def test_a_text_by_the_names_of_others(server: Server, name: str) -> None:
    answer = server.post("/tokenize", {name: "hello", "add_special": False})
    assert answer == server.post("/tokenize", {"prompt": "hello"})
    for other in ("messages", "prompt", "content", "text"):
        if other != name:
            both = {name: "x", other: CHAT["messages"] if other == "messages" else "x"}
            answer = server.post("/tokenize", both, expect=400)
            assert "must not be combined with" in answer["detail"]
    for wrong in (5, None, ["x"]):
        answer = server.post("/tokenize", {name: wrong}, expect=400)
        assert answer["error"]["param"] == name


def test_the_tokenizer(server: Server) -> None:
    """What lm-evaluation-harness asks with `tokenizer_backend=remote`."""
    info = server.get("/tokenizer_info")
    assert info["tokenizer_class"] == "world-bytes" and info["vocab_size"] == 257
    assert (info["eos_token"], info["eos_token_id"], info["bos_token"]) == (None, 0, None)
    assert server.request("HEAD", "/tokenizer_info")[0] == 200


def test_a_chat_is_shown_as_the_model_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tools of the call that it answers, which are remembered."""
    player = Player()
    app = application(player, monkeypatch)
    client = falcon.testing.TestClient(app, headers={"Host": "localhost"})
    player.text = CALL
    asked: list[Any] = [{"role": "user", "content": "What is the weather like in Paris?"}]
    chat = client.simulate_post("/v1/chat/completions", json={"messages": asked, "tools": TOOLS})
    called = chat.json["choices"][0]["message"]
    id = called["tool_calls"][0]["id"]
    asked += [called, {"role": "tool", "tool_call_id": id, "content": "rain"}]
    shown = client.simulate_post("/tokenize", json={"messages": asked}).json["prompt"]
    client.simulate_post("/v1/chat/completions", json={"messages": asked})
    assert "Get the weather" in shown and player.prompts[-1] == shown
