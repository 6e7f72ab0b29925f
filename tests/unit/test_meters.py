"""Histograms and meters without a server: sums that can be done by hand."""

from __future__ import annotations

import pytest
from prometheus_client.core import HistogramMetricFamily

import rwkv_native as rn
from web.engine.metrics import Meter, ModelMetrics, Tally


def buckets(tally: Tally) -> dict[str, float]:
    family = HistogramMetricFamily("x", "x", labels=["m"])
    tally.into(family, ["a"])
    return {sample.labels.get("le", sample.name): sample.value for sample in family.samples}


def test_bounds_belong_to_their_bucket() -> None:
    tally = Tally((1, 2.5))
    for value, times in ((0.5, 1), (1, 2), (1.01, 1), (2.5, 1), (3, 4)):
        tally.add(value, times)
    assert buckets(tally) == {
        "1": 3,
        "2.5": 5,
        "+Inf": 9,
        "x_count": 9,
        "x_sum": pytest.approx(0.5 + 2 + 1.01 + 2.5 + 12),
    }


def event(tokens: int, reason: str | None = None) -> rn.Event:
    return rn.Event(0, "", [1] * tokens, None, reason, prompt_tokens=3, completion_tokens=9)


def test_a_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    metrics = ModelMetrics()
    meter = Meter(metrics)
    meter.note(event(0), 100.5)  # nothing drawn yet
    meter.note(event(1), 102.0)
    meter.note(event(4), 103.0)
    meter.note(event(0, "stop"), 104.0)
    assert buckets(metrics.first_token)["x_sum"] == 2
    assert buckets(metrics.between_tokens)["x_count"] == 4
    assert buckets(metrics.between_tokens)["x_sum"] == 1
    assert buckets(metrics.whole)["x_sum"] == 4
    assert buckets(metrics.prompt_tokens)["x_sum"] == 3
    assert buckets(metrics.generated_tokens)["x_sum"] == 9
    assert (metrics.tokens_in, metrics.tokens_out) == (3, 5)
    assert metrics.finished == {"stop": 1}
