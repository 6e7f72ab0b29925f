"""The events of one request, as an iterator for threads and for tasks.

Made by Engine.generate. Owns the request's end: who drops one cancels it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..errors import InvalidError
from ..state import State
from .events import Event
from .inbox import Inbox


class Generation:
    """Iterator over the events of one request, made by Engine.generate; `for` or `async for`.

    A class, not a generator: a generator closed before its first next() never runs its finally.
    """

    __slots__ = ("__weakref__", "_done", "_events", "_inbox", "_last", "_state", "id")

    def __init__(self, inbox: Inbox, id: int, events: deque[Event]) -> None:
        self.id = id
        self._inbox = inbox
        self._events = events
        self._done = False
        self._last: Event | None = None
        self._state: State | None = None

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        try:
            event = self._inbox.wait(self._events)
        except BaseException:
            self.close()
            raise
        if event.finish_reason is not None:
            self._end(event)
        return event

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Event:
        if self._done:
            raise StopAsyncIteration
        try:
            event = await self._inbox.wait_async(self.id, self._events)
        except BaseException:
            self.close()
            raise
        if event.finish_reason is not None:
            self._end(event)
        return event

    def _end(self, last: Event) -> None:
        self._done, self._last = True, last
        self._inbox.done(self.id)

    @property
    def state(self) -> State:
        """The state after the answer, which engine.generate(..., keep_state=True) kept.

        It has read the prompt and the text of the answer, token for token; nothing of a stop text
        or an end id. A last token that the engine has drawn and not read is read here, once, which
        takes a step of the model. Raises ValueError before the end, or where none was kept.
        """
        last = self._last
        if last is None or last.state is None:
            raise InvalidError(
                "there is no state yet: read the answer to its end"
                if not self._done
                else "no state was kept: ask for it with keep_state=True"
            )
        if self._state is None:
            self._state = last.state
            if last.unread:
                _, self._state = self._inbox.model.forward(last.unread, last.state)
        return self._state

    async def aclose(self) -> None:
        """close(), for contextlib.aclosing."""
        self.close()

    def __repr__(self) -> str:
        return f"<rwkv_native.Generation {self.id}: {'ended' if self._done else 'at work'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Generation can be neither pickled nor copied; pass its events on")

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        if not self._done:
            self._done = True
            self._inbox.abandon(self.id)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Missing where __init__ did not run.
        if not getattr(self, "_done", True):
            self.close()
