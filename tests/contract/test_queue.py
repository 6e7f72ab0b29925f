"""The queue has a limit: what is over it gets 429 with Retry-After, and leaves nothing behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from serving import ENDLESS, Server, wait_until


def test_queue_limit(narrow: Server) -> None:
    body = {"prompt": "x", **ENDLESS, "stream": True}
    socks = [narrow.open("POST", "/completions", body) for _ in range(2)]
    wait_until(lambda: narrow.status()["running"] == 2)
    socks += [narrow.open("POST", "/completions", body) for _ in range(4)]
    wait_until(lambda: narrow.status()["waiting"] == 4)
    for path, one in (
        ("/completions", {"prompt": "x"}),
        ("/completions", {"prompt": "x", "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        status, headers, raw = narrow.request("POST", path, one)
        answer = json.loads(raw)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert answer["error"]["type"] == "rate_limit_error"
        assert answer["error"]["code"] == "queue_full"
        assert "queue" in answer["detail"]
    assert narrow.status()["waiting"] == 4
    for sock in socks:
        sock.close()
    wait_until(narrow.is_idle)


def test_a_request_that_fits_only_in_part_leaves_nothing_behind(narrow: Server) -> None:
    body = {"prompt": "x", **ENDLESS, "stream": True}
    socks = [narrow.open("POST", "/completions", body) for _ in range(2)]
    wait_until(lambda: narrow.status()["running"] == 2)
    socks += [narrow.open("POST", "/completions", body) for _ in range(2)]
    wait_until(lambda: narrow.status()["waiting"] == 2)
    status, _, _ = narrow.request("POST", "/completions", {"prompt": ["a", "b", "c"]})
    assert status == 429
    wait_until(lambda: narrow.status()["waiting"] == 2, 5)  # the first two have been cancelled
    for sock in socks:
        sock.close()
    wait_until(narrow.is_idle)


def test_all_that_fit_the_queue_are_answered(narrow: Server) -> None:
    """Four at once, however late the two slots take the first of them."""
    body = {"prompt": "x", "max_tokens": 30, "logit_bias": {"0": -100}}
    bodies = [{**body, "seed": seed} for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: narrow.post("/completions", one), bodies))
    assert all(a["usage"]["completion_tokens"] == 30 for a in answers)
