"""GET /metrics: what was counted is what happened."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import ENDLESS, Server, serving, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(server: Server) -> Samples:
    status, headers, raw = server.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(raw.decode())
        for sample in family.samples
    }


class Change:
    """What has been added to the metrics of a server since this was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = scraped(server)

    def of(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return scraped(self._server)[key] - self._before.get(key, 0)

    def of_model(self, name: str, **labels: str) -> float:
        return self.of(f"rwkv:{name}", model_name="demo", **labels)


def test_requests_are_counted(server: Server) -> None:
    change = Change(server)
    body = {"prompt": ["abc", "de"], "max_tokens": 7, "logit_bias": {"0": -100}, "seed": 1}
    server.post("/completions", body)
    server.stream("/v1/completions", body)
    assert change.of_model("prompt_tokens_total") == 2 * 5
    assert change.of_model("generation_tokens_total") == 4 * 7
    assert change.of_model("request_success_total", finished_reason="length") == 4
    assert change.of_model("request_prompt_tokens_sum") == 2 * 5
    assert change.of_model("request_generation_tokens_sum") == 4 * 7
    assert change.of_model("request_generation_tokens_bucket", le="5") == 0
    assert change.of_model("request_generation_tokens_bucket", le="10") == 4
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert change.of_model(f"{name}_count") == 4
        assert change.of_model(f"{name}_bucket", le="+Inf") == 4
        assert 0 < change.of_model(f"{name}_sum") < 60
    # Tokens that wait together for the hub have no time of their own.
    assert 0 <= change.of_model("inter_token_latency_seconds_count") <= 4 * 6
    for path in ("/completions", "/v1/completions"):
        assert change.of("http_requests_total", method="POST", handler=path, status="200") == 1


def test_load_and_refusals() -> None:
    with serving(max_batch=1, max_queue=1, access_log=0) as server:
        change = Change(server)
        body = {"prompt": "x", **ENDLESS, "stream": True}
        running = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["running"] == 1)
        waiting = server.open("POST", "/completions", body)
        wait_until(lambda: server.status()["waiting"] == 1)
        assert server.request("POST", "/completions", body)[0] == 429
        assert change.of_model("num_requests_running") == 1
        assert change.of_model("num_requests_waiting") == 1
        assert change.of_model("admission_rejections_total", reason="queue_full") == 1
        # Of an endless stream the times between tokens come one by one.
        wait_until(lambda: change.of_model("inter_token_latency_seconds_count") > 100)
        running.close()
        waiting.close()
        wait_until(server.is_idle)
        assert change.of_model("num_requests_running") == 0
        assert change.of_model("request_success_total", finished_reason="abort") == 2


def test_labels_never_come_from_the_client(server: Server) -> None:
    for i in range(20):
        server.request("GET", f"/nope/{i}")
        server.request("GET", f"/models/{i}")
    server.request("BREW", "/status")
    labels = {labels for name, labels in scraped(server) if name == "http_requests_total"}
    routes = {dict(one)["handler"] for one in labels}
    plain = [route.replace("/v1", "").replace("ada-002", "ada") for route in routes]
    assert not any(char.isdigit() for route in plain for char in route)
    assert "none" in routes and "/models/{model_id:path}" in routes
    assert "BREW" not in {dict(one)["method"] for one in labels}


@pytest.mark.parametrize("accept", ["", "text/plain;version=x", "application/openmetrics-text"])
def test_any_accept_header(server: Server, accept: str) -> None:
    status, headers, raw = server.request("GET", "/metrics", headers={"Accept": accept})
    assert status == 200 and b"rwkv:status" in raw
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
