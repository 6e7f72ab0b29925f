"""The routes that clients ask before they start: billing, health, and who may not be asked."""

from __future__ import annotations

import pytest
from serving import Server


def test_credit(server: Server) -> None:
    """As RWKV Runner answers, key by key."""
    path = "/dashboard/billing/credit_grants"
    assert server.request("GET", path)[2] == (
        b'{"object":"credit_summary","total_granted":10000,"total_used":0,"total_available":10000,'
        b'"grants":{"object":"list","data":[{"object":"credit_grant","grant_amount":10000,'
        b'"used_amount":0,"effective_at":1672531200,"expires_at":33229440000}]}}'
    )


def test_subscription(server: Server) -> None:
    answer = server.get("/dashboard/billing/subscription")
    limits = {answer[f"{kind}_limit_usd"] for kind in ("soft", "hard", "system_hard")}
    assert limits == {10000}
    assert answer["object"] == "billing_subscription" and answer["has_payment_method"] is True
    assert answer["access_until"] > 2**31


def test_health(server: Server) -> None:
    status, headers, body = server.request("GET", "/health")
    assert (status, body) == (200, b'{"status":"ok"}')
    assert headers["cache-control"] == "no-store"
    assert server.request("HEAD", "/health")[0] == 200


@pytest.mark.parametrize(
    "path", ["/v1/dashboard/billing/credit_grants", "/albatross/profile", "/v1/exit"]
)
def test_no_such_routes(server: Server, path: str) -> None:
    assert server.request("GET", path)[0] == 404


def test_whatever_answers_get_answers_head(server: Server) -> None:
    """With the same header and no body: probes ask so."""
    paths = [
        path for path, methods in server.get("/openapi.json")["paths"].items() if "get" in methods
    ]
    assert len(paths) > 10
    for path in paths:
        path = path.replace("{model_id}", "rwkv")
        (got, theirs, body), (asked, ours, nothing) = (
            server.request(method, path) for method in ("GET", "HEAD")
        )
        assert (asked, nothing) == (got, b""), path
        if path not in ("/metrics", "/status"):  # which change
            assert ours["content-length"] == theirs["content-length"] == str(len(body)), path
