"""The states of a server: offline, loading, working, and a load that fails or is cut short. The
model is scripted; tests/contract has the real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import falcon.testing
import gevent
import pytest
from gevent.event import Event

import rwkv_native as rn
from web import config
from web.app import create_app
from web.config import Config
from web.engine import model_host as module
from web.engine import retiring
from web.engine.client import Counts
from web.engine.model_host import LOADING, OFFLINE, WORKING, Busy, Runtime
from web.engine.model_loading import Choice
from web.engine.requests import SamplingOptions
from web.errors import Refusal
from web.schemas.fields import Fields
from web.schemas.sampling import defaults_of


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
    monkeypatch.setattr(module.InProcess, "begin", lambda loader, choice: one)
    monkeypatch.setattr(module.model_loading, "needed", lambda choice: 0)
    return one


def until(what: Callable[[], Any]) -> None:
    with gevent.Timeout(20):
        while not what():
            gevent.sleep(0.01)


def client_of(runtime: Runtime) -> falcon.testing.TestClient:
    app = create_app(runtime, Config())
    return falcon.testing.TestClient(app, headers={"Host": "localhost"})


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
    assert client.simulate_get("/status").json["progress"] == 0
    until(lambda: runtime._loading is loading)
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
    until(lambda: runtime.status != LOADING)
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
    until(lambda: runtime._loading is loading)
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


class Scripted:
    """A Runtime whose loads are opened by the test, with engines that only count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int = 100) -> None:
        self.gate = Event()
        self.gate.set()
        self.fails = False
        self.opened: list[str] = []
        self.freed: list[str] = []
        self.cleared: list[str] = []
        self.free = 1 << 40
        self.wanted = size
        self.size = size
        monkeypatch.setattr(retiring, "_QUIET", 0.05)
        monkeypatch.setattr(retiring, "_DRAIN", 0.2)
        monkeypatch.setattr(module.model_loading, "needed", lambda choice: self.wanted)
        monkeypatch.setattr(module.model_loading, "available", lambda: self.free)
        monkeypatch.setattr(Runtime, "_rehearse", lambda runtime, choice: None)
        monkeypatch.setattr(Runtime, "_configured", lambda runtime, serving: serving)
        monkeypatch.setattr(Runtime, "_open", lambda runtime, choice, tell: self.open(choice))
        self.runtime = Runtime(Config(model="none"))
        self.runtime.start()

    def open(self, choice: Choice) -> Any:
        self.gate.wait()
        if self.fails and choice.name != "first":
            raise ValueError(f"{choice.path}: no good")
        self.opened.append(choice.name)
        return SimpleNamespace(
            name=choice.name,
            created=1,
            info=SimpleNamespace(weight_bytes=self.size),
            engine=SimpleNamespace(
                busy=False,
                failed=False,
                counts=lambda: Counts(prompt_tokens=3, completion_tokens=4),
                cache=lambda: rn.CacheStats(*[0] * 10),
                clear_cache=lambda: self.cleared.append(choice.name),
                states=SimpleNamespace(forget=lambda: None),
                detach=lambda: None,
                end=lambda: self.freed.append(choice.name),
            ),
        )

    def switch(self, name: str) -> None:
        self.runtime.switch(Choice(f"/w/{name}.pth", f"{name}.pth"))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    one = Scripted(monkeypatch)
    one.switch("first")
    yield one
    one.runtime.close()


def test_both_models_fit(scripted: Scripted) -> None:
    """The first one waits aside, takes no requests, and goes when it is idle."""
    runtime = scripted.runtime
    first = runtime.serving()
    first.engine.busy = True
    scripted.gate.clear()
    switching = gevent.spawn(scripted.switch, "second")
    until(lambda: runtime.status == LOADING)
    assert runtime.model_name is None
    with pytest.raises(Refusal, match="model not loaded: loading"):
        runtime.serving()
    with pytest.raises(Busy):
        scripted.switch("third")
    with pytest.raises(Busy):
        runtime.switch(None)
    scripted.gate.set()
    switching.get()
    assert runtime.status == WORKING and runtime.model_name == "second"
    gevent.sleep(0.2)
    assert (runtime.draining, scripted.freed) == (1, [])  # it still answers somebody
    assert scripted.cleared == []
    first.engine.busy = False
    until(lambda: runtime.draining == 0)
    assert scripted.freed == ["first"]
    assert runtime.counts().completion_tokens == 8


