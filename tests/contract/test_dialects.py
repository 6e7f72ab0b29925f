"""A dialect that the server does not have, mounted on its application: three short files are all
that it takes. The engine is the real one; where it must fail, a scripted one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import gevent
import pytest
import telegrams
from player import Script, application
from telegrams.resource import TelegramResource

import rwkv_native as rn
from web.app import Application, create_app
from web.chat.turn import Turns
from web.config import Config
from web.engine.model_host import WORKING, Runtime
from web.engine.states import StartStates
from web.files.allowed_paths import Roots

SAID = "What is 2 plus 3?"
TELEGRAM = {"wire": SAID, "longest": 20}


def mounted(app: Application, config: Config, key: str = "") -> falcon.testing.TestClient:
    starts = StartStates(Roots(config), lambda: app.runtime.deploy)
    app.add_route("/telegrams", TelegramResource(app.runtime, Turns(app.runtime, starts)))
    headers = {"Host": "localhost", "Authorization": f"Bearer {key}"}
    return falcon.testing.TestClient(app, headers=headers)


@pytest.fixture(scope="module")
def client() -> Iterator[falcon.testing.TestClient]:
    config = Config(model=str(rn.demo_model()), api_key=("a-key",))
    runtime = Runtime(config)
    runtime.start()
    try:
        with gevent.Timeout(60):
            while runtime.status != WORKING:
                gevent.sleep(0.01)
        yield mounted(create_app(runtime, config), config, "a-key")
    finally:
        runtime.close()


def lines(answer: falcon.testing.Result) -> list[Any]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_answer_is_the_same_in_every_dialect(client: falcon.testing.TestClient) -> None:
    whole = client.simulate_post("/telegrams", json=TELEGRAM)
    assert whole.status_code == 200 and whole.headers["content-type"] == "application/json"
    *parts, end, price = lines(client.simulate_post("/telegrams", json={**TELEGRAM, "live": True}))
    words = "".join(part["words"] for part in parts)
    assert words and whole.json == {"words": words, **end, **price}
    asked = {"messages": [{"role": "user", "content": SAID}], "max_tokens": 20, "temperature": 0}
    chat = client.simulate_post("/v1/chat/completions", json=asked).json
    (choice,) = chat["choices"]
    assert choice["message"]["content"] == words and choice["finish_reason"] == end["end"]
    assert chat["usage"]["completion_tokens"] == price["price"] > 1


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({}, "wire", "wire is required"),
        ({"wire": ""}, "wire", "wire must have at least 1 character"),
        ({**TELEGRAM, "longest": 101}, "longest", "longest must be an integer between 1 and 100"),
    ],
)
def test_errors_have_its_own_body(
    client: falcon.testing.TestClient, body: dict[str, Any], field: str, problem: str
) -> None:
    answer = client.simulate_post("/telegrams", json=body)
    assert (answer.status_code, answer.json) == (400, {"stop": problem, "about": field})


def test_so_has_what_refuses_a_request_before_it_is_read(client: falcon.testing.TestClient) -> None:
    answer = client.simulate_post("/telegrams", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 401 and answer.json.keys() == {"stop", "about"}
    answer = client.simulate_post("/telegrams", body=b"{")
    assert answer.status_code == 400 and answer.json["stop"].startswith("the request body is not")
    answer = client.simulate_get("/telegrams")
    assert answer.status_code == 405 and answer.json.keys() == {"stop", "about"}


def test_so_has_what_fails_amid(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    client = mounted(application(script, monkeypatch), Config(model="none"))
    failure = {"stop": "generation failed: no numbers", "about": None}
    script.plays(1, [(0, " One", None)], [(0, "no numbers", "error")])
    answer = client.simulate_post("/telegrams", json={**TELEGRAM, "live": True})
    assert lines(answer) == [{"words": "One"}, failure]
    script.plays(1, [(0, " One", None)], [(0, "no numbers", "error")])
    answer = client.simulate_post("/telegrams", json=TELEGRAM)
    assert (answer.status_code, answer.json) == (500, failure)


@pytest.mark.parametrize("name", ["schema", "dialect", "resource"])
def test_it_takes_three_short_files(name: str) -> None:
    path = Path(telegrams.__file__).with_name(f"{name}.py")
    assert 0 < len(path.read_text().splitlines()) <= 60
