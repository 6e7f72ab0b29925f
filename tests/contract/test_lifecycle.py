"""Start, load, refusal of a second worker, stop: what an operator sees."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from serving import ENDLESS, ROOT, SOAK, Server, free_port, serving, wait_until

DEMO = ROOT / "rwkv_native" / "demo" / "demo.safetensors"


def test_two_workers_are_refused() -> None:
    server = Server("-w", "2", ready=False)
    assert server.process.wait(20) == 1
    assert "workers = 2 is refused" in server.log()
    assert "-w 1" in server.log()
    assert "Traceback" not in server.log()
    assert "Booting worker" not in server.log()


def test_other_worker_classes_are_refused() -> None:
    server = Server("-k", "sync", ready=False)
    assert server.process.wait(20) == 1
    assert "leave -k out" in server.log() and "Traceback" not in server.log()


def test_without_a_model() -> None:
    with serving(model="none", ready=False) as server:
        wait_until(lambda: answers(server))
        status = server.status()
        assert status["status"] == 0 and status["model"] is None
        code, _, raw = server.request("GET", "/health")
        assert code == 503 and b'"model_not_loaded"' in raw
        assert (status["running"], status["waiting"]) == (0, 0)
        for path, body in (
            ("/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": []}),
        ):
            answer = server.post(path, body, expect=400)
            assert answer["detail"] == "model not loaded"
            assert answer["error"]["code"] == "model_not_loaded"
        # Validation comes first.
        assert server.post("/completions", {"prompt": 5}, expect=400)["error"]["param"] == "prompt"
        assert server.get("/models")["data"] == []
        assert server.get("/models/rwkv")["created"] == 0


def answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log()
    try:
        return server.request("GET", "/")[0] == 200
    except OSError:
        return False


def test_a_missing_model_is_told() -> None:
    with serving(model="no/such/file.pth", ready=False) as server:
        wait_until(lambda: answers(server))
        wait_until(lambda: server.status()["status"] == 0)
        wait_until(lambda: "failed to load" in server.log())
        assert "file.pth" in server.log() and "Traceback" not in server.log()
        answer = server.post("/completions", {"prompt": "x"}, expect=400)
        assert answer["detail"] == "model not loaded"


def test_a_tokenizer_of_another_vocabulary_is_told() -> None:
    with serving(tokenizer="world", ready=False) as server:
        wait_until(lambda: "failed to load" in server.log())
        log = server.log()
        assert "the tokenizer world has 65530 ids, the model 257 rows" in log
        assert "Traceback" not in log and server.status()["status"] == 0


def test_a_public_address_is_refused() -> None:
    """Under bare gunicorn, too, whose flag may name it."""
    server = Server("-b", f"0.0.0.0:{free_port()}", ready=False)
    assert server.process.wait(20) == 1
    assert "--insecure" in server.log() and "Booting worker" not in server.log()


def test_ctrl_c_reaches_worker_and_master() -> None:
    """A terminal signals the whole process group."""
    with serving() as server:
        worker = server.status()["pid"]
        os.kill(worker, signal.SIGINT)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log()
        assert "SystemExit" not in server.log()


def test_ctrl_c_leaves_a_line_for_every_answer() -> None:
    """It ends the worker at once, but not before each client and the log have been told."""
    with serving() as server:
        body = {"prompt": "x", **ENDLESS}
        socks = [
            server.open("POST", "/completions", {**body, "stream": n % 2 == 0}) for n in range(6)
        ]
        wait_until(lambda: server.status()["running"] == len(socks))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        for sock in socks:
            with sock, sock.makefile("rb") as answer:
                assert b"server_stopping" in answer.read()
        log = server.log()
    assert log.count('"finish":"cut"') == len(socks), log
    assert "Traceback" not in log and "SystemExit" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0, 0.1, 0.4, 0.8, 1.6] if SOAK else [0, 0.4])
@pytest.mark.parametrize("group", [False, True] if SOAK else [True])
def test_a_stop_in_the_first_moments(number: int, delay: float, group: bool) -> None:
    """gunicorn's own handlers would lose it: 30 s, and then SIGKILL."""
    server = Server(ready=False)
    booting = wait_until(lambda: re.search(r"Booting worker with pid: (\d+)", server.log()), 30)
    time.sleep(delay)
    server.process.send_signal(number)
    if group:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(booting[1]), number)
    assert server.process.wait(15) == 0
    for sign in ("SIGKILL", "Traceback", "SystemExit"):
        assert sign not in server.log()


