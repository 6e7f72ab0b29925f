"""Many requests at once: each receives exactly its own text, whatever the others do."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from readers import reading
from serving import ENDLESS, SOAK, Server, chat_text, completion_texts, events_of, wait_until

STREAMS = 1000 if SOAK else 200
TOKENS = 64 if SOAK else 24


def question(i: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": f"What is {i} plus {i * 7 % 13}?"}],
        "max_tokens": TOKENS,
        "temperature": 2.5,  # varied texts
        "top_p": 1,
        "seed": i,
        "stop": [],
        "logit_bias": {"0": -100},
    }


@pytest.mark.timeout(600)
def test_concurrent_streams_receive_their_own_text(server: Server) -> None:
    """Decoding is bit-identical over neighbours, so the texts alone are the texts together."""
    bodies = [question(i) for i in range(STREAMS)]
    alone = [
        server.post("/chat/completions", body)["choices"][0]["message"]["content"]
        for body in bodies
    ]
    assert len(set(alone)) > STREAMS / 2
    gate = threading.Barrier(STREAMS)

    def one(body: dict[str, object]) -> str:
        gate.wait()
        return chat_text(server.stream("/v1/chat/completions", body))

    with ThreadPoolExecutor(STREAMS) as pool:
        together = list(pool.map(one, bodies))
    assert together == alone
    wait_until(server.is_idle)


def test_apache_bench_load(server: Server) -> None:
    """What `ab -c 20 -n 100 -l` does: HTTP/1.0, a connection per request."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    head = (
        b"POST /chat/completions HTTP/1.0\r\nContent-length: %d\r\n"
        b"Content-type: application/json\r\nHost: x\r\n\r\n" % len(body)
    )

    def one(_: int) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
            sock.sendall(head + body)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    with ThreadPoolExecutor(20) as pool:
        for got in pool.map(one, range(100)):
            header, _, answer = got.partition(b"\r\n\r\n")
            assert b" 200 " in header.splitlines()[0]
            assert json.loads(answer)["choices"][0]["message"]["content"]


def test_keep_alive_serves_many_requests(server: Server) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 2, "seed": 1, "stream": True}).encode()
    request = b"POST /completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    request += body
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        for _ in range(20):
            sock.sendall(request)
            got = b""
            while not got.endswith(b"0\r\n\r\n"):
                got += sock.recv(65536)
            assert got.count(b"[DONE]") == 1
    wait_until(server.is_idle)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Bytes that a client sends ahead are not a hang-up."""
    requests = b""
    for n in range(1, 6):
        body = json.dumps({"prompt": "x" * n, "max_tokens": 8}).encode()
        head = b"POST /completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        requests += head + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(requests)
        got = b""
        while got.count(b'"usage"') < 5 or not got.endswith(b"}"):
            piece = sock.recv(65536)
            assert piece, got
            got += piece
    seen = [int(part.split(b",")[0]) for part in got.split(b'"prompt_tokens":')[1:]]
    assert seen == [1, 2, 3, 4, 5]


def test_slow_readers_do_not_stall_others(server: Server) -> None:
    """Clients that do not read hold their own stream only, and what waits for them is bounded by
    max_tokens."""
    slow = []
    for i in range(20):
        body = {"prompt": f"{i}", **ENDLESS, "max_tokens": 3000, "seed": i, "stream": True}
        sock = server.open("POST", "/completions", body)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.append(sock)
    try:
        wait_until(lambda: server.status()["running"] > 0)
        begun = time.monotonic()
        events = server.stream("/completions", {"prompt": "q", "max_tokens": 20, "seed": 1})
        assert events[-1] == "[DONE]"
        assert time.monotonic() - begun < 30
        # One of them wakes up late and still gets everything, in order.
        wait_until(server.is_idle, 120)
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += slow[3].recv(1 << 20)
        text = completion_texts(events_of(unchunked(got.partition(b"\r\n\r\n")[2])))[0]
        rest = {"prompt": "3", **ENDLESS, "max_tokens": 3000, "seed": 3}
        assert text == server.post("/completions", rest)["choices"][0]["text"]
    finally:
        for sock in slow:
            sock.close()


def unchunked(raw: bytes) -> bytes:
    out = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        out += raw[: int(size, 16)]
        raw = raw[int(size, 16) + 2 :]
    return out


MANY = 12 << 20
LARGE = {
    "ids": (b'{"prompt":[' + b"1," * (MANY // 2) + b'999],"max_tokens":1}', 400),
    "ignored": (b'{"prompt":"x","max_tokens":1,"metadata":[' + b"[]," * (MANY // 3) + b"[]]}", 400),
    "text": (b'{"prompt":"' + b"\\n a" * (MANY // 4) + b'","max_tokens":1,"stop":[""]}', 400),
    "bias": (
        b'{"prompt":"x","logit_bias":{'
        + b",".join(b'"%d":1' % i for i in range(MANY // 11))
        + b"}}",
        400,
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_bodies_do_not_stall_others(server: Server, name: str) -> None:
    """Up to 8 s before; 0.3 s now for 30 MB, on two busy cores."""
    body, status = LARGE[name]
    done = threading.Event()
    waits = []

    def probe() -> None:
        while not done.is_set():
            begun = time.monotonic()
            server.status()
            waits.append(time.monotonic() - begun)

    watcher = threading.Thread(target=probe)
    watcher.start()
    try:
        assert server.request("POST", "/completions", body)[0] == status
    finally:
        done.set()
        watcher.join()
    assert max(waits) < 1.5


def test_status_answers_under_load(server: Server) -> None:
    """Streams that are read, more than there are slots. `make soak ARGS=-s` quotes the times."""
    count = 500 if SOAK else 100
    waits = []
    with reading(server.port, count):
        status = wait_until(lambda: (s := server.status())["running"] + s["waiting"] == count and s)
        assert 0 < status["running"] <= 64  # slots
        for _ in range(2000 if SOAK else 50):
            begun = time.monotonic()
            server.status()
            waits.append(time.monotonic() - begun)
    waits.sort()
    median, p99 = (1000 * waits[int(share * len(waits))] for share in (0.5, 0.99))
    print(f"GET /status beside {count} streams: median {median:.1f} ms, p99 {p99:.1f} ms")
    assert p99 < 5000
    wait_until(server.is_idle)
