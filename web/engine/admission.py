"""Who may come in: a request is let in or turned away as a whole, before anything of it is queued.

Counted are HTTP requests and the bytes that they hold, not their texts: one with a thousand texts
waits as one, and hands them to the engine a window at a time (`web/engine/generation.py`). So those
who come together share the engine, and nobody is refused half-way. Whoever is in and goes away
leaves at once, so nobody waits longer than its client does. Made by `web/engine/model_host.py`, one
for all models.
"""

from __future__ import annotations

from web import errors


class Admission:
    """The requests at work and waiting, and what they hold. Used in the hub's thread alone."""

    def __init__(self, requests: int, size: int) -> None:
        """At most so many requests, and so many bytes, unless one alone is larger."""
        self._most_requests = requests
        self._most_bytes = size
        self._requests = 0
        self._bytes = 0
        self.pending = 0  # prompts and texts that have not been handed to an engine

    def enter(self, size: int) -> Stay:
        """Lets a request in that holds so many bytes; 429 where there is no room."""
        full = self._requests >= self._most_requests
        if full or (self._requests and self._bytes + size > self._most_bytes):
            raise errors.queue_full()
        self._requests += 1
        self._bytes += size
        return Stay(self, size)

    def _leave(self, size: int) -> None:
        self._requests -= 1
        self._bytes -= size


class Stay:
    """One request that is in."""

    __slots__ = ("_admission", "_pending", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission: Admission | None = admission
        self._size = size
        self._pending = 0

    def hold(self, pending: int) -> None:
        """So many of its texts still wait to be handed on."""
        if self._admission is not None:
            self._admission.pending += pending - self._pending
            self._pending = pending

    def leave(self) -> None:
        """Any number of times."""
        if self._admission is not None:
            self.hold(0)
            self._admission._leave(self._size)
            self._admission = None
