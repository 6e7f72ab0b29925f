"""Clients as people install them, each in an environment of its own, unmodified, against a real
server: chat, streams, models, errors, tools. What each gets is printed by its file in scripts/.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from environments import ENVIRONMENTS
from player import CALL, SECOND, TOOLS, Player, application
from serving import Server, serving, wait_until

PATIENCE = 600.0  # seconds for an environment that no earlier run has left, and for a client
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
CALLS = [["get_weather", {"location": "Paris", "days": 3}], ["get_weather", {"location": "Rome"}]]

pytestmark = [pytest.mark.timeout(3 * PATIENCE), pytest.mark.soak]


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    """It wants a key."""
    with serving(access_log=0, api_key="right", model="none", ready=False) as one:
        wait_until(lambda: _answers(one))
        yield one


def _answers(server: Server) -> bool:
    try:
        return server.request("GET", "/")[0] == 200
    except OSError:
        return False


class _Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def scripted() -> Iterator[str]:
    """The address of a server whose model calls a function twice."""
    player = Player()
    player.text = CALL + SECOND
    with (
        pytest.MonkeyPatch.context() as patch,
        make_server("127.0.0.1", 0, application(player, patch), _Threading, _Quiet) as http,
    ):
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=ENVIRONMENTS.values(), ids=lambda one: one.name)
def report(
    request: pytest.FixtureRequest,
    making: Mapping[str, subprocess.Popen[bytes]],
    server: Server,
    keyed: Server,
    scripted: str,
) -> dict[str, Any]:
    """What one client got."""
    environment = request.param
    try:
        made = making[environment.name].wait(PATIENCE)
    except subprocess.TimeoutExpired:
        made = None
    if made != 0:
        said = environment.log.read_text(errors="replace").strip()
        pytest.skip(f"{environment.name} cannot be installed: {said[-300:]}")
    told = {"plain": server.url, "keyed": keyed.url, "scripted": scripted}
    told |= {"messages": MESSAGES, "tools": TOOLS}
    done = subprocess.run(
        [*environment.command, json.dumps(told)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_chat_and_stream(report: dict[str, Any]) -> None:
    assert "Paris" in report["chat"] and report["reason"] == "stop"
    assert report["streamed"] == report["chat"]
    assert report["streamed_reason"] == "stop"
    assert report["usage"] == report["streamed_usage"] and min(report["usage"]) > 0


def test_models_and_completions(report: dict[str, Any]) -> None:
    assert report.get("models", ["demo"])[0] == "demo"  # LangChain knows no list of models
    assert report.get("completed", "ZZZZZ") == "ZZZZZ"


def test_embeddings(report: dict[str, Any]) -> None:
    """Flat unit vectors, the same in both codings."""
    hello, goodbye = report["embedded"]
    assert len(hello) == len(goodbye) > 1
    for vector in (hello, goodbye):
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
    assert hello != goodbye
    for one, other in zip(report["embedded"], report.get("embedded_plain", []), strict=False):
        assert one == pytest.approx(other, abs=1e-6)


def test_errors(report: dict[str, Any]) -> None:
    bad, missing, unknown = report["bad"], report["missing"], report["unknown"]
    assert (bad["kind"], bad["status"]) == ("BadRequestError", 400)
    assert "temperature must be a number between 0 and 3" in bad["message"]
    assert bad.get("param", "temperature") == "temperature"
    assert missing["status"] == 404
    assert (unknown["kind"], unknown["status"]) == ("AuthenticationError", 401)
    assert "Bearer" in unknown["message"]
    assert unknown.get("code", "invalid_api_key") == "invalid_api_key"


def test_tools(report: dict[str, Any]) -> None:
    assert report["tools"] == CALLS
    assert report["tools_streamed"] == CALLS
