"""The states of a server: offline, loading, working, and a load that fails or is cut short. The
model is scripted; tests/contract has the real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import falcon.testing
import gevent
import pytest

from web import runtime as module
from web.app import create_app
from web.config import Config
from web.runtime import LOADING, OFFLINE, Runtime


class Loading:
    """A load that the test holds in its hand."""

    def __init__(self) -> None:
        self.finished = False
        self.progress = (0, 0)
        self.cancelled = 0
        self.problem: Exception = ValueError("model.pth: blocks.0.ln0.weight is missing")

    def result(self) -> Any:
        raise self.problem

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    one = Loading()
    fake = SimpleNamespace(
        Model=SimpleNamespace(load=lambda path, **_: one), Error=module.rn.Error, Loading=Loading
    )
    monkeypatch.setattr(module, "rn", fake)
    return one


def client_of(runtime: Runtime) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(create_app(runtime, Config()))


def test_nothing_starts_by_itself() -> None:
    runtime = Runtime(Config(model="none"))
    assert runtime.status == OFFLINE and runtime.model_name is None and runtime.progress is None
    runtime.start()
    assert runtime.status == OFFLINE
    runtime.close()
    runtime.close()


def test_loading(loading: Loading) -> None:
    runtime = Runtime(Config(model="some/model.pth"))
    client = client_of(runtime)
    lines: list[str] = []
    runtime.start(lines.append)
    assert runtime.status == LOADING  # at once, and start() has returned
    gevent.sleep(0.05)
    assert client.simulate_get("/status").json["progress"] == 0
    loading.progress = (3, 12)
    answer = client.simulate_get("/status").json
    assert (answer["status"], answer["progress"], answer["model"]) == (LOADING, 0.25, None)
    refused = client.simulate_post("/completions", json={"prompt": "x"})
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert refused.json["detail"] == "model not loaded: loading"
    assert refused.json["error"]["type"] == "server_error"
    wrong = client.simulate_post("/completions", json={"prompt": 5})
    assert wrong.status_code == 400  # what is wrong is wrong without a model, too

    loading.finished = True
    gevent.sleep(0.1)
    assert runtime.status == OFFLINE and runtime.progress is None
    refused = client.simulate_post("/completions", json={"prompt": "x"})
    assert (refused.status_code, refused.json["detail"]) == (400, "model not loaded")
    assert lines == ["loading model (auto)"]
    runtime.close()


def test_a_missing_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise module.rn.MissingFileError("demo.safetensors is not part of this installation")

    monkeypatch.setattr(module.rn, "demo_model", missing)
    runtime = Runtime(Config())
    runtime.start(lambda line: None)
    gevent.sleep(0.05)
    assert runtime.status == OFFLINE
    runtime.close()


def test_close_cuts_a_load_short(loading: Loading) -> None:
    runtime = Runtime(Config(model="some/model.pth"))
    runtime.start(lambda line: None)
    gevent.sleep(0.05)
    assert loading.cancelled == 0
    runtime.close()
    assert loading.cancelled == 1
    assert runtime.status == OFFLINE


def test_a_fault_says_nothing_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(Config(model="none"))

    def broken() -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(runtime, "counts", broken)
    answer = client_of(runtime).simulate_get("/status")
    assert answer.status_code == 500
    assert answer.json["detail"] == "Internal Server Error"
    assert "secret" not in answer.text
