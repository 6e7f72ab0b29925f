"""What goes wrong inside, for real: an engine without memory, whose requests hear of it in valid
framing, and a worker that is killed. The next requests are answered as ever."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from serving import ENDLESS, ROOT, Server, completion_texts, events_of, serving, wait_until

CHUNK = 16384  # rows of one step: its intermediate values take some 100 MB
LONG = {"prompt": "x" * 4 * CHUNK, "max_tokens": 1}


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """Next to no memory beyond what the process has mapped."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(
        pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20), limits[1])
    )
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, limits)


def test_an_engine_without_memory() -> None:
    """The prompt that there is no room for ends; whoever shares the step goes on."""
    with serving(access_log=0, prefill_chunk=CHUNK, step_ms=60_000) as server:
        answered = {"prompt": "x", "max_tokens": 8000, "seed": 3, "logit_bias": {"0": -100}}
        before = server.post("/completions", answered)["choices"][0]
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.stream, "/completions", {**answered, "stream": True})
            wait_until(lambda: server.status()["running"] == 1)
            with starved(server.status()["pid"]):
                answer = server.post("/completions", LONG, expect=500)
                events = running.result()
        assert answer["error"]["code"] == "generation_failed"
        assert answer["detail"] == "generation failed: out of memory"
        assert completion_texts(events) == {0: before["text"]}
        assert events[-2]["choices"][0]["finish_reason"] == before["finish_reason"] == "length"
        assert server.is_idle()
        assert json.loads(server.request("GET", "/health")[2]) == {"status": "ok"}
        assert "Traceback" not in server.log()


def test_an_engine_whose_answers_are_lost(tmp_path: Path) -> None:
    """Nobody waits for ever: who is at work hears of it, and another worker takes over."""
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(
        f"exec(open({str(ROOT / 'web/gunicorn.conf.py')!r}).read())\n"
        "from rwkv_native.engine import Engine\n"
        "_poll = Engine.poll\n"
        "def poll(engine):\n"
        "    if engine.stats().running and os.path.exists(FAILS):\n"
        "        os.unlink(FAILS)\n"
        "        raise MemoryError\n"
        "    return _poll(engine)\n"
        f"import os; FAILS = {str(tmp_path / 'fails')!r}; Engine.poll = poll\n"
    )
    with serving("-c", str(conf), access_log=0) as server:
        failed = server.status()["pid"]
        (tmp_path / "fails").touch()
        status, _, raw = server.request(
            "POST", "/completions", {"prompt": "x", **ENDLESS, "stream": True}
        )
        assert status == 200 and events_of(raw)[-2]["error"]["code"] == "generation_failed"
        # Until the next worker is there, requests hear when to come again, or wait for it.
        status, headers, _ = server.request("POST", "/completions", {"prompt": "x"})
        assert status == 200 or (status == 503 and int(headers["retry-after"]) >= 1)
        wait_until(lambda: _served_by_another(server, failed), 60)
        assert server.post("/completions", {"prompt": "x", "max_tokens": 1})["choices"]
        server.logged("the engine has failed")


def test_a_worker_that_is_killed() -> None:
    """As by a system without memory: its stream breaks off, unlike one that has ended, and another
    worker loads the model."""
    with serving(access_log=0) as server:
        sock = server.open("POST", "/completions", {"prompt": "x", **ENDLESS, "stream": True})
        got = sock.recv(65536)
        killed = server.status()["pid"]
        os.kill(killed, signal.SIGKILL)
        with suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                got += piece
        assert b"HTTP/1.1 200 " in got and b"[DONE]" not in got and not got.endswith(b"0\r\n\r\n")
        sock.close()
        wait_until(lambda: _served_by_another(server, killed), 60)
        assert server.post("/completions", {"prompt": "x", "max_tokens": 1})["choices"]
        assert server.is_idle()


def _served_by_another(server: Server, worker: int) -> bool:
    try:
        status = server.status()
    except OSError:
        return False
    return status["status"] == 3 and status["pid"] != worker
