"""The lines of the access log: what an operator learns of an answer without reading it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import ENDLESS, ROOT, Server, serving, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def entry(server: Server, name: str) -> dict[str, Any]:
    """The line of the request of this id."""

    def found() -> dict[str, Any] | None:
        for text in server.log().splitlines():
            if text.startswith("{") and (line := json.loads(text))["id"] == name:
                return line
        return None

    return wait_until(found)


def ask(server: Server, name: str, path: str, body: Any) -> dict[str, Any]:
    status, *_ = server.request("POST", path, body, {"X-Request-Id": name})
    assert status == 200
    return entry(server, name)


@pytest.mark.parametrize("stream", [False, True])
def test_answers(server: Server, stream: bool) -> None:
    body = {"prompt": ["a", "bc"], "max_tokens": 3, "stream": stream, "logit_bias": {"0": -100}}
    line = ask(server, f"text-{stream}", "/completions", body)
    assert line["finish"] == "length" and line["status"] == 200
    assert line["prompt_tokens"] == 3 and line["completion_tokens"] == 6
    assert 0 < line["first_token"] <= line["seconds"]
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": stream}
    line = ask(server, f"chat-{stream}", "/v1/chat/completions", body)
    assert line["finish"] in ("length", "stop") and line["completion_tokens"] <= 2


def test_vectors(server: Server) -> None:
    line = ask(server, "vectors", "/embeddings", {"input": ["a", "bc"]})
    assert (line["finish"], line["completion_tokens"]) == ("stop", 0)
    assert line["first_token"] is None


def test_a_client_that_leaves(server: Server) -> None:
    for stream in (False, True):
        name = f"gone-{stream}"
        raw = json.dumps({**ENDLESS, "prompt": "x", "stream": stream}).encode()
        head = f"POST /completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\n"
        sock = server.open("GET", "/", {})
        sock.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        wait_until(lambda: server.status()["running"] == 1)
        sock.close()
        line = entry(server, name)
        assert line["finish"] == "gone" and line["prompt_tokens"] <= 1
        assert line["status"] == (200 if stream else 499)


def test_a_client_whose_write_fails_first(tmp_path: Path) -> None:
    """The hub does not hear of it in time: the log looks for itself."""
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(
        f"exec(open({str(ROOT / 'web/gunicorn.conf.py')!r}).read())\n"
        "from web.transport.disconnects import Hangups\n"
        "Hangups._on_ready = lambda self: None\n"
    )
    with serving("-c", str(conf)) as server:
        raw = json.dumps({**ENDLESS, "prompt": "x", "stream": True}).encode()
        sock = server.open("GET", "/", {})
        head = "POST /completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: late\r\n"
        sock.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        wait_until(lambda: server.status()["running"] == 1)
        sock.close()
        assert entry(server, "late")["finish"] == "gone"


def test_others_have_none_of_it(server: Server) -> None:
    server.request("GET", "/status", headers={"X-Request-Id": "status"})
    assert "finish" not in entry(server, "status")
