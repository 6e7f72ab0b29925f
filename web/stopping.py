"""How a worker goes: idle connections are closed at once, new work is told to come again, running
answers may end, and what still runs shortly before gunicorn's patience does is told so.

gunicorn waits for every open connection until graceful_timeout, and then kills the worker. Clients
with a pool keep theirs open for minutes, so each stop would take 30 s, and streams would break off
without a word. Called by the hooks in `web/gunicorn.conf.py` and by
`resources/exit.py`, in the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import weakref
from typing import Any

import gevent
from gevent import monkey

_LAST_WORDS = 3.0  # seconds before graceful_timeout at which running answers are cut

_master = 0  # the process that started this worker
_idle: weakref.WeakSet[Any] = weakref.WeakSet()  # sockets between two requests


def request_begins(sock: Any) -> None:
    _idle.discard(sock)


def request_ends(sock: Any) -> None:
    _idle.add(sock)


def watch(worker: Any) -> None:
    """Starts a greenlet that waits for the worker's stop."""
    global _master
    _master = worker.ppid
    gevent.spawn(_wait_and_close, worker)


def end_server() -> None:
    """Tells the master to stop as on SIGTERM; returns at once, and what runs may end. The answer of
    the caller counts among it: a worker that stops only takes no new connections."""
    if os.getppid() == _master:  # else the master has gone already, and this worker follows
        os.kill(_master, signal.SIGTERM)


def _wait_and_close(worker: Any) -> None:
    while worker.alive:
        gevent.sleep(0.2)
    worker.wsgi.runtime.begin_to_stop()
    cut = time.monotonic() + worker.cfg.graceful_timeout - _LAST_WORDS
    while time.monotonic() < cut:
        for sock in list(_idle):
            _idle.discard(sock)
            with contextlib.suppress(OSError):  # closed already
                _end_reading(sock.fileno())
        gevent.sleep(0.2)
    worker.wsgi.runtime.close()


def _end_reading(fd: int) -> None:
    """gunicorn's read then sees the end of the connection, and closes it. gevent's own shutdown()
    would raise in the greenlet that reads, so this goes past it, over a second descriptor."""
    with monkey.get_original("socket", "socket")(fileno=os.dup(fd)) as same:
        same.shutdown(socket.SHUT_RD)
