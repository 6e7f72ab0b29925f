"""The open connections of a worker: which have a request at work, and which may be closed, and from
when on, once the worker stops (`web/process/graceful_stop.py`).

Told by `worker.py`, `body_reader.py` and the hooks in `web/gunicorn.conf.py`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from typing import Any

from gevent import monkey

_FIRST_WORDS = 1.0  # seconds that a new connection has for its first request
_NEXT_WORDS = 3.0  # seconds that a body has for its next bytes

# Sockets without a request, or with half of one -> when they may be closed, by time.monotonic().
_idle: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
_at_work: weakref.WeakSet[Any] = weakref.WeakSet()  # sockets whose request is being answered


def accepted(sock: Any) -> None:
    """Notes a new connection, which has no request yet."""
    _idle[sock] = time.monotonic() + _FIRST_WORDS


def rest_awaited(sock: Any) -> None:
    """Notes that more of a request's body has to come before anything can be answered."""
    _idle[sock] = time.monotonic() + _NEXT_WORDS


def request_begins(sock: Any) -> None:
    _idle.pop(sock, None)
    _at_work.add(sock)


def request_ends(sock: Any) -> None:
    """After its line in the log."""
    _at_work.discard(sock)
    _idle[sock] = 0.0


def any_at_work() -> bool:
    return bool(_at_work)


def close_idle() -> None:
    """Ends those connections that have had their time."""
    now = time.monotonic()
    for sock, since in list(_idle.items()):
        if now >= since:
            _idle.pop(sock, None)
            with contextlib.suppress(OSError):  # closed already
                _end_reading(sock.fileno())


def _end_reading(fd: int) -> None:
    """gunicorn's read then sees the end of the connection, and closes it. gevent's own shutdown()
    would raise in the greenlet that reads, so this goes past it, over a second descriptor."""
    with monkey.get_original("socket", "socket")(fileno=os.dup(fd)) as same:
        same.shutdown(socket.SHUT_RD)
