"""A process of its own for a foreign file: a parser may take any time and any memory or crash, a
thread cannot be killed, and one in this process would hold the hub.

Owns the child's start, its limits (`limits.py`) and its end. What it reads and writes are files,
so no pipe fills up and the kernel bounds the output. posix_spawn does not copy this process's page
tables, which fork would do while all streams wait. Called by `files/documents.py` and
`midi/sound.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from web import errors
from web.threadpool import breathe
from web.transport.disconnects import Hangups

if TYPE_CHECKING:
    import falcon

_LIMITS = Path(__file__).with_name("limits.py")
_PIECE = 1 << 20  # bytes between two chances of the hub to run


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one child may use."""

    seconds: int  # of the clock, and of the CPU
    memory: int  # bytes
    output: int  # bytes


@dataclass(frozen=True, slots=True)
class Client:
    """For whom a child works: it ends when they hang up."""

    hangups: Hangups
    sock: Any

    @classmethod
    def of(cls, hangups: Hangups, req: falcon.Request) -> Client:
        return cls(hangups, req.env.get("gunicorn.socket"))

    @contextlib.contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        watch = self.hangups.watch(self.sock, gone)
        try:
            yield
        finally:
            self.hangups.unwatch(watch, gone)


def run(
    script: Path,
    arguments: Sequence[str],
    given: int,
    got: int,
    allowance: Allowance,
    client: Client | None = None,
) -> int:
    """Runs a script with `given` as its standard input and `got` as its output. The exit code, or
    minus the signal that ended it; SIGKILL for one that took too long. Raises ClientGone."""
    limits = (str(allowance.memory), str(allowance.seconds), str(allowance.output))
    # -B: a limit on what it writes would cut the bytecode of what it imports, for everybody.
    options = ("-I", "-B")
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *options, os.fspath(_LIMITS), *limits, os.fspath(script), *arguments],
        {},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, given, 0),
            (os.POSIX_SPAWN_DUP2, got, 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
    )
    # The hub's loop reaps every child of the process: only its own watcher hears how one ended. It
    # may be reaped a moment before we hear of it, so what is killed is never a bare number.
    loop = gevent.get_hub().loop
    loop.install_sigchld()
    watcher = loop.child(pid)
    process = os.pidfd_open(pid)
    ended = Event()
    watcher.start(ended.set)
    try:
        _wait(ended, allowance.seconds, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)  # nothing, if it has ended
        ended.wait()
        os.close(process)
        watcher.close()
    return os.waitstatus_to_exitcode(watcher.rstatus)


def _wait(ended: Event, seconds: float, client: Client | None) -> None:
    """For a process's end, for so long at most."""
    if client is None:
        ended.wait(seconds)
        return
    gone = Event()
    with client.watched(gone.set):
        gevent.wait((ended, gone), seconds, count=1)
    if gone.is_set():
        raise errors.ClientGone


@contextlib.contextmanager
def memory_file(name: str) -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        yield fd
    finally:
        os.close(fd)


def fill(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left[:_PIECE]) :]
        breathe()


def contents(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, _PIECE):
        pieces.append(piece)
        breathe()
    return b"".join(pieces)
