"""What a hostile client may send instead of a request: every one of these has its status, in the
shape of all errors, and the next client is served."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from serving import SOAK, Server, serving

BODY = b'{"prompt":"x","max_tokens":1}'


def get(path: bytes, *lines: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    head = [b" ".join((method, path, version)), b"Host: x", b"Connection: close", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"


def post(body: bytes, *lines: bytes, path: bytes = b"/completions") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return get(path, length, *lines, method=b"POST") + body


def chunked(body: bytes) -> bytes:
    return get(b"/completions", b"Transfer-Encoding: chunked", method=b"POST") + body


ATTACKS = {
    # Paths.
    "dots": (404, get(b"/../../etc/passwd")),
    "dots in percent": (404, get(b"/%2e%2e/%2e%2e/etc/passwd")),
    "dots in a file": (404, get(b"/static/%2e%2e/%2e%2e/app.py")),
    "dots in a model": (404, get(b"/models/%2e%2e%2f%2e%2e")),
    "half a percent": (404, get(b"/%zz")),
    "a zero byte": (404, get(b"/status%00")),
    "no UTF-8": (404, get(b"/models/%ff%fe")),
    "two slashes": (200, get(b"//status")),
    "another host": (200, get(b"http://evil.example/status")),
    "a star": (404, get(b"*", method=b"OPTIONS")),
    "a tunnel": (404, get(b"evil.example:80", method=b"CONNECT")),
    "a trace": (405, get(b"/status", method=b"TRACE")),
    "a long path": (414, get(b"/" + b"a" * 5000)),
    "a bad query": (200, get(b"/status?%zz=%ff&&&=b")),
    # Headers.
    "a large header": (200, get(b"/status", b"X: " + b"a" * 60_000)),
    "a huge header": (431, get(b"/status", b"X: " + b"a" * 70_000)),
    "large headers": (431, get(b"/status", *(b"X%d: " % i + b"a" * 10_000 for i in range(9)))),
    "no host": (400, b"GET /status HTTP/1.1\r\n\r\n"),
    "no host of old": (200, b"GET /status HTTP/1.0\r\n\r\n"),
    "a later version": (200, get(b"/status", version=b"HTTP/1.2")),
    "many headers": (431, get(b"/status", *(b"X%d: a" % i for i in range(500)))),
    "two hosts": (400, get(b"/status", b"Host: y")),
    "a folded line": (400, get(b"/status", b"X: a", b" b")),
    "a zero in a header": (400, get(b"/status", b"X: a\x00b")),
    "a blank in a name": (400, get(b"/status", b"X Y: a")),
    "another version": (400, get(b"/status", version=b"HTTP/3.0")),
    "a request of 1991": (400, b"GET /status\r\n\r\n"),
    "a preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a proxy's line": (400, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(b"/status")),
    "a websocket": (200, get(b"/status", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")),
    "an upgrade": (200, get(b"/status", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")),
    "an odd expectation": (417, post(BODY, b"Expect: 200-maybe")),
    # Lengths that a proxy could read otherwise.
    "two lengths": (400, post(BODY, b"Content-Length: 3")),
    "a length and chunks": (400, post(BODY, b"Transfer-Encoding: chunked")),
    "a packed coding": (501, get(b"/completions", b"Transfer-Encoding: gzip, chunked")),
    "an unknown coding": (501, get(b"/completions", b"Transfer-Encoding: br, chunked")),
    "chunked twice": (400, get(b"/completions", b"Transfer-Encoding: chunked, chunked")),
    "a negative length": (400, get(b"/completions", b"Content-Length: -5", method=b"POST")),
    "a signed length": (400, get(b"/completions", b"Content-Length: +5", method=b"POST")),
    "a length beyond all": (413, get(b"/completions", b"Content-Length: " + b"9" * 400)),
    "a size with a blank": (400, chunked(b"5 \r\nabcde\r\n0\r\n\r\n")),
    "a size with a line": (400, chunked(b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n")),
    "a long extension": (400, chunked(b"5;" + b"a" * 9000 + b"\r\nabcde\r\n0\r\n\r\n")),
    "a bomb": (415, post(b"\x1f\x8b" * 50, b"Content-Encoding: gzip")),
    # Bodies.
    "nested deeply": (400, post(b'{"prompt":' + b"[" * 100_000)),
    "nested in what is ignored": (200, post(BODY[:-1] + b',"a":' + b"[" * 900 + b"]" * 900 + b"}")),
    "the same name twice": (400, post(b'{"prompt":"x","prompt":5}')),
    "a number beyond all": (400, post(b'{"prompt":"x","temperature":1e999}')),
    "a long number": (400, post(b'{"prompt":"x","seed":' + b"9" * 10_000 + b"}")),
    "UTF-16": (400, post(BODY.decode().encode("utf-16"))),
    "half a character": (400, post(b'{"prompt":"\\ud800"}')),
    "a zero in a text": (200, post(b'{"prompt":"\\u0000","max_tokens":1}')),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(access_log=0) as one:
        yield one


def exchange(server: Server, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        got = b""
        try:
            sock.sendall(sent)
            while piece := sock.recv(65536):
                got += piece
                head, end, body = got.partition(b"\r\n\r\n")
                if end and b"content-length: %d" % len(body) in head.lower():
                    break
        except ConnectionError:  # it closed without reading the rest
            pass
    return got


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(server: Server, name: str) -> None:
    status, sent = ATTACKS[name]
    got = exchange(server, sent)
    assert int(got.split(b" ", 2)[1]) == status, got[:300]
    if status >= 400:
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert server.status()["status"] == 3


def test_the_answer_speaks_a_version_that_there_is(server: Server) -> None:
    assert exchange(server, get(b"/status", version=b"HTTP/1.2")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("status", "lines", "path"),
    [
        (413, [b"Content-Length: 99999999"], b"/completions"),
        (413, [b"Content-Length: 40000000"], b"/nowhere"),
        (404, [b"Content-Length: 5"], b"/nowhere"),
        (404, [b"Transfer-Encoding: chunked"], b"/nowhere"),
        (415, [b"Content-Length: 5", b"Content-Encoding: gzip"], b"/completions"),
        (403, [b"Content-Length: 5", b"Origin: http://evil.example"], b"/completions"),
    ],
)
def test_refused_bodies_are_not_asked_for(
    server: Server, status: int, lines: list[bytes], path: bytes
) -> None:
    """Nothing is uploaded, and the connection ends: the client may send the body or not."""
    head = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Expect: 100-continue", *lines]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"\r\n".join(head) + b"\r\n\r\n")
        got = b"".join(iter(lambda: sock.recv(65536), b""))
    assert got.startswith(b"HTTP/1.1 %d " % status), got[:100]
    assert b"\r\nConnection: close\r\n" in got


def test_expected_bodies_are_asked_for(server: Server) -> None:
    got = exchange(server, post(BODY, b"Expect: 100-continue"))
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_thousands_in_one_write(server: Server) -> None:
    """Pipelined, and answered in order; others are not made to wait for all of them."""
    count = 3000 if SOAK else 500
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * count)
        begun = time.monotonic()
        assert server.status()["status"] == 3
        assert time.monotonic() - begun < 30
        seen, got = 0, b""
        while seen < count:
            got = got[-14:] + sock.recv(65536)  # less than one line
            seen += got.count(b"HTTP/1.1 200 OK")


@pytest.mark.skipif(not SOAK, reason="takes the server's patience of 30 s: make soak")
@pytest.mark.parametrize("drop", [b"", b"1\r\n \r\n"])
def test_bodies_that_drip_in(server: Server, drop: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as sock:
        sock.sendall(chunked(b""))
        end = time.monotonic() + 60
        got = b""
        while not got and time.monotonic() < end:
            sock.sendall(drop)
            try:
                got = sock.recv(65536)
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408 ")