def test_a_second_master_is_refused() -> None:
    """It would hold another engine."""
    with serving(max_batch=1) as server:
        pid = server.status()["pid"]
        server.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "SIGUSR2 is refused" in server.log())
        assert server.status()["pid"] == pid and server.log().count("Listening at") == 1


def test_the_name_is_the_file_name_without_extension(tmp_path: Path) -> None:
    """Also one that is not UTF-8: a byte of it is written as an escape."""
    path = tmp_path / os.fsdecode(b"RWKV-x070-mine-\xe9-0.1B.safetensors")
    path.symlink_to(DEMO)
    with serving(model=path, strategy="cpu fp32", max_batch=1) as server:
        name = r"RWKV-x070-mine-\xe9-0.1B"
        assert server.status()["model"] == name
        assert server.post("/completions", {"prompt": "x", "max_tokens": 1})["model"] == name
        assert server.get(f"/v1/models/{quote(name)}")["id"] == name


@pytest.mark.parametrize(
    "settings", [{"max_batch": 0}, {"access_log": "perhaps"}, {"threads": "two"}]
)
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    server = Server(ready=False, **settings)
    assert server.process.wait(20) == 1
    assert next(iter(settings)) in server.log().lower()
    assert "Traceback" not in server.log()


def test_a_second_worker_waits_for_the_first() -> None:
    """TTIN adds a worker. It must not load the model again, and not answer."""
    with serving() as server:
        first = server.status()["pid"]
        server.process.send_signal(signal.SIGTTIN)
        wait_until(lambda: "waits: one engine serves" in server.log())
        assert {server.status()["pid"] for _ in range(10)} == {first}
        assert server.logged("ready after").count("ready after") == 1
        os.kill(first, signal.SIGTERM)  # the first goes; the second takes over

        wait_until(lambda: served_by_another(server, first), 60)
        assert server.post("/completions", {"prompt": "x", "max_tokens": 1})


def served_by_another(server: Server, worker: int) -> bool:
    try:
        status = server.status()
    except OSError:
        return False
    return status["pid"] != worker and status["status"] == 3


def test_reload_hands_over() -> None:
    """HUP starts the new worker while the old one drains: one engine at a time, and a stream that
    was running ends properly."""
    with serving() as server:
        first = server.status()["pid"]
        body = {"prompt": "x", **ENDLESS, "max_tokens": 8000, "stream": True}
        sock = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        server.process.send_signal(signal.SIGHUP)
        got = b""
        while piece := sock.recv(65536):
            got += piece
        assert b"data: [DONE]" in got and got.endswith(b"0\r\n\r\n")
        sock.close()
        wait_until(lambda: served_by_another(server, first), 60)
        log = server.logged("ready after", 2)
        assert log.index('"path":"/completions"') < log.rindex("loading demo")
        assert log.count("ready after") == 2


def test_a_worker_takes_over_what_requests_have_set() -> None:
    """Its model, the defaults of requests and deploy mode: whether the last one was reloaded or
    died."""
    other = "tests/golden/data/v70_L3_D32_fp32.pth"
    with serving() as server:
        server.post("/switch-model", {"model": None})
        first = server.status()["pid"]
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: answered_by_another(server, first), 60)
        assert server.status()["status"] == 0
        server.post("/update-config", {"max_tokens": 7})
        server.post("/switch-model", {"model": other, "strategy": "cpu fp32", "deploy": True})
        for number in (signal.SIGHUP, signal.SIGKILL):
            last = server.status()["pid"]
            os.kill(server.process.pid if number == signal.SIGHUP else last, number)
            wait_until(lambda last=last: served_by_another(server, last), 60)
            assert server.status()["model"] == "v70_L3_D32_fp32"
            answer = server.post("/completions", {"prompt": "x", "logit_bias": {"0": -100}})
            assert answer["usage"]["completion_tokens"] == 7
            assert server.post("/exit", None, expect=403)["detail"] == "Forbidden"
        assert "Traceback" not in server.log()


