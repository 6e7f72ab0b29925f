"""How a worker goes: connections without a request are closed at once, running answers may end, new
work is told to come again, and what still runs shortly before gunicorn's patience does is told so.

gunicorn waits for every open connection until graceful_timeout, and then kills the worker. Clients
with a pool keep theirs open for minutes, browsers open some in advance, so each stop would take
30 s, and streams would break off without a word. Called by the hooks in `web/gunicorn.conf.py` and
by `resources/runner/exit.py`, in the worker.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from typing import Any

import gevent

from web.transport import open_connections

_LAST_WORDS = 3.0  # seconds before graceful_timeout at which running answers are cut
_LAST_LINES = 1.0  # seconds in which answers that were cut end, and are logged
# Seconds after the last connection was taken in which its request may come and is answered: after
# a reload nobody else would, and a request that follows waits for the next worker.
_LAST_GUESTS = 0.3

_master = 0  # the process that started this worker


def obey_early(server: Any, worker: Any) -> None:
    """Lets a worker that does not serve yet end at once when it is told to. For a worker, as the
    first thing after the fork.

    gunicorn would lose such signals while the worker starts (its handlers are the master's until
    all is imported), wait for 30 s and kill it.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

    def leave(*_: object) -> None:
        os._exit(0)  # nothing to end yet; an exception would end up in whatever is being imported

    def unless_serving(then: Any) -> Any:
        return lambda *given: then(*given) if worker.booted else leave()

    for number in numbers:
        signal.signal(number, leave)
    # gunicorn installs these two in the course of the start.
    worker.handle_exit = unless_serving(worker.handle_exit)
    worker.handle_quit = unless_serving(worker.handle_quit)
    with contextlib.suppress(queue.Empty):  # what came between the fork and here
        while True:
            if server.SIG_QUEUE.get_nowait() in numbers:
                leave()


def await_ends() -> None:
    """Lets requests whose work has been ended say so to their clients and the log. At the end of
    a worker: on SIGINT and SIGQUIT gunicorn leaves its loop at once."""
    end = time.monotonic() + _LAST_LINES
    while open_connections.any_at_work() and time.monotonic() < end:
        gevent.sleep(0.01)


def watch(worker: Any) -> None:
    """Starts a greenlet that waits for the worker's stop, or for its engine to fail."""
    global _master
    _master = worker.ppid
    gevent.spawn(_wait_and_close, worker)


def end_server() -> None:
    """Tells the master to stop as on SIGTERM; returns at once, and what runs may end. The answer of
    the caller counts among it: a worker that stops only takes no new connections."""
    if os.getppid() == _master:  # else the master has gone already, and this worker follows
        os.kill(_master, signal.SIGTERM)


def _wait_and_close(worker: Any) -> None:
    runtime = worker.wsgi.runtime
    while worker.alive:
        gevent.sleep(0.2)
        if runtime.failed:
            worker.log.critical("the engine has failed: worker %s ends", worker.pid)
            worker.alive = False  # the master starts another
    cut = time.monotonic() + worker.cfg.graceful_timeout - _LAST_WORDS
    closed = None  # when gunicorn closed the listeners, which takes it up to a second
    while (now := time.monotonic()) < cut:
        if closed is None and all(sock.fileno() < 0 for sock in worker.sockets):
            closed = now
        if closed is not None and now - closed >= _LAST_GUESTS:
            runtime.begin_to_stop()
        open_connections.close_idle()
        gevent.sleep(0.1)
    runtime.begin_to_stop()
    runtime.close()
