"""GET /metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import falcon
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from web.engine.metrics import cache_families, gauge, registry_of
from web.engine.model_host import Runtime


class MetricsResource:
    """The engine's load now, and all that has been counted."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._registry = registry_of(self)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4  # which every scraper reads
        resp.data = generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        runtime = self._runtime
        model = runtime.model_name or ""
        counts = runtime.counts()
        yield gauge("status", "0 offline, 2 loading, 3 working.", model, runtime.status)
        yield gauge("num_requests_running", "Requests in a slot.", model, counts.running)
        yield gauge("num_requests_waiting", "Requests in the queue.", model, counts.waiting)
        if not runtime.deploy:  # else whoever asks would learn what others have asked
            yield from cache_families(runtime.caches())
        yield from runtime.metrics.families()
