"""What a monitoring system counts and times: vLLM's names with `rwkv:` in front, so that its
dashboards need one change.

`web/engine/bridge.py` notes every event of the engine here, so noting is plain additions (0.7 us an
event, where one histogram of prometheus_client takes 2); prometheus_client only writes what
`resources/server/metrics.py` asks for. Everything runs in the hub's thread: no locks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

import rwkv_native as rn
from web.transport import log_writer

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.75, 1, 1.5, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560),
)
_TOKENS = tuple(n * 10**power for power in range(6) for n in (1, 2, 5))


class Tally:
    """A histogram: how many observations lie at or below each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def into(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        below, buckets = 0, []
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            below += count
            buckets.append((str(bound), below))
        family.add_metric(labels, buckets, self._sum)


class ModelMetrics:
    """The traffic of one model, by its name, over all times it was loaded."""

    def __init__(self) -> None:
        self.first_token = Tally(_SECONDS)
        self.between_tokens = Tally(_SECONDS)
        self.whole = Tally(_SECONDS)
        self.prompt_tokens = Tally(_TOKENS)
        self.generated_tokens = Tally(_TOKENS)
        self.tokens_in = self.tokens_out = 0
        self.finished: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()


class Meter:
    """Times one engine request, from now on."""

    __slots__ = ("_begun", "_last", "_metrics")

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._begun = time.monotonic()
        self._last = 0.0  # the moment of its last tokens; 0: none yet

    def note(self, event: rn.Event, now: float) -> None:
        """`now`: a time.monotonic() that the events of one step share. Tokens that come with the
        first ones have no time of their own; those that come together later, as the rest of an
        answer that is not streamed does, have their mean."""
        metrics = self._metrics
        count = len(event.token_ids)
        if count:
            if self._last:
                metrics.between_tokens.add((now - self._last) / count, count)
            else:
                metrics.first_token.add(now - self._begun)
                metrics.tokens_in += event.prompt_tokens
            metrics.tokens_out += count
            self._last = now
        if event.embedding is not None:
            metrics.tokens_in += event.prompt_tokens
        if event.finish_reason is not None:
            metrics.finished[event.finish_reason] += 1
            metrics.whole.add(now - self._begun)
            metrics.prompt_tokens.add(event.prompt_tokens)
            metrics.generated_tokens.add(event.completion_tokens)

    def abort(self) -> None:
        """Its client has gone."""
        self._metrics.finished["abort"] += 1


class Metrics:
    """Everything that is counted, by model."""

    def __init__(self) -> None:
        self._models: dict[str, ModelMetrics] = {}
        self._http: Counter[tuple[str, str, str]] = Counter()

    def of(self, model: str) -> ModelMetrics:
        return self._models.setdefault(model, ModelMetrics())

    def answered(self, method: str, route: str, status: str) -> None:
        """One HTTP answer. All three come from small sets, never from the client."""
        self._http[method, route, status] += 1

    def families(self) -> Iterator[Metric]:
        """What prometheus_client writes."""
        yield from self._histograms()
        taken = CounterMetricFamily(
            "rwkv:prompt_tokens",
            "Prompt tokens of requests that got a token or a vector.",
            labels=["model_name"],
        )
        drawn = CounterMetricFamily(
            "rwkv:generation_tokens", "Tokens drawn.", labels=["model_name"]
        )
        finished = CounterMetricFamily(
            "rwkv:request_success",
            "Requests that ended, by the reason.",
            labels=["model_name", "finished_reason"],
        )
        rejected = CounterMetricFamily(
            "rwkv:admission_rejections",
            "Requests that the engine did not take.",
            labels=["model_name", "reason"],
        )
        for model, metrics in self._models.items():
            taken.add_metric([model], metrics.tokens_in)
            drawn.add_metric([model], metrics.tokens_out)
            for reason, count in metrics.finished.items():
                finished.add_metric([model, reason], count)
            for reason, count in metrics.rejected.items():
                rejected.add_metric([model, reason], count)
        http = CounterMetricFamily(
            "http_requests",
            "Answers over HTTP; streams count when they begin.",
            labels=["method", "handler", "status"],
        )
        for labels, count in self._http.items():
            http.add_metric(list(labels), count)
        lines = CounterMetricFamily(
            "rwkv:log_lines_dropped", "Lines of the logs that nobody read in time."
        )
        lines.add_metric([], log_writer.dropped())
        yield from (taken, drawn, finished, rejected, http, lines)

    def _histograms(self) -> Iterator[Metric]:
        for name, what, tally in (
            ("time_to_first_token_seconds", "From the queue to the first token.", "first_token"),
            ("inter_token_latency_seconds", "Between the tokens of a request.", "between_tokens"),
            ("e2e_request_latency_seconds", "From the queue to the end of a request.", "whole"),
            ("request_prompt_tokens", "Prompt tokens of a request.", "prompt_tokens"),
            ("request_generation_tokens", "Tokens that a request drew.", "generated_tokens"),
        ):
            family = HistogramMetricFamily(f"rwkv:{name}", what, labels=["model_name"])
            for model, metrics in self._models.items():
                getattr(metrics, tally).into(family, [model])
            yield family


def cache_families(caches: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    """The fields of rn.CacheStats by model."""
    for kind, name, what, field in (
        (GaugeMetricFamily, "bytes", "Memory of the states that are kept.", "bytes"),
        (GaugeMetricFamily, "limit_bytes", "What it may be.", "limit"),
        (CounterMetricFamily, "queries", "Prompt tokens that were looked up.", "asked_tokens"),
        (CounterMetricFamily, "hits", "Prompt tokens that were known.", "cached_tokens"),
        (CounterMetricFamily, "evictions", "States forgotten for lack of room.", "evicted"),
        (
            CounterMetricFamily,
            "boundary_fallbacks",
            "Requests whose text went on where a state was kept, but in other tokens.",
            "reworded",
        ),
    ):
        family = kind(f"rwkv:prefix_cache_{name}", what, labels=["model_name"])
        for model, fields in caches.items():
            family.add_metric([model], fields.get(field, 0))
        yield family


def registry_of(collector: object) -> CollectorRegistry:
    """`collector` (whatever has a collect()) and what Linux says about this process."""
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type]
    ProcessCollector(registry=registry)
    return registry


def gauge(name: str, what: str, model: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"rwkv:{name}", what, labels=["model_name"])
    family.add_metric([model], value)
    return family
