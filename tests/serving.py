"""A real server for tests: gunicorn in a process of its own, on a free port of the loopback.

Used by tests/contract and tests/clients. Everything goes through the command that a user types.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOAK = os.environ.get("RWKV_SOAK") == "1"  # full counts

# No token of the demo model ends an answer: for requests that must go on until they are cut.
ENDLESS = {"max_tokens": 100_000, "logit_bias": {"0": -100}, "temperature": 1, "top_p": 1}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what: Callable[[], Any], seconds: float = 30.0, every: float = 0.02) -> Any:
    """Polls until `what` is true and returns it; fails loudly after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(every)
    return value


class Server:
    """One gunicorn with one worker. `settings` are those of web/config.py; `wrapped` makes another
    command of the server's."""

    def __init__(
        self,
        *arguments: str,
        ready: bool = True,
        wrapped: Callable[[list[str]], list[str]] = list,
        **settings: Any,
    ) -> None:
        self.port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RWKV_NATIVE_")}
        environment.update({f"RWKV_NATIVE_{k.upper()}": str(v) for k, v in settings.items()})
        environment["RWKV_NATIVE_PORT"] = str(self.port)
        self.process = subprocess.Popen(
            wrapped(
                [
                    sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py", *arguments,
                    "web.wsgi:app",
                ]
            ),
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        if ready:
            try:
                wait_until(self._is_ready, 60)
            except BaseException:
                self.stop()
                raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 22, 0).decode(errors="replace")

    def logged(self, words: str, times: int = 1) -> str:
        """The log once it holds these words so often: a thread writes it, and may do so later than
        the server answers."""
        wait_until(lambda: self.log().count(words) >= times)
        return self.log()

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.status()["status"] == 3
        except OSError:
            return False

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    # Requests.

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in lower case, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, raw, headers or {})
            response = connection.getresponse()
            got = {k.lower(): v for k, v in response.getheaders()}
            return response.status, got, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, _, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, body: Any, expect: int = 200) -> Any:
        status, _, raw = self.request("POST", path, body)
        assert status == expect, (status, raw[:500])
        return json.loads(raw)

    def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The events of a streamed answer; the last is "[DONE]"."""
        status, headers, raw = self.request("POST", path, {**body, "stream": True})
        assert status == 200, raw
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        return events_of(raw)

    def status(self) -> Any:
        return self.get("/status")

    def is_idle(self) -> bool:
        status = self.status()
        return status["running"] == 0 and status["waiting"] == 0

    def open(self, method: str, path: str, body: Any) -> socket.socket:
        """A raw connection on which a request has been sent and nothing has been read."""
        raw = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        sock.sendall(head.encode() + raw)
        return sock


def events_of(raw: bytes) -> list[Any]:
    """The data events of a stream; comments are left out, and the framing is checked."""
    assert b"\r" not in raw
    assert raw.endswith(b"\n\n")
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        data = block.removeprefix("data: ")
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def chat_text(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if event != "[DONE]"
        for choice in event["choices"]
    )


def completion_texts(events: list[Any]) -> dict[int, str]:
    """The text of every choice of a streamed completion."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"] if event != "[DONE]" else ():
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@contextlib.contextmanager
def serving(*arguments: str, **settings: Any) -> Iterator[Server]:
    server = Server(*arguments, **settings)
    try:
        yield server
    finally:
        server.stop()


def children(server: Server, script: str) -> list[int]:
    """The processes that run a script for this server now."""
    parent, found = f"PPid:\t{server.status()['pid']}\n", []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = parent in (process / "status").read_text()
            if ours and script.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it has just ended
            continue
    return found
