"""What happens to every request before and after its resource: a name for it, and a body of known
and bounded size. Installed by `web/app.py`. Never parses a body.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from typing import Any

import falcon
import gevent
from gunicorn.http import errors as http

from web import errors
from web.access_log import BODY, REQUEST_ID
from web.metrics import Metrics
from web.offload import breathe

_READ = 64 << 10  # bytes per read of a body
_IN_MEMORY = 1 << 20  # a chunked body larger than this goes to a temporary file
# Seconds for each such read, so 2 KiB/s at least. gunicorn bounds only the wait for the header.
_PATIENCE = 30.0

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """`X-Request-Id`: the client's, if it is harmless, else a new one."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = req.get_header("X-Request-Id")
        name = given if given and _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        req.env[REQUEST_ID] = name  # for the access log
        resp.set_header("X-Request-Id", name)


class CountAnswers:
    """Every answer, by its route and status. Outermost, so that it sees those of the others."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        method = req.method if req.method in falcon.HTTP_METHODS else "other"
        self._metrics.answered(method, req.uri_template or "none", str(resp.status_code))


class RequestBody:
    """Refuses what is larger than `limit`, and gives chunked bodies a length: falcon takes a
    request without Content-Length for an empty one. `logged`: the access log wants bodies."""

    def __init__(self, limit: int, logged: bool = False) -> None:
        self._limit = limit
        self._logged = logged

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._logged:
            req.env[BODY] = b""
        coding = req.get_header("Content-Encoding")
        if coding and coding.strip().lower() != "identity":
            raise errors.Refusal(
                falcon.HTTP_415,
                f"content-encoding {errors.clip(coding)} is not supported",
                code="bad_encoding",
            )
        if "chunked" in (req.get_header("Transfer-Encoding") or "").lower():
            self._spool(req)
        elif (req.content_length or 0) > self._limit:
            raise errors.body_too_large(self._limit)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """Gets rid of a large body that nobody has read: of a refused request, or a wrong path.

        gunicorn would do it before the next request, but 1 KiB at a time out of a copied 1 MiB
        buffer: 2.5 s for 32 MiB, and the hub stands still meanwhile. Twice the limit and more is
        not worth reading at all: the connection ends.
        """
        left = req.content_length or 0
        if left <= _READ or getattr(req.context, "body_is_read", False) or resp.stream is not None:
            return
        raw = req.env["wsgi.input"]
        if left > 2 * self._limit:
            _end_connection(raw)
            return
        answer = resp.render_body() or b""
        resp.data = resp.text = resp.media = None
        resp.content_length = len(answer)
        resp.stream = _AnswerThenDiscard(answer, raw, left)

    def _spool(self, req: falcon.Request) -> None:
        raw = req.env["wsgi.input"]
        whole = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        size = 0
        while piece := _read(raw, _READ):
            size += len(piece)
            if size > self._limit:
                whole.close()
                _end_connection(raw)
                raise errors.body_too_large(self._limit)
            whole.write(piece)
        whole.seek(0)
        req.env["wsgi.input"] = req.stream = whole
        req.env["CONTENT_LENGTH"] = str(size)


class _AnswerThenDiscard:
    """A body of one piece; what the client is still sending is read after that has gone out."""

    def __init__(self, answer: bytes, raw: Any, left: int) -> None:
        self._answer: bytes | None = answer
        self._raw = raw
        self._left = left

    def __iter__(self) -> _AnswerThenDiscard:
        return self

    def __next__(self) -> bytes:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            return answer
        try:
            while self._left > 0 and (piece := _read(self._raw, min(_READ, self._left))):
                self._left -= len(piece)
        except (errors.Refusal, errors.ClientGone):
            _end_connection(self._raw)
        raise StopIteration


def read_body(req: falcon.Request) -> bytes:
    """The whole body. 400 if the client sends less than it promised, 408 if it stops sending."""
    req.context.body_is_read = True
    promised = req.content_length or 0
    raw = req.env["wsgi.input"]
    pieces = []
    while promised > 0:
        piece = _read(raw, min(_READ, promised))
        if not piece:
            raise errors.Refusal(
                falcon.HTTP_400, "the request body ended early", code="incomplete_body"
            )
        promised -= len(piece)
        pieces.append(piece)
    body = b"".join(pieces)
    if BODY in req.env:
        req.env[BODY] = body
    return body


def _read(raw: Any, size: int) -> bytes:
    """One read that ends, whatever the client does."""
    try:
        breathe()  # a read of what has arrived already does not let others run
        with gevent.Timeout(_PATIENCE):
            return raw.read(size)
    except gevent.Timeout:
        _end_connection(raw)
        raise errors.Refusal(
            falcon.HTTP_408, "the request body arrives too slowly", code="timeout"
        ) from None
    except http.NoMoreData:
        _end_connection(raw)
        raise errors.Refusal(
            falcon.HTTP_400, "the request body ended early", code="incomplete_body"
        ) from None
    except http.ParseException as problem:
        _end_connection(raw)
        raise errors.Refusal(
            falcon.HTTP_400, f"the request body is malformed: {problem}", code="bad_body"
        ) from None
    except OSError as problem:
        raise errors.ClientGone from problem


def _end_connection(raw: Any) -> None:
    """Tells gunicorn that the rest of this body is not worth reading: it closes the connection
    after the answer, since it cannot know where the next request begins."""
    if hasattr(raw, "failed"):
        raw.failed = True
