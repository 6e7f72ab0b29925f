"""Nobody's many prompts or streams stand before what others ask: turns go by request, then
by client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving import ENDLESS, Server, wait_until

CHAT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}


@contextmanager
def at_work(server: Server, *requests: tuple[str, dict[str, Any]]) -> Iterator[None]:
    """These requests hold the two slots, and more of them wait."""
    socks = [server.open("POST", path, body) for path, body in requests]
    try:
        wait_until(lambda: server.status()["running"] + server.status()["waiting"] > 2)
        yield
    finally:
        for sock in socks:
            sock.close()
        wait_until(server.is_idle)


def ask(server: Server, path: str, body: dict[str, Any], address: str = "127.0.0.1") -> Any:
    """From an address of this machine."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.port, timeout=30, source_address=(address, 0)
    )
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


def test_one_request_of_many_prompts(narrow: Server) -> None:
    many = {"prompt": ["a", "b", "c", "d"], **ENDLESS, "stream": True}
    with at_work(narrow, ("/completions", many)):
        answer = ask(narrow, "/v1/chat/completions", CHAT)
        assert answer["usage"]["completion_tokens"] <= 4
        assert ask(narrow, "/embeddings", {"input": "x"})["data"][0]["embedding"]
        assert narrow.status()["running"] == 2


def test_one_client_with_many_requests(narrow: Server) -> None:
    stream = ("/completions", {"prompt": "a", **ENDLESS, "stream": True})
    with at_work(narrow, stream, stream, stream):
        answer = ask(narrow, "/v1/chat/completions", CHAT, "127.0.0.2")
        assert answer["usage"]["completion_tokens"] <= 4
        assert narrow.status()["running"] == 2
