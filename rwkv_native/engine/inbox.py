"""Who gets which event: a queue for every reader, and the rest for poll().

Owns the routing, and how threads and tasks wait: one of them watches the bell for all. Called by
engine.py and generation.py. Never knows what a request asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import weakref
from collections import deque
from typing import Any

from .._ffi import check, ffi, lib
from ..errors import Error, InvalidError, Stopped
from ..model import Model
from .events import Event, event_of
from .masks import MaskCall
from .native_engine import NativeEngine
from .requests import Request


class Inbox:
    """The events of one engine. Its end is that of the native thread."""

    def __init__(self, native: NativeEngine, model: Model) -> None:
        self.native = native
        self.model = model
        # All under the lock of the native engine.
        self._owned: dict[int, deque[Event]] = {}  # of readers, by request
        self._abandoned: set[int] = set()  # dropped readers whose last event is still to come
        self._loose: list[Event] = []  # for poll()
        self._draining = False
        self._masks: dict[int, MaskCall] = {}  # which C calls, by request
        # Tasks of asyncio that wait for an event, by request; and what a thread that waits for them
        # is told when one has been woken.
        self._sleepers: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = {}
        self._woken: deque[None] = deque()
        self._has_waker = False
        # Also ends the native thread at interpreter exit, before the bell's memory goes. Threads
        # that are still at work then find it closed.
        weakref.finalize(self, native.close, wait=False)

    def submit(self, request: Request) -> int:
        """Queues a request whose events poll() brings; returns its id."""
        return self._submit(request, None)

    def submit_read(self, request: Request) -> tuple[int, deque[Event]]:
        """Queues a request with a reader of its own: (its id, the queue for wait())."""
        events: deque[Event] = deque()
        return self._submit(request, events), events

    def _submit(self, request: Request, events: deque[Event] | None) -> int:
        with self.native as handle:
            outer, self._draining = self._draining, True
            try:
                out = ffi.new("uint64_t *")
                check(lib.rwkv_engine_submit(out, handle, request.c))
                # Nobody can take the first event before its reader is known: no other thread,
                # because of the lock, and no signal handler, which is told that we drain.
                if events is not None:
                    self._owned[out[0]] = events
                if request.mask is not None:
                    answers = range(out[0], out[0] + request.c.n)
                    self._masks |= dict.fromkeys(answers, request.mask)
                return out[0]
            finally:
                self._draining = outer

    def done(self, id: int) -> None:
        """The last event of a reader has been read."""
        self._owned.pop(id, None)

    def abandon(self, id: int) -> None:
        """A reader goes: its request is cancelled unless it has ended."""
        with contextlib.suppress(Stopped), self.native as handle:
            queue = self._owned.pop(id, None)
            if queue is not None and (not queue or queue[-1].finish_reason is None):
                self._abandoned.add(id)
                check(lib.rwkv_engine_cancel(handle, id))

    def poll(self) -> list[Event]:
        """The events since the last poll of all requests without a reader; does not wait."""
        native = self.native
        with native:
            # Cleared first: a ring for what comes after the C poll must stay heard.
            _clear(native.bell.watcher)
            if self._drain():
                # A reader may be watching the bell for events that are now in its queue.
                os.eventfd_write(native.bell.iterators, 1)
                native.changed.notify_all()
            events, self._loose = self._loose, []
            return events

    def _drain(self) -> bool:
        """Moves all events from C to their readers. True if a reader got one."""
        with self.native as handle:
            if self._draining:  # by what this signal handler or __del__ interrupts: leave it to it
                lib.rn_ring(self.native.bell)
                return False
            self._draining = True
            try:
                events, n = ffi.new("const rwkv_event **"), ffi.new("size_t *")
                check(lib.rwkv_engine_poll(events, n, handle))
                routed = False
                for c in ffi.unpack(events[0], n[0]) if n[0] else ():
                    routed |= self._route(c)
                return routed
            finally:
                self._draining = False

    def _route(self, c: Any) -> bool:
        """Gives an event to its reader. True if it has one."""
        event = event_of(c, self.model)
        if event.finish_reason is not None and self._masks:
            mask = self._masks.pop(event.id, None)
            if mask is not None and mask.failure is not None and event.error is not None:
                event.error = f"the mask raised {mask.failure!r:.500}"
        queue = self._owned.get(event.id)
        if queue is not None:
            queue.append(event)
            self._wake(event.id)
            return True
        if event.id not in self._abandoned:
            self._loose.append(event)
        elif event.finish_reason is not None:
            self._abandoned.discard(event.id)
        return False

    def wait(self, queue: deque[Event]) -> Event:
        """The next event of a queue. One waiting thread watches the bell for all."""
        native, me = self.native, threading.get_ident()
        native.check_process()
        with native.changed:
            while not queue:
                native.check_open()
                if self._draining:
                    raise InvalidError("a signal handler cannot wait for the engine it interrupts")
                if native.leader not in (None, me):
                    native.pause()
                    continue
                outer, native.leader = native.leader, me
                try:
                    self._lead(queue)
                finally:
                    native.leader = outer
                    if outer is not None:  # this is a signal handler, and the bell has been cleared
                        os.eventfd_write(native.bell.iterators, 1)
                    native.free()
                    native.changed.notify_all()
            return queue.popleft()

    def _lead(self, queue: deque[Event]) -> None:
        """Watches the bell, with the lock given back, until this queue has an event."""
        native = self.native
        bell = native.bell
        watch = select.poll()
        watch.register(bell.iterators, select.POLLIN)
        while True:
            _clear(bell.iterators)
            _clear(bell.watcher)
            if self._drain():
                native.changed.notify_all()
            if self._loose:
                # Whoever watches fileno() still has to hear of these.
                os.eventfd_write(bell.watcher, 1)
            if queue:
                return
            native.changed.release()
            try:
                watch.poll()
            finally:
                native.changed.acquire()

    async def wait_async(self, id: int, queue: deque[Event]) -> Event:
        """As wait(), for a task. One thread waits for the tasks of all loops."""
        loop, native = asyncio.get_running_loop(), self.native
        native.check_process()
        while True:
            with native.changed:
                if queue:
                    return queue.popleft()
                native.check_open()
                woken = loop.create_future()
                self._sleepers[id] = loop, woken
                if not self._has_waker:
                    waker = threading.Thread(target=_wake_tasks, args=(self,), daemon=True)
                    waker.start()
                    self._has_waker = True
                native.changed.notify_all()
            try:
                await woken
            finally:
                with native.changed:
                    if self._sleepers.pop(id, None) and not native.closed:
                        self._woken.append(None)  # cancelled: perhaps the thread waits for nobody
                        os.eventfd_write(native.bell.iterators, 1)
                        native.changed.notify_all()

    def _wake(self, id: int) -> None:
        """Under the lock."""
        sleeper = self._sleepers.pop(id, None)
        if sleeper is not None:
            loop, woken = sleeper
            self._woken.append(None)
            with contextlib.suppress(RuntimeError):  # a loop that has been closed
                loop.call_soon_threadsafe(_set, woken)


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _wake_tasks(inbox: Inbox) -> None:
    """A thread that reads events for as long as tasks wait for any, and a second longer."""
    native = inbox.native
    try:
        while True:
            with native.changed:
                native.changed.wait_for(lambda: inbox._sleepers or native.closed, 1)
                if not inbox._sleepers:
                    inbox._has_waker = False
                    return
                inbox._woken.clear()
            inbox.wait(inbox._woken)  # type: ignore[arg-type]  # what is in it says nothing
    except Error:
        with native.changed:
            inbox._has_waker = False
            for id in list(inbox._sleepers):
                inbox._wake(id)  # they meet the same, as a rule that it is closed


def _clear(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