def test_a_switched_model_that_has_gone_is_replaced_by_the_configured_one(tmp_path: Path) -> None:
    """`serve` ends where the model of its command line cannot be loaded, but nobody named this."""
    gone = tmp_path / "gone.safetensors"
    shutil.copy(DEMO, gone)
    settings = {"model_dir": tmp_path, "strategy": "cpu fp32", "max_batch": 1}
    command = [str(Path(sys.executable).with_name("rwkv-native")), "serve"]
    with serving(wrapped=lambda _: command, **settings) as server:
        assert server.post("/switch-model", {"model": "gone.safetensors"}) == "success"
        last = server.status()["pid"]
        gone.unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served_by_another(server, last), 30)
        assert server.status()["model"] == "demo"
        server.logged("demo is loaded in its place, as configured")
        assert server.process.poll() is None and "Traceback" not in server.log()


def answered_by_another(server: Server, worker: int) -> bool:
    try:
        return server.status()["pid"] != worker
    except OSError:
        return False


def test_stop_lets_running_answers_end() -> None:
    with serving() as server:
        body = {"prompt": "x", **ENDLESS, "max_tokens": 1000, "stream": True}
        sock = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        server.process.terminate()
        got = b""
        while piece := sock.recv(65536):
            got += piece
        assert b"data: [DONE]" in got
        assert server.process.wait(30) == 0


def test_exit_ends_the_server_and_lets_answers_end() -> None:
    with serving() as server:
        body = {"prompt": "x", **ENDLESS, "max_tokens": 1000, "stream": True}
        sock = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        assert server.post("/exit", None) == "success"
        got = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b"data: [DONE]" in got and b'"length"' in got
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log()


def test_a_stop_tells_those_that_it_cuts() -> None:
    """Endless answers, streamed and not: an error in valid framing, well before SIGKILL."""
    with serving("--graceful-timeout", "5", max_batch=1) as server:
        body = {"prompt": "x", **ENDLESS}
        whole = [server.open("POST", "/completions", body) for _ in range(8)]
        streams = [server.open("POST", "/completions", {**body, "stream": True}) for _ in range(8)]
        wait_until(lambda: server.status()["waiting"] == 15)
        server.process.terminate()
        for sock in streams[4:]:
            got = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
            assert b'"code":"server_stopping"' in got and b"data: [DONE]\n\n" in got
            assert got.endswith(b"0\r\n\r\n")
        for sock in whole[4:]:
            got = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
            assert got.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in got.lower()
        for sock in (*whole, *streams):
            sock.close()
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log()


def test_work_that_comes_during_a_stop() -> None:
    """On a connection that is kept alive: 503 that says when to come again. On a new one: the same,
    until none is taken any more."""
    with serving("--graceful-timeout", "120") as server:
        body = {"prompt": "x", **ENDLESS, "max_tokens": 20_000, "stream": True}
        sock = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        raw = json.dumps({"prompt": "late", "max_tokens": 1}).encode()
        head = f"POST /completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        server.process.terminate()
        wait_until(lambda: new_work(server) != 200)
        sock.sendall(head.encode() + raw)
        got = b"".join(iter(lambda: sock.recv(65536), b""))
        stream, _, late = got.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b'"length"' in stream
        assert late.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in late.lower()
        assert b'"code":"server_stopping"' in late
        assert new_work(server) in (503, None)
        sock.close()
        assert server.process.wait(120) == 0
        assert "Traceback" not in server.log()


