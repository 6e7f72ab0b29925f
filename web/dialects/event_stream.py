"""A turn as the answer to a request: as a stream, by the iterator that gunicorn writes out, or as a
whole. How an API writes it is its encoder's. Called by the resources that generate.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import falcon

from web import errors
from web.chat.answers import Answer
from web.chat.events import Event, Usage
from web.chat.turn import Turn
from web.transport.access_log import WORK

PING_EVERY = 15.0  # seconds of silence after which proxies and clients hear from us


class Encoder(Protocol):
    """How one API writes one turn. Made for each request."""

    @property
    def content_type(self) -> str:
        """Of streams; what is whole is JSON."""

    @property
    def ping(self) -> bytes:
        """What the clients of a stream overhear. Empty: they would not."""

    def frames(self, events: Iterable[Event]) -> bytes:
        """A part of a stream. The first events are those that begin answers, the last is Usage."""

    def failed(self, refusal: errors.Refusal) -> bytes:
        """The end of a stream that cannot go on."""

    def body(self, answers: Sequence[Answer], usage: Usage) -> bytes:
        """The answers that are no stream."""


def respond(
    req: falcon.Request, resp: falcon.Response, turn: Turn, encoder: Encoder, stream: bool
) -> None:
    """Answers with a turn. Without `stream` it waits for the end, and raises what comes before."""
    req.env[WORK] = turn.generation
    if stream:
        resp.content_type = encoder.content_type
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")  # nginx would collect the events
        resp.stream = EventStream(turn, encoder)
    else:
        usage = turn.collect()
        resp.data = encoder.body(turn.answers, usage)


class EventStream:
    """The body of a streamed answer: all that waits goes out in one write. A class, not a
    generator: gunicorn calls close() in every case, and a generator that never ran its first line
    would not run its `finally` either."""

    __slots__ = ("_encoder", "_ended", "_silent_since", "_turn")

    def __init__(self, turn: Turn, encoder: Encoder) -> None:
        self._turn = turn
        self._encoder = encoder
        self._ended = False
        self._silent_since = time.monotonic()

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> bytes:
        """The next bytes to write, whenever there are some. The first come at once, if none of
        them: the header goes out with them, also while the request is queued."""
        if self._ended:
            self.close()
            raise StopIteration
        while True:
            wait = self._silent_since + PING_EVERY - time.monotonic()
            try:
                events = self._turn.take(wait if wait > 0 else 0.0)
            except errors.ClientGone:
                # Not StopIteration: that would end the chunked body as if the answer were whole.
                raise ConnectionResetError(errno.ECONNRESET, "the client has gone") from None
            except errors.Refusal as refusal:
                self._ended = True
                return self._encoder.failed(refusal)
            self._ended = self._turn.done
            now = time.monotonic()
            if not events and now - self._silent_since < PING_EVERY:
                continue
            self._silent_since = now
            if events:
                return self._encoder.frames(events)
            if self._encoder.ping:
                return self._encoder.ping

    def close(self) -> None:
        self._turn.close()
