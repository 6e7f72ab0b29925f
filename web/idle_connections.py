"""Lets a stopping worker go: closes the connections on which no request is under way.

gunicorn waits for every open connection until graceful_timeout, and clients with a pool keep theirs
open for minutes: each restart would take 30 s and end with SIGKILL. Called by the hooks in
`web/gunicorn.conf.py`, in the worker.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any

import gevent
from gevent import monkey

_idle: weakref.WeakSet[Any] = weakref.WeakSet()  # sockets between two requests


def request_begins(sock: Any) -> None:
    _idle.discard(sock)


def request_ends(sock: Any) -> None:
    _idle.add(sock)


def close_when_stopping(worker: Any) -> None:
    """Starts a greenlet that waits for the worker's stop. Running requests end first; gunicorn
    closes their connections itself."""
    gevent.spawn(_wait_and_close, worker)


def _end_reading(fd: int) -> None:
    """gunicorn's read then sees the end of the connection, and closes it. gevent's own shutdown()
    would raise in the greenlet that reads, so this goes past it, over a second descriptor."""
    with monkey.get_original("socket", "socket")(fileno=os.dup(fd)) as same:
        same.shutdown(socket.SHUT_RD)


def _wait_and_close(worker: Any) -> None:
    while worker.alive:
        gevent.sleep(0.2)
    while True:
        for sock in list(_idle):
            _idle.discard(sock)
            with contextlib.suppress(OSError):  # closed already
                _end_reading(sock.fileno())
        gevent.sleep(0.2)
