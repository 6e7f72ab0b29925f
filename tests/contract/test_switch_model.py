"""POST /switch-model on a real server: another model, none, one that fails, and all of it while
others are answered."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import ENDLESS, SOAK, Server, completion_texts, events_of, serving, wait_until

GOLDEN = "tests/golden/data"
OTHER = f"{GOLDEN}/v70_L3_D32_fp32.pth"
TUNED = f"{GOLDEN}/v70_L3_D32_fp32_state.state.pth"
DEMO = "demo.safetensors"


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with serving(access_log=0) as server:
        yield server


@pytest.fixture
def server(one: Server) -> Server:
    """With the demo model again, whatever the last test has left."""
    if one.status()["model"] != "demo":
        one.post("/switch-model", {"model": DEMO})
    return one


def test_there_and_back(server: Server) -> None:
    assert server.post("/switch-model", {"model": OTHER, "strategy": "cpu fp32"}) == "success"
    status = server.status()
    assert (status["status"], status["model"]) == (3, "v70_L3_D32_fp32")
    assert server.post("/completions", {"prompt": "x", "max_tokens": 2})["model"] == status["model"]
    assert server.get("/v1/models")["data"][0]["id"] == status["model"]
    body = {"model": DEMO, "strategy": "cpu bf16", "tokenizer": "", "customCuda": "false"}
    assert server.post("/switch-model", body) == "success"
    chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    answer = server.post("/chat/completions", chat | {"temperature": 0})
    assert answer["model"] == "demo"
    assert "Paris" in answer["choices"][0]["message"]["content"]
    # What has been replaced is gone soon.
    wait_until(lambda: server.status()["draining"] == 0)


def test_every_model_gets_the_states_that_the_server_keeps() -> None:
    with serving(access_log=0, state_type="fp16") as server:
        chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
        answer = server.post("/chat/completions", chat | {"temperature": 0})
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert server.post("/switch-model", {"model": OTHER, "strategy": "cpu fp32"}) == "success"
        assert server.post("/completions", {"prompt": "x", "max_tokens": 2})["choices"]
        assert server.logged("states fp16", 2).count("states fp16") == 2


def test_names_that_models_shows(server: Server) -> None:
    """What the server has called a model loads it again, wherever its file lies."""
    server.post("/switch-model", {"model": OTHER, "strategy": "cpu fp32"})
    name = server.get("/models")["data"][0]["id"]
    server.post("/switch-model", {"model": "demo"})
    assert server.status()["model"] == "demo"
    server.post("/switch-model", {"model": name, "strategy": "cpu fp32"})
    assert server.status()["model"] == name == Path(OTHER).stem
    wrong = server.post("/switch-model", {"model": "demo", "tokenizer": "world"}, expect=400)
    assert "65530 ids" in wrong["detail"] and "/" not in wrong["detail"]
    assert server.post("/switch-model", {"model": "demo"}) == "success"


def test_runners_own_strategies(server: Server) -> None:
    """As its desktop client sends them, with a line in the log; tests/unit/test_strategies.py has
    the others."""
    body = {"model": OTHER, "customCuda": False, "deploy": False}
    server.post("/switch-model", {**body, "strategy": "fp16i8 layer20 chunk128"})
    server.logged("RWKV Runner is cpu fp16i8 *20 -> cpu fp16 on this CPU")
    server.post("/switch-model", {"model": "demo", "strategy": "albatross workers=1 batch=16"})
    assert server.status()["model"] == "demo"


@pytest.mark.parametrize("nothing", [None, ""])
def test_unload(server: Server, nothing: str | None) -> None:
    assert server.post("/switch-model", {"model": nothing, "strategy": "cpu fp32"}) == "success"
    status = server.status()
    assert (status["status"], status["model"]) == (0, None)
    answer = server.post("/completions", {"prompt": "x"}, expect=400)
    assert answer["detail"] == "model not loaded"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"model": "models/missing.pth", "strategy": "cuda fp16"},
            "failed to load: [Errno 2] No such file or directory: 'models/missing.pth'",
        ),
        ({"model": OTHER, "strategy": "cuda fp16"}, "not compiled with CUDA"),
        ({"model": OTHER, "strategy": "quick"}, "is no strategy"),
        ({"model": OTHER, "strategy": "webgpu nf4"}, "use 'cpu fp32', 'cpu bf16', 'cpu fp16'"),
        ({"model": OTHER, "strategy": "cpu 8192"}, "is no strategy"),  # no GGUF
        ({"model": "README.md"}, "invalid header or archive is corrupted: README.md"),
        ({"model": "web/"}, "failed to load: web/: is a folder with no checkpoint in it"),
        ({"model": TUNED}, f"failed to load: {TUNED}: is a tuned state, not a model"),
        ({"model": OTHER, "tokenizer": "world"}, "the tokenizer world has 65530 ids"),
        ({"model": OTHER, "tokenizer": "none.txt"}, "none.txt: there is no such file"),
    ],
)
def test_a_load_that_fails_leaves_the_model(
    server: Server, wrong: dict[str, Any], said: str
) -> None:
    answer = server.post("/switch-model", wrong, expect=400)
    assert said in answer["detail"] and answer["detail"].startswith("failed to load: ")
    error = answer["error"]
    assert error["message"].startswith("failed to load: ") and error["code"] == "load_failed"
    assert error["param"] in wrong and error["type"] == "invalid_request_error"
    status = server.status()
    assert (status["status"], status["model"]) == (3, "demo")
    assert server.post("/completions", {"prompt": "x", "max_tokens": 1})["model"] == "demo"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"strategy": "cpu fp32"}, "model"),
        ({"model": 5}, "model"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "../../../../../../etc/none"}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"model": "x" * 5000}, "model"),
        ({"model": OTHER, "strategy": 5}, "strategy"),
        ({"model": OTHER, "strategy": "x" * 5000}, "strategy"),
        ({"model": OTHER, "tokenizer": []}, "tokenizer"),
        ({"model": OTHER, "tokenizer": "/etc/fstab.txt"}, "tokenizer"),
        ({"model": OTHER, "customCuda": 2}, "customCuda"),
        ({"model": OTHER, "deploy": "maybe"}, "deploy"),
    ],
)
def test_wrong_requests_name_their_field(server: Server, body: dict[str, Any], field: str) -> None:
    answer = server.post("/switch-model", body, expect=400)
    assert answer["error"]["param"] == field
    assert answer["detail"].startswith(field)
    assert server.status()["model"] == "demo"


def test_running_answers_end_on_their_model(server: Server) -> None:
    """Byte for byte what they would have been."""
    body = {"prompt": "User: hi", **ENDLESS, "temperature": 0, "max_tokens": 4000}
    alone = completion_texts(server.stream("/completions", body))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.stream, "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        server.post("/switch-model", {"model": OTHER})
        status = server.status()
        assert status["running"] == 1 and status["draining"] >= 1
        server.post("/switch-model", {"model": None})
        events = running.result()
    assert completion_texts(events) == alone
    assert {event["model"] for event in events if event != "[DONE]"} == {"demo"}
    before = server.status()["completion_tokens"]
    wait_until(lambda: server.status()["draining"] == 0)
    assert server.is_idle()
    assert server.status()["completion_tokens"] == before  # counts outlive their engine


def test_switching_under_load(server: Server) -> None:
    """Every answer is whole and by one model, or says when to try again; /status always answers."""
    stop = threading.Event()
    body = {"prompt": "User: hi", **ENDLESS, "temperature": 0, "max_tokens": 40}
    wanted = {}
    for model in (OTHER, DEMO):
        server.post("/switch-model", {"model": model})
        answer = server.post("/completions", body)
        wanted[answer["model"]] = answer["choices"][0]["text"]

    def ask(stream: bool) -> Counter[str]:
        seen: Counter[str] = Counter()
        while not stop.is_set():
            asked = {**body, "stream": stream}
            status, headers, raw = server.request("POST", "/completions", asked)
            if status == 503:
                assert int(headers["retry-after"]) >= 1
                seen["again"] += 1
                time.sleep(0.01)
                continue
            assert status == 200, raw
            if stream:
                events = events_of(raw)
                text, model = completion_texts(events)[0], events[0]["model"]
            else:
                answer = json.loads(raw)
                text, model = answer["choices"][0]["text"], answer["model"]
            assert text == wanted[model]
            seen[model] += 1
        return seen

    def look() -> Counter[str]:
        seen: Counter[str] = Counter()
        while not stop.is_set():
            seen[str(server.status()["status"])] += 1
            time.sleep(0.02)
        return seen

    with ThreadPoolExecutor(13) as pool:
        asking = [pool.submit(ask, stream) for stream in (False, True) * 6]
        looking = pool.submit(look)
        try:
            for _ in range(40 if SOAK else 8):
                for model in (OTHER, DEMO):
                    assert server.post("/switch-model", {"model": model}) == "success"
                    time.sleep(0.1)
        finally:
            stop.set()
        seen = sum((one.result() for one in asking), Counter())
        assert looking.result()["3"] > 0
    assert seen["demo"] > 0 and seen["v70_L3_D32_fp32"] > 0
    wait_until(lambda: server.status()["draining"] == 0)
    assert "Traceback" not in server.log()


def test_one_load_at_a_time(server: Server) -> None:
    """Whoever comes during a load gets 304, and nothing is loaded for him."""
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(server.request, "POST", "/switch-model", {"model": OTHER}) for _ in range(8)
        ]
        answers = [one.result() for one in asked]
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) <= {200, 304} and statuses[200] >= 1
    assert all(raw == (b'"success"' if status == 200 else b"") for status, _, raw in answers)
    server.logged(f"{Path(OTHER).stem}: RWKV-7", statuses[200])
