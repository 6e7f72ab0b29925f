"""Malformed requests, thousands in a row: each gets a 4xx, soon, and memory stays flat."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from serving import SOAK, Server, wait_until

COUNT = 10_000 if SOAK else 1_000
GROWTH = 24 << 20  # bytes; a leak of 2.5 KB a request would reach it in the full count

VALID: dict[str, dict[str, Any]] = {
    "/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [98]},
    "/switch-model": {"model": "demo.safetensors"},
}
WRONG = [{}, -1, 1e300, 1.5, [[[]]], {"a": {"b": []}}, [None, 5], {"\u0000": "\ud7ff"}]
FIELDS = ["temperature", "max_tokens", "top_p", "seed", "stop", "stream", "stream_options"]
LINES = [
    b"Content-Length: -1", b"Content-Length: 0x5", b"Content-Length: 1\r\nContent-Length: 2",
    b"Transfer-Encoding: identity", b"Host: a", b"X Y: z", b" folded", b"X: \x00",
    b"X: " + b"y" * 99_000, b"Expect: 200-maybe", b"\r\n" * 3 + b"x",
]  # fmt: skip
CHUNKS = [b"zz\r\nabc\r\n", b"-1\r\n", b"3\r\nabcdef\r\n", b"1_0\r\n", b"\r\n", b"0x3\r\nabc\r\n"]
PATHS = ["/nope", "/v1", "/%2e%2e/%2e%2e/etc/passwd", "/../x", "/a%00b", "/%ff", "//", "/status/x"]


def request(path: str, body: bytes, *lines: bytes, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *lines]
    if not any(line.startswith((b"Content-Length", b"Transfer")) for line in lines):
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def malformed(dice: random.Random) -> tuple[str, bytes]:
    """A kind, and the bytes of one request."""
    path, body = dice.choice(list(VALID.items()))
    text = json.dumps(body).encode()
    at = dice.randrange(1, len(text))
    number = dice.randrange(10**9)
    kinds = {
        "cut": lambda: request(path, text[:at]),
        "broken": lambda: request(path, text[:at] + dice.choice([b"\xff", b"\x00"]) + text[at:]),
        "type": lambda: request(
            path, json.dumps({**body, next(iter(body)): dice.choice(WRONG)}).encode()
        ),
        "field": lambda: request(
            "/completions", json.dumps({"prompt": "x", dice.choice(FIELDS): [number]}).encode()
        ),
        "deep": lambda: request(path, b'{"a":' * dice.randrange(2000, 20_000)),
        "method": lambda: request(path, b"", method=dice.choice(["PUT", "TRACE", "FOO", "get"])),
        "route": lambda: request(f"{dice.choice(PATHS)}/{number}", text),
        "coding": lambda: request(path, text, b"Content-Encoding: gzip"),
        "early": lambda: request(path, text[:at], b"Content-Length: %d" % len(text)),
        "line": lambda: request(path, b"", dice.choice(LINES)),
        "chunk": lambda: request(path, dice.choice(CHUNKS), b"Transfer-Encoding: chunked"),
        "none": lambda: dice.randbytes(dice.randrange(1, 200)) + b"\r\n\r\n",
    }
    kind = dice.choice(list(kinds))
    return kind, kinds[kind]()


def answered(server: Server, sent: bytes) -> int | None:
    """The status that these bytes get; None where the server only closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        got = b""
        try:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                got += piece
        except ConnectionError:  # it closed before it had read everything
            pass
    return int(got.split(b" ", 2)[1]) if got else None


def resident(server: Server) -> int:
    """Bytes in memory of the worker."""
    status = Path(f"/proc/{server.status()['pid']}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


@pytest.mark.timeout(1800)
def test_malformed_requests_in_a_row(server: Server) -> None:
    dice = random.Random(9)
    seen: Counter[tuple[str, int | None]] = Counter()
    before = 0
    for i in range(COUNT):
        if i == COUNT // 4:  # allocators and caches have what they want
            before = resident(server)
        kind, sent = malformed(dice)
        status = answered(server, sent)
        assert status is None or 400 <= status < 500, (kind, status, sent[:300])
        seen[kind, status] += 1
    assert resident(server) - before < GROWTH
    assert sum(n for (_, status), n in seen.items() if status is None) < COUNT / 10
    assert {status for _, status in seen} > {400, 404, 405, 415}
    wait_until(server.is_idle)
    assert server.post("/completions", {"prompt": "x", "max_tokens": 1})["choices"]
    assert "Traceback" not in server.log() and "SIGSEGV" not in server.log()
