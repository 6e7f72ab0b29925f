"""A client that goes away frees its slot at once, be it queued, prefilling or decoding."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import ENDLESS, SOAK, Server, wait_until

ROUNDS = 50 if SOAK else 3
LONG_PROMPT = "many words " * 150_000  # 1.6 million tokens, 16 a step: prefills for long

Leave = Callable[[socket.socket], None]


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


WAYS = [close, reset, half_close]


def endless(stream: bool, prompt: Any = "x") -> dict[str, Any]:
    return {"prompt": prompt, **ENDLESS, "stream": stream}


def assert_nothing_is_computed(server: Server) -> None:
    """Tokens computed after everybody has left: the step in progress, and no more."""
    wait_until(server.is_idle)
    before = server.status()
    time.sleep(0.3)
    after = server.status()
    assert after["completion_tokens"] == before["completion_tokens"]
    assert after["prompt_tokens"] == before["prompt_tokens"]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_while_decoding(narrow: Server, stream: bool, leave: Leave) -> None:
    """The slot is free within some milliseconds; `make soak ARGS=-s` quotes them."""
    times = []
    for _ in range(ROUNDS):
        sock = narrow.open("POST", "/completions", endless(stream))
        before = narrow.status()["completion_tokens"]
        wait_until(lambda before=before: narrow.status()["completion_tokens"] > before + 20)
        assert narrow.status()["running"] == 1
        leave(sock)
        begun = time.monotonic()
        wait_until(narrow.is_idle, 5, every=0.001)
        times.append(1000 * (time.monotonic() - begun))
        sock.close()
    print(f"a slot is free after {sorted(times)[ROUNDS // 2]:.1f} ms, {max(times):.1f} at most")
    assert_nothing_is_computed(narrow)


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_while_prefilling(narrow: Server, stream: bool, leave: Leave) -> None:
    sock = narrow.open("POST", "/completions", endless(stream, LONG_PROMPT))
    before = narrow.status()
    wait_until(lambda: narrow.status()["prompt_tokens"] > before["prompt_tokens"])
    assert narrow.status()["completion_tokens"] == before["completion_tokens"]
    leave(sock)
    wait_until(narrow.is_idle, 5)
    assert narrow.status()["prompt_tokens"] - before["prompt_tokens"] < len(LONG_PROMPT)
    assert_nothing_is_computed(narrow)
    sock.close()


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_while_queued(narrow: Server, stream: bool, leave: Leave) -> None:
    running = [narrow.open("POST", "/completions", endless(True)) for _ in range(2)]
    wait_until(lambda: narrow.status()["running"] == 2)
    queued = [narrow.open("POST", "/completions", endless(stream)) for _ in range(3)]
    wait_until(lambda: narrow.status()["waiting"] == 3)
    leave(queued[1])
    wait_until(lambda: narrow.status()["waiting"] == 2, 5)
    assert narrow.status()["running"] == 2  # nobody else has lost anything
    for sock in queued[::2]:
        leave(sock)
    wait_until(lambda: narrow.status()["waiting"] == 0, 5)
    assert narrow.status()["running"] == 2
    for sock in running + queued:
        sock.close()
    assert_nothing_is_computed(narrow)


def test_several_prompts_leave_together(narrow: Server) -> None:
    sock = narrow.open("POST", "/completions", endless(True, ["a", "b", "c", "d"]))
    wait_until(lambda: (s := narrow.status())["running"] == 2 and s["waiting"] == 2)
    sock.close()
    wait_until(narrow.is_idle, 5)
    assert_nothing_is_computed(narrow)


def test_a_client_that_left_before_its_work_began(narrow: Server) -> None:
    before = narrow.status()
    for _ in range(ROUNDS * 5):
        sock = narrow.open("POST", "/completions", endless(False, LONG_PROMPT[:100_000]))
        sock.close()
    quiet = before
    while (now := narrow.status()) != quiet or not narrow.is_idle():
        quiet = now
        time.sleep(0.3)
    assert now["prompt_tokens"] - before["prompt_tokens"] < ROUNDS * 5 * 1000
    assert now["completion_tokens"] == before["completion_tokens"]


def test_a_client_that_never_read(narrow: Server) -> None:
    """The server blocks in a write to it; the slot must be freed all the same."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", narrow.port))
    sock.close()
    stuck = narrow.open("POST", "/completions", endless(True))
    time.sleep(0.5)
    reset(stuck)
    wait_until(narrow.is_idle, 5)
    assert_nothing_is_computed(narrow)


def test_others_are_untouched(narrow: Server) -> None:
    body = {"prompt": "x", "max_tokens": 200, "seed": 9, "logit_bias": {"0": -100}}
    alone = narrow.post("/completions", body)
    leaver = narrow.open("POST", "/completions", endless(True))
    wait_until(lambda: narrow.status()["running"] == 1)
    staying = narrow.open("POST", "/completions", body)
    leaver.close()
    got = b""
    while not got.endswith(b"}}"):
        piece = staying.recv(65536)
        assert piece, got
        got += piece
    staying.close()
    assert got.count(b'"length"') == 1
    assert json.loads(got.partition(b"\r\n\r\n")[2])["choices"] == alone["choices"]


def test_a_reused_connection_is_watched_again(narrow: Server) -> None:
    """The watch of one request ends with it, and the next one on that socket has its own."""
    sock = narrow.open("POST", "/completions", {"prompt": "x", "max_tokens": 3})
    got = b""
    while not got.endswith(b"}}"):
        got += sock.recv(65536)
    raw = json.dumps(endless(False)).encode()
    head = f"POST /completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    sock.sendall(head.encode() + raw)
    wait_until(lambda: narrow.status()["running"] == 1)
    sock.close()
    wait_until(narrow.is_idle, 5)


@pytest.mark.timeout(600)
def test_many_come_and_go(server: Server) -> None:
    """Slots, watches and descriptors all come back."""

    def descriptors() -> int:
        return len(list(Path(f"/proc/{server.status()['pid']}/fd").iterdir()))

    server.status()
    before = descriptors()
    for turn in range(20 if SOAK else 3):
        socks = [
            server.open("POST", "/completions", endless(bool(i % 2), f"{turn} {i}"))
            for i in range(100)
        ]
        wait_until(lambda: server.status()["running"] > 0)
        for i, sock in enumerate(socks):
            WAYS[i % 2](sock)
        wait_until(server.is_idle, 10)
    wait_until(lambda: descriptors() <= before + 2, 10)
