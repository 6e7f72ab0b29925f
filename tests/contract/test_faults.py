"""What goes wrong inside, for real: an engine without memory. Its requests hear of it, in valid
framing, and the next ones are answered as ever."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from serving import ENDLESS, events_of, serving, wait_until

CHUNK = 16384  # rows of one step: its intermediate values take some 100 MB
LONG = {"prompt": "x" * 4 * CHUNK, "max_tokens": 1}


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """Next to no memory beyond what the process has mapped."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(
        pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20), limits[1])
    )
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, limits)


def test_an_engine_without_memory() -> None:
    with serving(access_log=0, prefill_chunk=CHUNK, step_ms=60_000) as server:
        answered = {"prompt": "x", "max_tokens": 20, "seed": 3, "logit_bias": {"0": -100}}
        before = server.post("/completions", answered)["choices"]
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(
                server.request, "POST", "/completions", {"prompt": "x", **ENDLESS, "stream": True}
            )
            wait_until(lambda: server.status()["running"] == 1)
            with starved(server.status()["pid"]):
                answer = server.post("/completions", LONG, expect=500)
                status, _, raw = running.result()
        assert answer["error"]["code"] == "generation_failed"
        assert answer["detail"] == "generation failed: out of memory"
        # Whoever shared the step cannot go on either, and reads so in a stream that ends well.
        *_, told, done = events_of(raw)
        assert (status, done) == (200, "[DONE]")
        assert told["error"] == answer["error"]
        assert server.is_idle()
        assert server.post("/completions", answered)["choices"] == before
        assert json.loads(server.request("GET", "/health")[2]) == {"status": "ok"}
        assert "Traceback" not in server.log()
