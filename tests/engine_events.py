"""The events of requests that nobody iterates over, for tests of the engine."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable

import rwkv_native as rn


def wait(engine: rn.Engine, ids: Iterable[int], seconds: float = 60) -> dict[int, list[rn.Event]]:
    """Polls, sleeping on the descriptor, until every request has ended."""
    found: dict[int, list[rn.Event]] = {id: [] for id in ids}
    left = set(found)
    end = time.monotonic() + seconds
    while left:
        ready, _, _ = select.select([engine.fileno()], [], [], max(0, end - time.monotonic()))
        assert ready, f"no event for {left}"
        for event in engine.poll():
            found[event.id].append(event)
            if event.finish_reason is not None:
                left.discard(event.id)
    return found
