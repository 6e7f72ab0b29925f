"""POST /update-config, tuned states in requests, and `echo`: on a model that has a tuned state."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import ROOT, Server, completion_texts, serving

import rwkv_native as rn
from rwkv_native.checkpoint import write_safetensors

GOLDEN = ROOT / "tests" / "golden" / "data"
MODEL = GOLDEN / "v70_L3_D32_fp32.pth"
TUNED = "v70_L3_D32_fp32_state.state.pth"
GREEDY = {"prompt": "hello", "max_tokens": 24, "temperature": 0, "frequency_penalty": 0}
# Ends at the limit only: a sampled end token would shorten the text now and then.
NO_END = {"prompt": "x", "logit_bias": {"0": -100}}
# What RWKV Runner's guide sends, and what a fresh server does.
GUIDE = {
    "frequency_penalty": 1, "global_penalty": False, "max_tokens": 1000, "penalty_decay": 0.996,
    "presence_penalty": 0, "state": "models/", "temperature": 1, "top_p": 0.3,
}  # fmt: skip
FRESH = {**GUIDE, "max_tokens": 500, "top_k": 0, "frequency_penalty": 0}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tuned states, one for another model."""
    folder = tmp_path_factory.mktemp("states")
    (folder / "tuned.pth").symlink_to(GOLDEN / TUNED)
    zeros = np.zeros((1, 8, 8), np.float32)
    write_safetensors(folder / "other.safetensors", {"blocks.0.att.time_state": zeros}, {})
    return folder


@pytest.fixture(scope="module")
def one(states: Path) -> Iterator[Server]:
    folders = f"{states}:{GOLDEN}"
    with serving(access_log=0, model=MODEL, strategy="cpu fp32", model_dir=folders) as server:
        yield server


@pytest.fixture
def server(one: Server) -> Iterator[Server]:
    yield one
    one.post("/update-config", FRESH)


def text(server: Server, **fields: Any) -> str:
    return server.post("/completions", {**GREEDY, **fields})["choices"][0]["text"]


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """By the bindings alone: from the zero state and from the tuned one."""
    model = rn.Model.open(MODEL, strategy="cpu fp32")
    tokenizer = rn.Tokenizer.for_model(model)
    sampling = rn.Sampling(max_tokens=24, temperature=0)
    states = {"": None, TUNED: model.load_tuned_state(GOLDEN / TUNED)}
    with rn.Engine(model, tokenizer, max_batch=1) as engine:
        return {
            name: "".join(e.text for e in engine.generate("hello", sampling, state=state))
            for name, state in states.items()
        }


def test_a_request_names_its_state(server: Server, expected: dict[str, str]) -> None:
    assert expected[""] != expected[TUNED]
    assert text(server) == text(server, state="") == text(server, state="models/") == expected[""]
    assert text(server, state=TUNED) == expected[TUNED]
    assert text(server, state=TUNED.removesuffix(".pth")) == expected[TUNED]
    assert text(server, state=str(GOLDEN / TUNED)) == expected[TUNED]
    assert text(server, state="tuned.pth") == expected[TUNED]
    assert text(server, state="tests/golden") == expected[""]  # a folder of the workspace


def test_different_states_in_one_batch(server: Server, expected: dict[str, str]) -> None:
    with ThreadPoolExecutor(24) as pool:
        names = ["", TUNED, "models/", str(GOLDEN / TUNED)] * 6
        texts = list(pool.map(lambda name: text(server, state=name), names))
    assert texts == [expected[""], expected[TUNED]] * 12
    streamed = server.stream("/completions", {**GREEDY, "state": TUNED})
    assert completion_texts(streamed) == {0: expected[TUNED]}


def test_a_state_of_the_configuration(server: Server, expected: dict[str, str]) -> None:
    assert server.post("/update-config", {"state": TUNED}) == "success"
    assert text(server) == text(server, state=TUNED) == expected[TUNED]
    assert text(server, state="") == expected[""]
    assert server.post("/update-config", {"temperature": 1}) == "success"
    assert text(server) == expected[TUNED]  # what is not named stays
    assert server.post("/update-config", {"state": ""}) == "success"
    assert text(server) == expected[""]


def test_a_state_that_changes_on_disk_is_read_again(
    server: Server, expected: dict[str, str], states: Path
) -> None:
    path = states / "changing.safetensors"
    arrays = {f"blocks.{i}.att.time_state": np.zeros((2, 16, 16), np.float32) for i in range(3)}
    write_safetensors(path, arrays, {})
    assert text(server, state=path.name) == expected[""]  # zero is what others start from
    path.write_bytes((GOLDEN / TUNED).read_bytes())
    assert text(server, state=path.name) == expected[TUNED]


