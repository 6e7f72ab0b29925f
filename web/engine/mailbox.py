"""The events of one HTTP request, on their way from the hub to its greenlet. Filled by an engine's
client, emptied by `web/engine/generation.py`.
"""

from __future__ import annotations

import itertools
from collections import deque

from gevent.event import Event as Flag

import rwkv_native as rn

_groups = itertools.count(1)


class Mailbox:
    """The events of one HTTP request, which may be several engine requests. One greenlet reads."""

    __slots__ = ("_events", "_flag", "client", "gone", "group")

    def __init__(self, client: int = 0) -> None:
        """`client`: whose turn it is, see `web/transport/caller.py`."""
        self.client = client
        self.group = next(_groups)  # what comes together takes turns as one
        self._events: deque[rn.Event] = deque()
        self._flag = Flag()
        self.gone = False  # the client has hung up

    def put(self, event: rn.Event) -> None:
        self._events.append(event)
        self._flag.set()

    def hang_up(self) -> None:
        self.gone = True
        self._flag.set()

    def take(self, timeout: float | None) -> list[rn.Event]:
        """Everything that waits; waits for the first. Empty after `timeout` seconds, or if the
        client has gone. Bounded by max_tokens however slowly the client reads."""
        if not self._events and not self.gone:
            self._flag.wait(timeout)
        events = list(self._events)
        self._events.clear()
        if not self.gone:
            self._flag.clear()
        return events
