"""Bodies that come slowly, break off or lie: each read ends, and with the right answer."""

from __future__ import annotations

import io
from typing import Any

import falcon
import falcon.testing
import gevent
import pytest
from gunicorn.http.errors import InvalidChunkSize, NoMoreData

from web import errors, middleware
from web.middleware import RequestBody, read_body

LIMIT = 1 << 20


class Wire:
    """gunicorn's Body: plays steps, each bytes to hand out, an exception to raise, or a wait."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.failed = False

    def read(self, size: int) -> bytes:
        step = self.steps.pop(0) if self.steps else b""
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            gevent.sleep(step)
            return b""
        assert len(step) <= size
        return step


def request(raw: Any, length: int | None = None, **headers: str) -> falcon.Request:
    environ = falcon.testing.create_environ(method="POST", path="/x", headers=headers)
    environ["wsgi.input"] = raw
    environ.pop("CONTENT_LENGTH", None)
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    return falcon.Request(environ)


def spooled(raw: Any) -> falcon.Request:
    req = request(raw, **{"Transfer-Encoding": "chunked"})
    RequestBody(LIMIT).process_request(req, falcon.Response())
    return req


def test_pieces_are_put_together() -> None:
    assert read_body(request(Wire(b"ab", b"c", b"de"), 5)) == b"abcde"
    assert read_body(request(Wire(b"left alone"), None)) == b""
    req = spooled(Wire(b"ab", b"c"))
    assert req.content_length == 3
    assert read_body(req) == b"abc"


@pytest.mark.parametrize("read", [lambda raw: read_body(request(raw, 9)), spooled])
@pytest.mark.parametrize(
    ("step", "status"),
    [(5.0, "408"), (NoMoreData(), "400"), (InvalidChunkSize(b"zz"), "400")],
)
def test_what_goes_wrong_has_an_answer(
    monkeypatch: pytest.MonkeyPatch, read: Any, step: Any, status: str
) -> None:
    monkeypatch.setattr(middleware, "_PATIENCE", 0.05)
    raw = Wire(b"abc", step)
    with pytest.raises(errors.Refusal) as refusal:
        read(raw)
    assert refusal.value.status.startswith(status)
    assert raw.failed  # nobody knows where the next request begins: the connection ends


def test_a_reset_is_a_client_that_has_gone() -> None:
    with pytest.raises(errors.ClientGone):
        read_body(request(Wire(b"abc", ConnectionResetError()), 9))


def test_a_body_that_ends_early() -> None:
    with pytest.raises(errors.Refusal, match="ended early"):
        read_body(request(Wire(b"abc"), 9))


def test_limits() -> None:
    with pytest.raises(errors.Refusal, match=str(LIMIT)):
        RequestBody(LIMIT).process_request(request(Wire(), LIMIT + 1), falcon.Response())
    RequestBody(LIMIT).process_request(request(Wire(), LIMIT), falcon.Response())
    raw = Wire(*[b"x" * (64 << 10)] * 17)
    with pytest.raises(errors.Refusal, match=str(LIMIT)):
        spooled(raw)
    assert raw.failed
    assert spooled(Wire(*[b"x" * (64 << 10)] * 16)).content_length == LIMIT


def test_what_nobody_read_is_read_after_the_answer() -> None:
    raw = io.BytesIO(b"x" * 300_000)
    req, resp = request(raw, 300_000), falcon.Response()
    resp.data = b"no"
    RequestBody(LIMIT).process_response(req, resp, None, False)
    assert resp.content_length == "2" and resp.data is None
    stream = iter(resp.stream)
    assert next(stream) == b"no"
    assert raw.tell() == 0  # the answer has gone out first
    assert list(stream) == []
    assert raw.tell() == 300_000


def test_far_too_much_ends_the_connection() -> None:
    raw = Wire()
    req, resp = request(raw, 2 * LIMIT + 1), falcon.Response()
    RequestBody(LIMIT).process_response(req, resp, None, False)
    assert raw.failed and resp.stream is None
