"""How the body of a request comes off its connection: at a least pace, in pieces between which all
others run, and not at all if nobody wants it. `Incoming` is the `wsgi.input` that
`web/transport/worker.py` puts in the place of gunicorn's; `web/transport/request_body.py` reads it.

gunicorn reads for as long as a client sends and without a switch while something is there: two
million chunks of a byte kept everybody else waiting for ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gevent
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import InvalidChunkSize, NoMoreData

from web.threadpool import breathe
from web.transport import open_connections

_PIECE = 64 << 10  # bytes of one read
# Seconds that a client may fall behind the least pace, in bytes per second. A fast beginning buys
# no more than these, so whatever comes takes at most them and its length by the pace.
_PATIENCE = 30.0
_PACE = 32 << 10

# Chunks are taken apart by Python, at 3 to 5 us each.
_LOOK_EVERY = 256  # chunks
_FREE = 64 << 10  # bytes on the wire before which any chunks will do
_LEAST_CHUNK = 64  # bytes, on average
_LONGEST_LINE = 8190  # bytes of the size and extensions of a chunk


class TooSlow(NoMoreData):
    """The client sends less than the least pace."""


class TinyChunks(InvalidChunkSize):
    """The chunks of a body are mostly frames."""

    def __init__(self) -> None:
        super().__init__(b"")

    def __str__(self) -> str:
        return f"its chunks hold less than {_LEAST_CHUNK} bytes on average"


class Incoming(Body):
    """The body of one request. Reading raises TooSlow, NoMoreData, gunicorn's ParseException for
    chunks that are none, and OSError if the client has gone."""

    def __init__(self, request: Any) -> None:
        """`request`: gunicorn's, whose own body this replaces."""
        self._request = request
        wire = _Wire(request.unreader, request._expected_100_continue)
        # gunicorn would say "100 Continue" before anybody has looked at the request.
        request._expected_100_continue = False
        self._wire = wire
        if isinstance(request.body.reader, ChunkedReader):
            reader: Any = _Chunks(request, wire)
        else:
            reader = _Length(wire, request.body.reader.length)
        super().__init__(reader)

    @property
    def left(self) -> int | None:
        """Bytes that are still to come; None: nobody knows."""
        return self.reader.left

    @property
    def awaited(self) -> bool:
        """Whether the client waits to hear that its body is wanted, and may never send it."""
        return self._wire.awaited

    def abandon(self) -> None:
        """Nobody will read the rest: after the answer the connection ends, since where the next
        request begins is unknown, but not before the client has had time to see the answer."""
        self.failed = True
        self._request.force_close()
        self._request.unreader.sock.lingers = True


class _Wire:
    """gunicorn's unreader with a least pace and a switch before each read, which would return at
    once while something is there."""

    def __init__(self, unreader: Any, awaited: bool) -> None:
        self._unreader = unreader
        self._patience = _PATIENCE
        self.awaited = awaited
        self.taken = 0  # bytes

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        if self.awaited:
            self.awaited = False
            self._unreader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        breathe()
        begun = time.monotonic()
        open_connections.rest_awaited(self._unreader.sock)
        try:
            with gevent.Timeout(self._patience, TooSlow):
                piece = self._unreader.read(size, read_ahead=min(read_ahead or 0, size or _PIECE))
        finally:
            open_connections.request_begins(self._unreader.sock)
        waited = time.monotonic() - begun
        self._patience = min(max(self._patience - waited, 0.0) + len(piece) / _PACE, _PATIENCE)
        self.taken += len(piece)
        return piece

    def unread(self, data: bytes) -> None:
        self.taken -= len(data)
        self._unreader.unread(data)


class _Length:
    """A body whose length has been said."""

    def __init__(self, wire: _Wire, length: int) -> None:
        self._wire = wire
        self.left = length

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        if not size:
            return b""
        piece = self._wire.read(size)
        if not piece:
            raise NoMoreData
        self.left -= len(piece)
        return piece


class _Chunks(ChunkedReader):
    """A body that comes in chunks, not absurdly many of them."""

    def __init__(self, request: Any, wire: _Wire) -> None:
        super().__init__(request, wire)
        self.limit_chunk_size_line = _LONGEST_LINE
        self._begun = False

    @property
    def left(self) -> int | None:
        return None if self.parser else 0

    def parse_chunked(self, unreader: Any) -> Iterator[bytes]:
        payload = 0
        for count, piece in enumerate(super().parse_chunked(unreader), 1):
            payload += len(piece)
            if count % _LOOK_EVERY == 0:
                breathe()
                beyond = unreader.taken - _FREE
                if beyond > 0 and (payload < count * _LEAST_CHUNK or beyond > 2 * payload):
                    raise TinyChunks
            yield piece
