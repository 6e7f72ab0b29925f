"""A client's socket: writes that nobody takes end, and a close lets the last answer arrive."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent import socket

from web.config import Config
from web.transport.connection import Connection, Stalled


def pair(patience: float = 5.0) -> tuple[Connection, socket.socket]:
    """The server's end and the client's of a connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return Connection(accepted, patience), client


def test_all_is_sent_to_a_slow_reader() -> None:
    """As long as something is taken, however long the whole takes."""
    ours, theirs = pair(patience=0.5)
    data = bytes(range(256)) * (64 << 10)  # 16 MiB
    writer = gevent.spawn(ours.sendall, data)
    got = bytearray()
    while len(got) < len(data):
        got += theirs.recv(1 << 20)
        gevent.sleep(0.01)
    writer.get(timeout=5)
    assert got == data


def test_a_reader_that_takes_nothing() -> None:
    ours, _theirs = pair(patience=0.1)
    begun = time.monotonic()
    with pytest.raises(Stalled):
        ours.sendall(bytes(64 << 20))
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(("lingers", "expected"), [(True, b"answer"), (False, b"a reset")])
def test_the_answer_outlives_what_is_still_coming(lingers: bool, expected: bytes) -> None:
    """A close with bytes unread would reset the connection, and the answer with it."""
    ours, theirs = pair()
    theirs.sendall(b"x" * 100_000)
    gevent.sleep(0.05)
    ours.sendall(b"answer")
    ours.lingers = lingers
    closing = gevent.spawn(ours.close)
    gevent.sleep(0.05)
    try:
        theirs.sendall(b"x" * 100_000)
        got = b"".join(iter(lambda: theirs.recv(100), b""))
    except ConnectionError:
        got = b"a reset"
    theirs.close()
    closing.get(timeout=10)
    assert got == expected


def test_a_connection_for_one_request_each_keeps_its_limit_for_the_header() -> None:
    """gunicorn's keepalive of 0 would wait for a header for ever."""
    assert Config(timeout_keep_alive=0).gunicorn()["keepalive"] == 30
    assert Config(timeout_keep_alive=5).gunicorn()["keepalive"] == 5