def new_work(server: Server) -> int | None:
    """The status of a request on a connection of its own; None if it is refused."""
    try:
        status, headers, _ = server.request(
            "POST", "/completions", {"prompt": "x", "max_tokens": 1}
        )
    except (OSError, http.client.HTTPException):
        return None
    assert status == 200 or int(headers["retry-after"]) >= 1
    return status


def test_idle_connections_do_not_hold_up_a_stop() -> None:
    """Pooled clients keep theirs open for minutes."""
    with serving() as server:
        pooled = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(5)]
        for connection in pooled:
            connection.request("GET", "/status")
            assert connection.getresponse().read()
        begun = time.monotonic()
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 10
        assert "Traceback" not in server.log()


def test_silent_connections_do_not_hold_up_a_stop() -> None:
    """Browsers open some in advance; here also one in the middle of its first header, and two in
    the middle of a body."""
    with serving(max_batch=1) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        silent[0].sendall(b"GET /status HTTP/1.1\r\nHost: ")
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\n"
        silent[1].sendall(head + b'Content-Length: 99\r\n\r\n{"prompt": ')
        silent[2].sendall(head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"pro')
        server.status()
        begun = time.monotonic()
        server.process.terminate()
        assert server.process.wait(25) == 0
        assert time.monotonic() - begun < 10
        assert "Traceback" not in server.log()
        for sock in silent:
            sock.close()


def test_requests_wait_for_the_next_worker() -> None:
    """On connections of their own, before, while and after a worker takes over: none is refused."""
    with serving(max_batch=1) as server:
        answered: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                body = {"prompt": "x", "max_tokens": 1}
                answered.append(server.request("POST", "/completions", body)[0])
                time.sleep(0.01)

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            try:
                for _ in range(5 if SOAK else 1):
                    first = server.status()["pid"]
                    server.process.send_signal(signal.SIGHUP)
                    wait_until(lambda last=first: served_by_another(server, last), 60)
            finally:
                stop.set()
            for one in asking:
                one.result()
        assert set(answered) == {200} and len(answered) > 20
        assert "Traceback" not in server.log()


def test_prompts_are_not_logged() -> None:
    with serving() as server:
        server.post("/completions", {"prompt": "a very secret prompt", "max_tokens": 5})
        server.post("/completions", {"prompt": ["another secret", 5]}, expect=400)
        server.request("GET", "/models/rwkv?key=a-secret")
        log = wait_until(lambda: '"path":"/models/rwkv"' in server.log() and server.log())
        assert '"path":"/completions"' in log and "secret" not in log


def test_prompts_are_logged_where_they_are_asked_for() -> None:
    with serving(log_prompts=1) as server:
        server.post("/completions", {"prompt": "a prompt to see", "max_tokens": 5})
        server.request("POST", "/tokenize", b"[no JSON")
        log = wait_until(lambda: "[no JSON" in server.log() and server.log())
        entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        bodies = {entry["path"]: entry.get("body") for entry in entries}
        assert json.loads(bodies["/completions"])["prompt"] == "a prompt to see"
        assert bodies["/status"] is None


@pytest.mark.soak
def test_pings_while_nothing_else_is_sent() -> None:
    """Queued behind an endless answer: the header comes at once, and comments every 15 s."""
    with serving(max_batch=1) as server:
        endless = {"prompt": "x", **ENDLESS, "stream": True}
        busy = [server.open("POST", "/completions", endless) for _ in range(10)]
        wait_until(lambda: server.status()["waiting"] == 9)
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        queued = server.open("POST", "/chat/completions", body)
        begun = time.monotonic()
        got = b""
        while b"\r\n\r\n" not in got:
            got += queued.recv(65536)
        assert time.monotonic() - begun < 5
        while b": ping\n\n" not in got:
            got += queued.recv(65536)
        assert 14 < time.monotonic() - begun < 25
        assert re.search(rb'"role":"assistant"', got)
        for sock in (*busy, queued):
            sock.close()
        wait_until(server.is_idle)
