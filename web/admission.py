"""Who may come in where room is scarce, and whose turn it is: 429 for those beyond.

Used for requests (`web/engine/generation.py`), and for documents, conversions and sounds,
which wait for a process of their own. Counted is what waits or is at work, and the bytes that it
holds. Whoever is in and goes away leaves at once, so nobody waits longer than its client does. All
in the hub's thread.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType

from gevent.lock import BoundedSemaphore

from web import errors


class Admission:
    """Those who are in, and what they hold."""

    def __init__(self, most: int, size: int = sys.maxsize) -> None:
        """At most so many, and so many bytes, unless one alone is larger."""
        self._most = most
        self._most_bytes = size
        self.inside = 0
        self._bytes = 0
        self.pending = 0  # pieces of work that those who are in have not handed on

    def enter(self, size: int = 0) -> Stay:
        """Lets somebody in who holds so many bytes; 429 where there is no room."""
        if self.inside >= self._most or (self.inside and self._bytes + size > self._most_bytes):
            raise errors.queue_full()
        self.inside += 1
        self._bytes += size
        return Stay(self, size)

    def _leave(self, size: int) -> None:
        self.inside -= 1
        self._bytes -= size


class Stay:
    """One who is in, until leave() or the end of a `with` block."""

    __slots__ = ("_admission", "_pending", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission: Admission | None = admission
        self._size = size
        self._pending = 0

    def hold(self, pending: int) -> None:
        """So many pieces of its work still wait to be handed on."""
        if self._admission is not None:
            self._admission.pending += pending - self._pending
            self._pending = pending

    def leave(self) -> None:
        """Any number of times."""
        if self._admission is not None:
            self.hold(0)
            self._admission._leave(self._size)
            self._admission = None

    def __enter__(self) -> Stay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()


class Turns:
    """A few at work at a time, and a bounded number that waits."""

    def __init__(self, at_work: int, waiting: int, size: int = sys.maxsize) -> None:
        """`size`: bytes that those who wait may hold together."""
        self._turn = BoundedSemaphore(at_work)
        self._queue = Admission(waiting, size)

    @contextlib.contextmanager
    def take(self, size: int = 0) -> Iterator[None]:
        """Waits for a turn, and has it for a `with` block; 429 where too many wait."""
        with self._queue.enter(size):
            self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()