def test_too_little_memory_changes_nothing(scripted: Scripted) -> None:
    scripted.free, scripted.wanted = 50, 200  # with the 100 that the first would give back
    with pytest.raises(Refusal, match=r"^failed to load: not enough memory"):
        scripted.switch("second")
    assert scripted.runtime.model_name == "first" and scripted.freed == []
    assert scripted.cleared == ["first"]  # states of earlier texts are the first to go


def test_only_one_model_fits(scripted: Scripted) -> None:
    """The first one goes before the second comes, whatever still runs."""
    runtime = scripted.runtime
    runtime.serving().engine.busy = True
    scripted.free, scripted.wanted = 50, 120
    scripted.gate.clear()
    switching = gevent.spawn(scripted.switch, "second")
    until(lambda: scripted.freed == ["first"])
    assert runtime.status == LOADING
    scripted.gate.set()
    switching.get()
    assert runtime.model_name == "second"


@pytest.mark.parametrize("free", [1 << 40, 50])
def test_a_failed_load_brings_the_first_one_back(scripted: Scripted, free: int) -> None:
    """From memory, or where it had to go, from its file."""
    scripted.free, scripted.wanted, scripted.fails = free, 120, True
    with pytest.raises(Refusal, match=r"^failed to load: unexpected ValueError"):
        scripted.switch("second")
    runtime = scripted.runtime
    assert (runtime.status, runtime.model_name) == (WORKING, "first")
    again = ["first"] if free == 50 else []
    assert scripted.freed == again and scripted.opened == ["first", *again]
    scripted.fails = False
    scripted.switch("second")  # and it can still be replaced
    assert runtime.model_name == "second"


def test_a_failed_load_without_a_model(scripted: Scripted) -> None:
    runtime = scripted.runtime
    runtime.switch(None)
    assert (runtime.status, runtime.model_name) == (OFFLINE, None)
    scripted.fails = True
    with pytest.raises(Refusal, match=r"^failed to load"):
        scripted.switch("second")
    assert runtime.status == OFFLINE


def test_memory_is_given_back_before_it_is_used(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the end of the first engine takes."""
    scripted.free, scripted.wanted = 50, 120
    seen = []

    def open_(runtime: Runtime, choice: Choice, tell: object) -> Any:
        seen.append(list(scripted.freed))
        return scripted.open(choice)

    def close() -> None:
        time.sleep(0.3)
        scripted.freed.append("first")

    scripted.runtime.serving().engine.end = close
    monkeypatch.setattr(Runtime, "_open", open_)
    scripted.switch("second")
    assert seen == [["first"]]


def test_no_switch_during_a_stop(scripted: Scripted) -> None:
    scripted.runtime.close()
    with pytest.raises(Refusal, match="the server is stopping"):
        scripted.switch("second")


def test_a_stop_ends_a_switch(scripted: Scripted) -> None:
    scripted.gate.clear()
    switching = gevent.spawn(scripted.switch, "second")
    gevent.sleep(0.05)
    scripted.runtime.close()
    with pytest.raises(Refusal, match="the server is stopping"):
        switching.get()


def test_304_during_a_load(scripted: Scripted) -> None:
    client = client_of(scripted.runtime)
    scripted.gate.clear()
    switching = gevent.spawn(scripted.switch, "second")
    gevent.sleep(0.05)
    answer = client.simulate_post("/switch-model", json={"model": "README.md"})
    assert (answer.status_code, answer.content) == (304, b"")
    assert client.simulate_get("/status").json["status"] == LOADING
    scripted.gate.set()
    switching.get()


def test_settings_are_the_defaults_of_requests() -> None:
    runtime = Runtime(Config(temperature=0.5, top_k=-1, penalty_decay=0.9, state="x.pth"))
    now = runtime._settings.now
    assert now.defaults == SamplingOptions(temperature=0.5, top_k=0, penalty_decay=0.9)
    assert now.state == "x.pth"


def test_settings_have_the_ranges_of_the_fields() -> None:
    by_name = {one.name: one for one in fields(Config)}
    for name in ("temperature", "top_p", "top_k", "presence_penalty", "penalty_decay"):
        low, high = config.setting_of(by_name[name]).range
        defaults_of(Fields({name: low})), defaults_of(Fields({name: high}))
        for wrong in (low - 1, high + 1):  # of top_k, -1 is off
            with pytest.raises(Refusal):
                defaults_of(Fields({name: wrong}))
            with pytest.raises(ValueError, match=name):
                Config(**{name: wrong})
