"""The body of a request, of known and bounded size. `RequestBody` is installed by `web/app.py`;
resources call `read_body`. Never parses a body.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import falcon
from gunicorn.http import errors as http

from web import errors
from web.errors import Kind
from web.transport.access_log import BODY
from web.transport.body_reader import Incoming, TooSlow
from web.transport.caller import address

_READ = 64 << 10  # bytes per read of a body


class Room:
    """Memory for the bodies of all requests: `total` bytes beyond the first 64 KiB of each, half of
    them for one client at most. Small requests find room whatever others send."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken: Counter[str | None] = Counter()

    def take(self, client: str | None, size: int) -> None:
        """503 if there is none."""
        taken = self._taken
        if taken.total() + size > self._total or taken[client] + size > self._total // 2:
            raise errors.no_room()
        taken[client] += size

    def give(self, client: str | None, size: int) -> None:
        self._taken[client] -= size
        if not self._taken[client]:
            del self._taken[client]


class RequestBody:
    """Refuses what is larger than `limit`, counts what is in memory, and ends connections on which
    too much of a body is left that nobody wants. `logged`: the access log wants bodies."""

    def __init__(self, limit: int, room: Room, logged: bool = False) -> None:
        self._limit = limit
        self._room = room
        self._logged = logged

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._logged:
            req.env[BODY] = b""
        req.context.body = _Share(self._limit, self._room, address(req.env) or None)
        coding = req.get_header("Content-Encoding")
        if coding and coding.strip().lower() != "identity":
            raise errors.Refusal(
                Kind.BAD_ENCODING,
                f"content-encoding {errors.clip(coding)} is not supported",
                code="bad_encoding",
            )
        if (req.content_length or 0) > self._limit:
            raise errors.body_too_large(self._limit)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """gunicorn would read the rest before the next request: of a refused one, or of one that
        has no body where a client sends one. So much that has come already it may."""
        if (share := getattr(req.context, "body", None)) is not None:
            share.release()
        raw = req.env["wsgi.input"]
        if isinstance(raw, Incoming):
            left = raw.left
            if left is None or left > _READ or (left and raw.awaited):
                raw.abandon()


class _Share:
    """What one request has of the room."""

    __slots__ = ("_client", "_room", "_taken", "limit")

    def __init__(self, limit: int, room: Room, client: str | None) -> None:
        self.limit = limit
        self._room = room
        self._client = client
        self._taken = 0

    def hold(self, size: int) -> None:
        """So many bytes in all. 413 beyond the limit, 503 without room."""
        if size > self.limit:
            raise errors.body_too_large(self.limit)
        more = size - _READ - self._taken
        if more > 0:
            self._room.take(self._client, more)
            self._taken += more

    def release(self) -> None:
        if self._taken:
            self._room.give(self._client, self._taken)
            self._taken = 0


def read_body(req: falcon.Request) -> bytes:
    """The whole body. 400 if the client sends less than it promised, 408 if it sends too slowly,
    413 if it sends too much, 503 if too many do."""
    raw = req.env["wsgi.input"]
    # falcon takes a request without Content-Length for an empty one.
    chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
    promised = sys.maxsize if chunked else req.content_length or 0
    pieces, size = [], 0
    try:
        while size < promised and (piece := _read(raw, min(_READ, promised - size))):
            size += len(piece)
            req.context.body.hold(size)
            pieces.append(piece)
        if size < promised and not chunked:
            raise errors.Refusal(
                Kind.INVALID, "the request body ended early", code="incomplete_body"
            )
    except errors.Refusal:
        if isinstance(raw, Incoming):
            raw.abandon()
        raise
    body = b"".join(pieces)
    if BODY in req.env:
        req.env[BODY] = body
    return body


def _read(raw: Any, size: int) -> bytes:
    """One read that ends, whatever the client does."""
    try:
        return raw.read(size)
    except TooSlow:
        raise errors.Refusal(
            Kind.TOO_SLOW, "the request body arrives too slowly", code="timeout"
        ) from None
    except http.NoMoreData:
        raise errors.Refusal(
            Kind.INVALID, "the request body ended early", code="incomplete_body"
        ) from None
    except http.ParseException as problem:
        raise errors.Refusal(
            Kind.INVALID, f"the request body is malformed: {problem}", code="bad_body"
        ) from None
    except OSError as problem:
        raise errors.ClientGone from problem
