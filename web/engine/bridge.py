"""The second thread change of a token's path: from the engine's thread to a request's greenlet.

The engine writes an eventfd at most once between two polls; the hub sees it readable, and ONE
poll() takes the events of all requests and puts each into the mailbox of its request. Made by
`web/engine/in_process.py`, one per engine; used by `web/engine/generation.py`. Nothing here blocks:
`_drain` runs in the hub itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import gevent

import rwkv_native as rn
from web.engine.client import Counts, StateRef
from web.engine.mailbox import Mailbox
from web.engine.metrics import Meter, ModelMetrics
from web.engine.requests import EmbeddingOptions, Prompt
from web.engine.states import LocalStates

log = logging.getLogger("gunicorn.error")


@dataclass(frozen=True, slots=True)
class _Route:
    """Where the events of one engine request go."""

    mailbox: Mailbox
    meter: Meter


class Bridge:
    """The EngineClient (`web/engine/client.py`) of an engine in this process: submits to it, hands
    its events out, and has them counted."""

    def __init__(
        self,
        engine: rn.Engine,
        states: LocalStates,
        metrics: ModelMetrics,
        cache_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """cache_bytes: how large a prefix cache shall be that is made now."""
        self._engine = engine
        self._metrics = metrics
        self._cache_bytes = cache_bytes
        self.states = states
        self._routes: dict[int, _Route] = {}
        self._failed = False
        self._watcher = gevent.get_hub().loop.io(engine.fileno(), 1)
        self._watcher.start(self._drain)

    @property
    def alive(self) -> bool:
        return bool(self._watcher.active)

    @property
    def failed(self) -> bool:
        return self._failed

    def submit(
        self,
        prompt: Prompt,
        wanted: rn.Sampling | rn.PreparedSampling | EmbeddingOptions,
        mailbox: Mailbox,
        start: StateRef | None = None,
        stream: bool = True,
        save_at: Sequence[int] = (),
    ) -> int:
        state = None if start is None else self.states.resolve(start)
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
        self._metrics.rejected["queue_full"] += 1

    def cancel(self, id: int) -> None:
        route = self._routes.pop(id, None)
        if route is not None:
            route.meter.abort()
            self._engine.cancel(id)

    @property
    def busy(self) -> bool:
        return bool(self._routes)

    def prepare(self, sampling: rn.Sampling) -> rn.PreparedSampling:
        return self._engine.prepare(sampling)

    def counts(self) -> Counts:
        stats = self._engine.stats()
        return Counts(
            running=stats.prefilling + stats.running,
            waiting=stats.waiting,
            # Together: who could tell them apart would learn what others have asked.
            prompt_tokens=stats.prompt_tokens + self.cache().cached_tokens,
            completion_tokens=stats.completion_tokens,
        )

    def cache(self) -> rn.CacheStats:
        return self._engine.cache_stats()

    def keep_states(self, on: bool) -> None:
        self._engine.resize_cache(self._cache_bytes() if on else 0)
        self._engine.clear_cache()

    def clear_cache(self) -> None:
        self._engine.clear_cache()

    def detach(self) -> None:
        self._watcher.close()
        self._end_all("cancelled", None)

    def end(self) -> None:
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
