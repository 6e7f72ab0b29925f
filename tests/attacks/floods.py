"""Clients that try to keep a server from its other clients, each in a process of its own, so that
what a test measures beside it is the server's time. `python floods.py PORT KIND SIZE` says that it
has begun, does its worst, says how often what answer came, and ends. Used by test_fairness.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable

PORT = 0
MIB = 1 << 20


def connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", PORT), timeout=120)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *lines, "", "")).encode()


def answer(sock: socket.socket) -> str:
    """The status that comes; "none" for a reset."""
    got = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in got and (piece := sock.recv(65536)):
            got += piece
    return got.split(b" ", 2)[1].decode() if got else "none"


def sent(header: bytes, *pieces: bytes) -> str:
    with connect() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(header)
            for piece in pieces:
                sock.sendall(piece)
        return answer(sock)


def tiny(path: str, size: int) -> list[str]:
    """So many million chunks of a byte."""
    block = b"1\r\nx\r\n" * 10_000
    blocks = [block] * (100 * size)
    return [sent(head(path, "Transfer-Encoding: chunked"), *blocks, b"0\r\n\r\n")]


def chunks(size: int) -> list[str]:
    """So many chunks of a MiB."""
    chunk = b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"
    return [sent(head("/completions", "Transfer-Encoding: chunked"), *[chunk] * size)]


def biases(size: int) -> list[str]:
    """So many prompts, with a bias for 65,000 tokens."""
    bias = {str(id): 0.5 for id in range(1, 65_001)}
    body = json.dumps({"prompt": ["hello"] * size, "max_tokens": 1, "logit_bias": bias}).encode()
    return [sent(head("/completions", f"Content-Length: {len(body)}"), body)]


def messages(size: int) -> list[str]:
    """A conversation of so many thousand messages."""
    turns = [{"role": "user", "content": "a"}] * (1000 * size)
    body = json.dumps({"messages": turns, "max_tokens": 1}).encode()
    return [sent(head("/v1/chat/completions", f"Content-Length: {len(body)}"), body)]


def half(size: int, unit: int = MIB) -> list[str]:
    """So many bodies of 31 units, of which 30 come."""
    socks = []
    for _ in range(size):
        sock = connect()
        with contextlib.suppress(OSError):
            sock.sendall(head("/completions", f"Content-Length: {31 * unit}"))
            for _ in range(30):
                sock.sendall(b" " * unit)
        socks.append(sock)
    time.sleep(1)
    answers = []
    for sock in socks:
        sock.settimeout(0.2)
        answers.append(answer(sock))
        sock.close()
    return answers


def stalled(size: int) -> list[str]:
    """So many streams that nobody reads."""
    body = {"prompt": "x", "max_tokens": 100_000, "logit_bias": {"0": -100}, "stream": True}
    raw = json.dumps(body | {"temperature": 1, "top_p": 1}).encode()
    socks = []
    for _ in range(size):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", PORT))
        sock.sendall(head("/completions", f"Content-Length: {len(raw)}") + raw)
        socks.append(sock)
    time.sleep(4)
    return ["sent"] * size


def requests(size: int) -> list[str]:
    """So many small requests, each a line of the log."""
    ask = head("/status", f"User-Agent: {'x' * 200}", method="GET")
    answers, at_once = [], 50
    with connect() as sock:
        file = sock.makefile("rb")
        for _ in range(size // at_once):
            sock.sendall(ask * at_once)
            for _ in range(at_once):
                answers.append(file.readline().split()[1].decode())
                length = 0
                while (line := file.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                file.read(length)
    return answers


def connections(size: int) -> list[str]:
    """So many connections at once, each with a request that is soon answered."""
    socks = [connect() for _ in range(size)]
    for sock in socks:
        sock.sendall(head("/completions", "Content-Length: 2") + b"{}")
    answers = []
    for sock in socks:
        answers.append(answer(sock))
        sock.close()
    return answers


KINDS: dict[str, Callable[[int], list[str]]] = {
    "tiny chunks": lambda size: tiny("/completions", size),
    "tiny chunks to nowhere": lambda size: tiny("/nowhere", size),
    "large chunks": chunks,
    "biases": biases,
    "messages": messages,
    "half bodies": half,
    "half small bodies": lambda size: half(size, MIB // 16),
    "stalled readers": stalled,
    "requests": requests,
    "connections": connections,
}


if __name__ == "__main__":
    PORT = int(sys.argv[1])
    print("begun", flush=True)
    print(json.dumps(Counter(KINDS[sys.argv[2]](int(sys.argv[3])))), flush=True)
