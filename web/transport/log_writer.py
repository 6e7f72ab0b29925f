"""Standard output and standard error without a wait: a thread writes what the hub hands over.

A pipe that nobody reads is full after 64 KiB, a terminal can be stopped by Ctrl-S, and a write to
either would then hold the hub, and with it every client, until somebody reads. Lines that find no
room are dropped and counted. Installed by `web/transport/worker.py`; `web/engine/metrics.py` tells
the count. The master, which forks and so has no threads, waits for a moment only: it could else
neither be ended nor reload, nor see that its worker has died.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from typing import Any, TextIO

from gevent import monkey

_ROOM = 1 << 20  # bytes that wait; more only if it is one line
_PIECE = 64 << 10  # bytes of one write
_LAST_WORDS = 1.0  # seconds for what still waits when a process ends
_MOMENT = 0.1  # seconds that the master waits for room

_outlets: list[Outlet] = []


class Outlet:
    """Takes the place of a stream of text. One thread of the process may write, the hub's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        self._queue: Any = monkey.get_original("queue", "SimpleQueue")()
        # Each has one writer, so none needs a lock.
        self._given = self._written = 0  # bytes
        self._refused = self._lost = 0  # lines
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    @property
    def dropped(self) -> int:
        """Lines."""
        return self._refused + self._lost

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        waiting = self._given - self._written
        if waiting and waiting + len(data) > _ROOM:
            self._refused += 1
        elif data:
            self._given += len(data)
            self._queue.put(data)
        return len(text)

    def flush(self) -> None:
        """Never waits: see drain()."""

    def drain(self, seconds: float) -> None:
        """Waits until all has been written, but not for ever."""
        pause = monkey.get_original("time", "sleep")
        end = time.monotonic() + seconds
        while self._written < self._given and time.monotonic() < end:
            pause(0.002)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _run(self) -> None:
        while True:
            pieces = [self._queue.get()]
            size = len(pieces[0])
            while size < _PIECE and not self._queue.empty():
                pieces.append(self._queue.get())
                size += len(pieces[-1])
            left = memoryview(b"".join(pieces))
            try:
                while left:
                    left = left[os.write(self._fd, left) :]
            except OSError:  # nobody will read this any more, or the disk is full
                self._lost += len(pieces)
            self._written += size


class Spout:
    """Takes the place of a stream of text in a process that writes seldom, without a thread: what
    finds no room within a moment is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        self._room = select.poll()
        self._room.register(self._fd, select.POLLOUT)

    def write(self, text: str) -> int:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            # A pipe that has room takes so much of it without a wait.
            while left and self._room.poll(_MOMENT * 1000):
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
        except OSError:  # nobody will read this any more, or the disk is full
            pass
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> None:
    """Puts outlets in the place of this process's standard streams, for its loggers too. After the
    fork: threads do not survive it."""
    for name in ("stdout", "stderr"):
        outlet = Outlet(getattr(sys, name))
        _outlets.append(outlet)
        _replace(name, outlet)


def install_in_master() -> None:
    for name in ("stdout", "stderr"):
        _replace(name, Spout(getattr(sys, name)))


def _replace(name: str, by: Any) -> None:
    stream = getattr(sys, name)
    setattr(sys, name, by)
    for logger in ("gunicorn.error", "gunicorn.access"):
        for handler in logging.getLogger(logger).handlers:
            if getattr(handler, "stream", None) is stream:
                handler.stream = by  # type: ignore[attr-defined]


def drain() -> None:
    """The last thing before the process ends."""
    for outlet in _outlets:
        outlet.drain(_LAST_WORDS)


def dropped() -> int:
    """Lines that nobody read in time."""
    return sum(outlet.dropped for outlet in _outlets)
