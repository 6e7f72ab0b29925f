"""The second thread change of a token's path: from the engine's thread to a request's greenlet.

The engine writes an eventfd at most once between two polls; the hub sees it readable, and ONE
poll() takes the events of all requests and puts each into the mailbox of its request. Made by
`web/engine/model_host.py`, one per engine; used by `web/engine/generation.py`. Nothing here blocks:
`_drain` runs in the hub itself.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gevent
from gevent.event import Event as Flag

import rwkv_native as rn
from web.engine.metrics import Meter, ModelMetrics
from web.engine.requests import EmbeddingOptions, Prompt

log = logging.getLogger("gunicorn.error")


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


@dataclass(frozen=True, slots=True)
class _Route:
    """Where the events of one engine request go."""

    mailbox: Mailbox
    meter: Meter


class Bridge:
    """Submits to one engine, hands its events out, and has them counted."""

    def __init__(self, engine: rn.Engine, metrics: ModelMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._routes: dict[int, _Route] = {}
        self._failed = False
        self._watcher = gevent.get_hub().loop.io(engine.fileno(), 1)
        self._watcher.start(self._drain)

    @property
    def alive(self) -> bool:
        """Whether events still come: not after close(), nor when the engine has failed."""
        return bool(self._watcher.active)

    @property
    def failed(self) -> bool:
        """Whether the engine has; no request is ever answered then."""
        return self._failed

    def submit(
        self,
        prompt: Prompt,
        wanted: rn.Sampling | rn.PreparedSampling | EmbeddingOptions,
        mailbox: Mailbox,
        state: rn.State | None = None,
        stream: bool = True,
        save_at: Sequence[int] = (),
    ) -> int:
        """Queues one prompt, to be continued or embedded, and returns its id. Raises what the
        engine raises."""
        # Events cannot arrive before the route is there: only the hub polls, and nothing switches
        # here.
        meter = Meter(self._metrics)
        turn = {"client": mailbox.client, "group": mailbox.group}
        if isinstance(wanted, EmbeddingOptions):
            id = self._engine.submit_embedding(prompt, wanted.dimensions, fast=wanted.fast, **turn)
        else:
            id = self._engine.submit(
                prompt, wanted, state=state, stream=stream, save_at=save_at, **turn
            )
        self._routes[id] = _Route(mailbox, meter)
        return id

    def reject(self) -> None:
        """Counts a request for which there was no room."""
        self._metrics.rejected["queue_full"] += 1

    def cancel(self, id: int) -> None:
        """Frees the slot of a request whose events nobody reads any more."""
        route = self._routes.pop(id, None)
        if route is not None:
            route.meter.abort()
            self._engine.cancel(id)

    @property
    def busy(self) -> bool:
        """Whether any request is at work."""
        return bool(self._routes)

    def detach(self) -> None:
        """Requests at work see an error; the engine can then be closed from any thread."""
        self._watcher.close()
        self._end_all("cancelled", None)

    def close(self) -> None:
        """Ends the engine, too."""
        self.detach()
        self._engine.close()

    def _drain(self) -> None:
        try:
            now = time.monotonic()
            for event in self._engine.poll():
                if event.finish_reason is None:
                    route = self._routes.get(event.id)
                else:
                    route = self._routes.pop(event.id, None)
                if route is not None:
                    route.meter.note(event, now)
                    route.mailbox.put(event)
        except Exception:
            log.exception("the engine cannot be polled")
            self._failed = True
            self._watcher.stop()
            self._end_all("error", "the engine has failed")

    def _end_all(self, reason: Literal["cancelled", "error"], problem: str | None) -> None:
        for id, route in self._routes.items():
            route.mailbox.put(
                rn.Event(
                    id=id,
                    text="",
                    token_ids=[],
                    logprobs=None,
                    finish_reason=reason,
                    prompt_tokens=0,
                    completion_tokens=0,
                    error=problem,
                )
            )
        self._routes.clear()