def test_the_guides_body(server: Server) -> None:
    assert server.post("/update-config", GUIDE) == "success"


def test_defaults_hold_for_requests_that_say_nothing(server: Server) -> None:
    server.post("/update-config", {"max_tokens": "3", "temperature": "0"})
    answer = server.post("/completions", {"prompt": "hello"})
    assert answer["usage"]["completion_tokens"] == 3
    chat = {"messages": [{"role": "user", "content": "x"}], "stop": ["never"]}
    assert server.post("/chat/completions", chat)["usage"]["completion_tokens"] == 3
    answer = server.post("/completions", {"prompt": "hello", "max_tokens": 4})
    assert answer["usage"]["completion_tokens"] == 4
    texts = {text(server, temperature=None, max_tokens=3) for _ in range(5)}
    assert len(texts) == 1  # greedy


def test_what_is_null_is_taken_back(server: Server) -> None:
    """The model's own value holds again, as /status shows; what is not named stays."""
    server.post(
        "/update-config", dict.fromkeys(server.status()["defaults"], None) | {"state": None}
    )
    own = server.status()["defaults"]
    assert (own["temperature"], own["top_p"], own["top_k"]) == (1.0, 0.3, 0)
    zero = text(server, max_tokens=5)
    server.post("/update-config", {"max_tokens": 3, "top_p": 0.5, "state": TUNED})
    assert server.status()["defaults"] == own | {"max_tokens": 3, "top_p": 0.5}
    server.post("/update-config", {"top_p": None})
    assert server.status()["defaults"] == own | {"max_tokens": 3}
    assert server.post("/completions", NO_END)["usage"]["completion_tokens"] == 3
    assert text(server, max_tokens=5) != zero
    server.post("/update-config", {"state": None, "max_tokens": None})
    assert server.status()["defaults"] == own
    assert text(server, max_tokens=5) == zero


def test_they_survive_a_switch(server: Server) -> None:
    server.post("/update-config", {"max_tokens": 3, "state": TUNED})
    server.post("/switch-model", {"model": str(ROOT / "rwkv_native/demo/demo.safetensors")})
    # Its state suits the other model only, and comes back with that.
    assert server.post("/completions", NO_END)["usage"]["completion_tokens"] == 3
    server.logged("state shape mismatch")
    server.post("/switch-model", {"model": MODEL.name, "strategy": "cpu fp32"})
    tuned = text(server, max_tokens=5)
    assert tuned == text(server, max_tokens=5, state=TUNED) != text(server, max_tokens=5, state="")


WRONG = [
    ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ({"temperature": 3.1}, "temperature must be a number between 0 and 3"),
    ({"top_p": -1}, "top_p must be a number between 0 and 1"),
    ({"top_k": -2}, "top_k must be an integer between -1 and 2147483647"),
    ({"presence_penalty": 3}, "presence_penalty must be a number between -2 and 2"),
    ({"frequency_penalty": "x"}, "frequency_penalty must be a number between -2 and 2"),
    ({"penalty_decay": 1.5}, "penalty_decay must be a number between 0 and 1"),
    ({"global_penalty": 2}, "global_penalty must be true or false"),
    (
        {"temprature": 1},
        "temprature is not a field of /update-config; these are: max_tokens, temperature, ",
    ),
    ({"stop": ["x"]}, "stop is not a field of /update-config"),
    ({"state": 5}, "state must be a string"),
    ({"state": "models/none.pth"}, "state file not found"),
    ({"state": "README.md"}, "state file failed to load"),
    ({"state": MODEL.name}, "state file failed to load: holds no tuned state"),
    ({"state": "other.safetensors"}, "state shape mismatch"),
    ({"state": "/etc/passwd"}, "state must name a file in the server's workspace"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_wrong_value_changes_nothing(server: Server, wrong: dict[str, Any], said: str) -> None:
    server.post("/update-config", {"max_tokens": 3})
    answer = server.post("/update-config", {"max_tokens": 4, **wrong}, expect=400)
    assert answer["detail"].startswith(said)
    assert answer["error"]["param"] == next(iter(wrong))
    assert server.post("/completions", NO_END)["usage"]["completion_tokens"] == 3


def test_echo(server: Server) -> None:
    body = {**GREEDY, "prompt": ["hello", [105, 106]], "echo": True}
    plain = server.post("/completions", {**body, "echo": False})["choices"]
    wanted = ["hello" + plain[0]["text"], "hi" + plain[1]["text"]]
    answer = server.post("/completions", body)
    assert [choice["text"] for choice in answer["choices"]] == wanted
    assert answer["usage"]["completion_tokens"] == 48
    texts = completion_texts(server.stream("/completions", body))
    assert [texts[0], texts[1]] == wanted
