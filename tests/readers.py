"""Many streams that are read as they come, in a process of their own, so that what a test measures
beside them is the server's time and not its own. `python readers.py PORT COUNT` opens endless
streams, says so, and reads until its input ends. Used by tests/contract.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reading(port: int, count: int) -> Iterator[None]:
    """So many streams, all of them begun."""
    with subprocess.Popen(
        [sys.executable, __file__, str(port), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == b"all have begun\n"
            yield
        finally:
            process.stdin.close()


def read_on(port: int, count: int) -> None:
    waiting = selectors.DefaultSelector()
    body = {"prompt": "x", "max_tokens": 100_000, "logit_bias": {"0": -100}, "stream": True}
    raw = json.dumps(body | {"temperature": 1, "top_p": 1}).encode()
    head = b"POST /completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(raw)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    silent = set()
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(head + raw)
        waiting.register(sock, selectors.EVENT_READ)
        silent.add(sock)
    while True:
        for key, _ in waiting.select():
            sock = key.fileobj
            if not isinstance(sock, socket.socket):
                return
            if not sock.recv(1 << 20):
                sys.exit("a stream has ended")
            if sock in silent:
                silent.discard(sock)
                if not silent:
                    print("all have begun", flush=True)


if __name__ == "__main__":
    read_on(int(sys.argv[1]), int(sys.argv[2]))
