"""The end of a model that has been replaced: it answers its last requests, and then gives its
memory back. What has been counted of it stays. Made by `web/engine/model_host.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, replace

import gevent

from web.engine.client import Counts, EngineClient
from web.engine.serving import Serving
from web.threadpool import in_thread

_LOOK_EVERY = 0.02  # seconds between two looks
_QUIET = 1.0  # seconds without a request after which a model is freed
# Seconds that running answers get to end where two models do not fit; a stop gives them as many.
_DRAIN = 30.0


class Retired:
    """Models that take no new requests."""

    def __init__(self) -> None:
        # In lists of one, empty while it is freed.
        self._boxes: list[list[Serving]] = []
        self.counts = Counts()  # of engines that are gone
        self.caches: dict[str, Counter[str]] = {}  # the same, by the model's name

    def __len__(self) -> int:
        return len(self._boxes)

    @property
    def engines(self) -> list[Serving]:
        return [box[0] for box in self._boxes if box]

    def add(self, serving: Serving) -> None:
        """Lets go of it once its last request has ended."""
        box = [serving]
        self._boxes.append(box)
        gevent.spawn(self._drain, box)

    def wait(self) -> None:
        """Returns when all are freed. Their requests have 30 s to end."""
        end = time.monotonic() + _DRAIN
        while any(self._boxes) and time.monotonic() < end:
            gevent.sleep(_LOOK_EVERY)
        for box in list(self._boxes):
            self._free(box)
        while self._boxes:  # being freed
            gevent.sleep(_LOOK_EVERY)

    def clear(self) -> None:
        """Forgets them all: whoever calls this ends their engines."""
        for box in self._boxes:
            box.clear()
        self._boxes.clear()

    def _drain(self, box: list[Serving]) -> None:
        quiet_since = time.monotonic()
        while box and time.monotonic() - quiet_since < _QUIET:
            gevent.sleep(_LOOK_EVERY)
            if box and box[0].engine.busy:
                quiet_since = time.monotonic()
        self._free(box)

    def _free(self, box: list[Serving]) -> None:
        """Ends the engine and gives its memory back, in a thread: gigabytes take a while."""
        if not box:
            return
        name, engine = box[0].name, box[0].engine
        self.counts += replace(engine.counts(), running=0, waiting=0)
        cache = asdict(engine.cache()) | {"limit": 0, "bytes": 0, "entries": 0}
        self.caches.setdefault(name, Counter()).update(cache)
        engine.detach()
        box.clear()
        last = [engine]
        del engine
        in_thread(_end, last)
        if box in self._boxes:
            self._boxes.remove(box)


def _end(last: list[EngineClient]) -> None:
    last.pop().end()
