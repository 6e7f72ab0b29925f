"""Engines in this process: loads models, and makes the clients of their engines. Made by
`web/engine/model_host.py`. Nothing here blocks the hub: weights are converted by native threads,
and other threads wait for disks.
"""

from __future__ import annotations

import rwkv_native as rn
from web.config import Config
from web.engine import model_loading
from web.engine.bridge import Bridge
from web.engine.client import Loaded
from web.engine.families import tokenizer_for
from web.engine.fingerprint import fingerprint
from web.engine.metrics import Metrics
from web.engine.model_loading import Choice
from web.engine.states import LocalStates
from web.threadpool import at_disk

_QUEUE = 2**31 - 1  # `web/admission.py` says who may wait


class InProcess:
    """The Loader of this process."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics

    def begin(self, choice: Choice) -> InProcessLoad:
        config = self._config
        adapter = model_loading.configured_adapter(config) if choice.adapted else None
        loading = rn.Model.load(
            choice.path,
            strategy=choice.strategy,
            threads=config.threads or None,
            state_type=config.state_type,
            adapter=adapter,
        )
        return InProcessLoad(loading, choice, adapter, config, self._metrics)


class InProcessLoad:
    """A Load; see `web/engine/client.py`."""

    def __init__(
        self,
        loading: rn.Loading,
        choice: Choice,
        adapter: rn.Adapter | None,
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._loading = loading
        self._choice = choice
        self._adapter = adapter
        self._config = config
        self._metrics = metrics

    @property
    def finished(self) -> bool:
        return self._loading.finished

    @property
    def progress(self) -> tuple[int, int]:
        return self._loading.progress

    def cancel(self) -> None:
        self._loading.cancel()

    def result(self) -> Loaded:
        config, choice = self._config, self._choice
        model = self._loading.result()
        tokenizer = at_disk(tokenizer_for, model, choice.tokenizer)
        name = at_disk(fingerprint, model.info.path, self._adapter)
        engine = rn.Engine(
            model,
            tokenizer,
            max_batch=config.max_batch,
            prefill_chunk=config.prefill_chunk,
            max_queue=_QUEUE,
            step_ms=config.step_ms,
            speculate=config.speculate,
            cache_bytes=self._cache_bytes() if config.cache_mb else 0,
        )
        bridge = Bridge(
            engine, LocalStates(model, name), self._metrics.of(choice.name), self._cache_bytes
        )
        return Loaded(model.info, tokenizer, bridge)

    def _cache_bytes(self) -> int:
        given = self._config.cache_mb
        return given << 20 if given > 0 else model_loading.available() // 4
