"""What a worker process holds: the model being loaded or served, and the engine behind it.

Made unstarted by `web.wsgi`; started by `post_worker_init` in `web/gunicorn.conf.py`, after the
fork, because native threads do not survive one; asked by the resources for what it serves. Nothing
here blocks the hub: weights are converted by native threads, and an index is parsed in a thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gevent

import rwkv_native as rn
from web import errors
from web.bridge import Bridge
from web.config import Config
from web.generation import Serving
from web.hangup import Hangups
from web.offload import in_thread
from web.personas import persona_for, tokenizer_for

log = logging.getLogger("gunicorn.error")

# /status, as RWKV Runner's clients know it.
OFFLINE, LOADING, WORKING = 0, 2, 3

_LOOK_EVERY = 0.02  # seconds between two looks at a load
_TELL_EVERY = 2.0  # seconds between two lines about it


@dataclass(frozen=True, slots=True)
class Counts:
    """The engine's requests now, and its tokens so far."""

    running: int = 0  # in a slot: prefilling or decoding
    waiting: int = 0  # in the queue
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Runtime:
    """At most one model, its engine, and the watch over clients."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hangups: Hangups | None = None
        self._loading: rn.Loading | None = None
        self._load_greenlet: gevent.Greenlet | None = None
        self._serving: Serving | None = None
        self._status = OFFLINE

    # What resources ask.

    @property
    def status(self) -> int:
        return self._status

    @property
    def healthy(self) -> bool:
        """Whether a model answers."""
        return self._serving is not None and self._serving.bridge.alive

    @property
    def progress(self) -> float | None:
        """The share of the weights that a load in progress has converted."""
        if self._status != LOADING:
            return None
        done, total = self._loading.progress if self._loading is not None else (0, 0)
        return done / total if total else 0.0

    @property
    def model_name(self) -> str | None:
        return self._serving.name if self._serving is not None else None

    @property
    def created(self) -> int:
        """When the served model was loaded, in seconds since the epoch; 0: none is."""
        return self._serving.created if self._serving is not None else 0

    def serving(self) -> Serving:
        """The model to answer with; raises 503 while it loads and 400 without one."""
        if self._serving is not None:
            return self._serving
        raise errors.model_loading() if self._status == LOADING else errors.model_not_loaded()

    def counts(self) -> Counts:
        if self._serving is None:
            return Counts()
        stats = self._serving.engine.stats()
        return Counts(
            running=stats.prefilling + stats.running,
            waiting=stats.waiting,
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
        )

    # What the worker's hooks do.

    def start(self, tell: Callable[[str], None] | None = None) -> None:
        """Begins to load the configured model and returns at once. `tell` gets lines for a log."""
        if self._hangups is None:
            self._hangups = Hangups()
        if self._config.model is not None and self._config.model.strip().lower() == "none":
            return
        self._status = LOADING
        self._load_greenlet = gevent.spawn(self._load, tell or log.info)

    def close(self) -> None:
        """Ends the load, the requests and the engine. Any number of times."""
        if self._load_greenlet is not None:
            self._load_greenlet.kill()
            self._load_greenlet = None
        serving, self._serving = self._serving, None
        self._status = OFFLINE
        if serving is not None:
            serving.bridge.close()
        if self._hangups is not None:
            self._hangups.close()
            self._hangups = None

    def _load(self, tell: Callable[[str], None]) -> None:
        name = Path(self._config.model or "the demo model").stem
        begun = time.monotonic()
        try:
            path = self._config.model or os.fspath(rn.demo_model())
            name = Path(path).stem
            self._serving = self._open(path, name, tell)
        except Exception as problem:
            self._status = OFFLINE
            log.error("failed to load %s: %s", name, problem, exc_info=_unexpected(problem))
            return
        self._status = WORKING
        info = self._serving.info
        tell(
            f"{name}: RWKV-{info.version}, {info.layers} layers of {info.width}, "
            f"{info.weight_bytes / 1e6:,.0f} MB as {info.strategy} ({info.isa}, {info.threads} "
            f"threads), ready after {time.monotonic() - begun:.1f} s"
        )

    def _open(self, path: str, name: str, tell: Callable[[str], None]) -> Serving:
        config = self._config
        tell(f"loading {name} ({config.strategy})")
        self._loading = in_thread(
            rn.Model.load, path, strategy=config.strategy, threads=config.threads or None
        )
        try:
            told = time.monotonic()
            while not self._loading.finished:
                gevent.sleep(_LOOK_EVERY)
                if time.monotonic() - told >= _TELL_EVERY:
                    told = time.monotonic()
                    tell(f"loading {name}: {100 * (self.progress or 0.0):.0f} %")
            model = self._loading.result()
        except BaseException:
            self._loading.cancel()
            raise
        finally:
            self._loading = None
        tokenizer = in_thread(tokenizer_for, model, config.tokenizer)
        engine = rn.Engine(
            model,
            tokenizer,
            max_batch=config.max_batch,
            prefill_chunk=config.prefill_chunk,
            max_queue=config.max_queue,
        )
        assert self._hangups is not None
        return Serving(
            name=name,
            info=model.info,
            created=int(time.time()),
            persona=persona_for(model.info, tokenizer),
            tokenizer=tokenizer,
            engine=engine,
            bridge=Bridge(engine),
            hangups=self._hangups,
        )


def _unexpected(problem: Exception) -> bool:
    """Whether the log should show a traceback: not for what rn or the system said on purpose."""
    return not isinstance(problem, (rn.Error, OSError))
