"""Documents -> text, in a process of its own: a parser of foreign files can take any time and any
memory, a thread cannot be killed, and one in this process would hold the hub.

Owns the child (`document_reader.py`): its start, its limits and its end. The document and the
answer are files in memory, so no pipe fills up, and the kernel bounds the answer. posix_spawn does
not copy this process's page tables, which fork would do while all streams wait. Called by
`resources/file_to_text.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gevent
import msgspec
from gevent.lock import BoundedSemaphore

from web import errors
from web.files.uploads import FIELD, Upload

_READER = Path(__file__).with_name("document_reader.py")
_AT_WORK = 2  # children at one time
_MOST_WAITING = 32  # requests that wait for one, each with its file in memory
_FIELDS = {1: FIELD, 2: "file_encoding"}  # exit code -> what the child complains about
_READ = 1 << 20  # bytes between two chances of the hub to run


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost."""

    pages: int
    seconds: int  # of the clock, and of the CPU
    memory: int  # bytes
    text: int  # bytes of the answer


class Documents:
    """Reads documents for all requests, a few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = BoundedSemaphore(_AT_WORK)
        self._waiting = 0

    def read(self, file: Upload, kind: str, encoding: str) -> bytes:
        """The answer of /file-to-text as JSON. kind: "txt" or "pdf". Raises a Refusal: 400 for the
        document, 429 if too many wait."""
        if self._waiting >= _MOST_WAITING:
            raise errors.queue_full()
        self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            return self._read(file, kind, encoding)
        finally:
            self._turn.release()

    def _read(self, file: Upload, kind: str, encoding: str) -> bytes:
        task = {
            "kind": kind,
            "name": file.name,
            "encoding": encoding,
            "most_pages": self._limits.pages,
            "most_bytes": self._limits.text,
            "memory": self._limits.memory,
            "seconds": self._limits.seconds,
        }
        with _memory_file("document") as given, _memory_file("text") as got:
            _fill(given, msgspec.json.encode(task) + b"\n")
            _fill(given, file.data)
            os.lseek(given, 0, os.SEEK_SET)
            code = self._run(given, got)
            told = _contents(got) if code in (0, *_FIELDS) else b""
        if code == 0:
            return told
        if code in _FIELDS:
            raise _unreadable(_FIELDS[code], told.decode())
        raise _unreadable(
            FIELD,
            f"it cannot be read within {self._limits.seconds} s and "
            f"{self._limits.memory >> 20} MiB of memory",
        )

    def _run(self, given: int, got: int) -> int:
        """The child's exit code, or minus the signal that ended it."""
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", os.fspath(_READER)],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, got, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        ended = os.pidfd_open(child)
        try:
            watcher = gevent.get_hub().loop.io(ended, 1)
            try:
                with gevent.Timeout(self._limits.seconds, False):
                    gevent.get_hub().wait(watcher)
            finally:
                watcher.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, signal.SIGKILL)  # nothing, if it has ended
            end = os.waitid(os.P_PIDFD, ended, os.WEXITED)
            os.close(ended)
        assert end is not None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def _unreadable(field: str, problem: str) -> errors.Refusal:
    """400 with a `detail` of RWKV Runner's own wording."""
    return errors.Refusal(
        "400 Bad Request",
        f"{field}: {problem}",
        param=field,
        code="unreadable_file",
        detail=problem,
    )


@contextlib.contextmanager
def _memory_file(name: str) -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        yield fd
    finally:
        os.close(fd)


def _fill(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left[:_READ]) :]
        gevent.sleep(0)


def _contents(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, _READ):
        pieces.append(piece)
        gevent.sleep(0)
    return b"".join(pieces)
