"""Deploy mode: what changes the server is closed, and everything else is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server, serving

from web.transport.deploy_guard import CLOSED

CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def deployed() -> Iterator[Server]:
    with serving(access_log=0, deploy=1) as server:
        yield server


def refused(server: Server, path: str, body: Any, param: str | None = None) -> None:
    answer = server.post(path, body, expect=403)
    assert answer["detail"] == "Forbidden"
    assert answer["error"]["code"] == "deploy_mode" and answer["error"]["param"] == param


@pytest.mark.parametrize(
    "path", ["/switch-model", "/update-config", "/exit", "/txt-to-midi", "/reset-state"]
)
@pytest.mark.parametrize("body", [{}, b"not json", {"model": None}, {"max_tokens": 3}])
def test_what_changes_the_server_is_closed(deployed: Server, path: str, body: Any) -> None:
    assert path in CLOSED
    refused(deployed, path, body)
    refused(deployed, path + "/", body)
    status = deployed.status()
    assert (status["status"], status["model"]) == (3, "demo")


@pytest.mark.parametrize("state", ["models/a.pth", "rwkv_native", "/etc/passwd"])
@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions", "/completions"])
def test_requests_may_not_name_files(deployed: Server, path: str, state: str) -> None:
    refused(deployed, path, {**CHAT, "prompt": "x", "state": state}, "state")


def test_everything_else_is_open(deployed: Server) -> None:
    assert deployed.post("/chat/completions", {**CHAT, "state": ""})
    assert deployed.post("/completions", {"prompt": "x", "max_tokens": 2})
    for path in ("/", "/status", "/models", "/health"):
        deployed.get(path)


def test_switch_model_closes_the_server() -> None:
    """Also where the load fails, or the request is wrong: who asks for protection relies on it."""
    with serving(access_log=0) as server:
        body = {"model": "demo.safetensors", "deploy": "true"}  # as its deployment script sends it
        server.post("/switch-model", {"model": "demo", "deploy": "perhaps"}, expect=400)
        server.post("/switch-model", {"model": "demo", "deploy": False})
        server.post("/update-config", {"max_tokens": 5})
        server.post("/switch-model", {**body, "model": "nope.pth"}, expect=400)
        refused(server, "/switch-model", {**body, "deploy": False})
        refused(server, "/update-config", {})
