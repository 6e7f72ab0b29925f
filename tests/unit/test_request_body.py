"""Bodies that come slowly, break off or lie: each read ends, and with the right answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon
import falcon.testing
import gevent
import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidChunkSize, NoMoreData
from gunicorn.http.unreader import Unreader

from web import errors
from web.errors import Kind
from web.transport import body_reader
from web.transport.body_reader import Incoming, TinyChunks, TooSlow
from web.transport.error_answers import STATUSES
from web.transport.request_body import RequestBody, Room, read_body

LIMIT = 1 << 20
ROOM = Room(64 << 20)


class Socket:
    """As much of a connection as a body needs; sets hold it weakly."""

    lingers = False

    def __init__(self, sendall: Callable[[bytes], None]) -> None:
        self.sendall = sendall


class Wire(Unreader):
    """Plays steps, each bytes that arrive, an exception to raise, or seconds to wait."""

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        self.steps = list(steps)
        self.sent = b""
        self.sock = Socket(self._send)

    def _send(self, data: bytes) -> None:
        self.sent += data

    def chunk(self, size_hint: int | None = None) -> bytes:
        step = self.steps.pop(0) if self.steps else b""
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            gevent.sleep(step)
            return self.chunk(size_hint)
        return step


class Message:
    """As much of gunicorn's request as a body needs."""

    def __init__(self, wire: Wire, length: int | None, expects: bool = False) -> None:
        reader = ChunkedReader(self, wire) if length is None else LengthReader(wire, length)
        self.unreader = wire
        self.body = Body(reader)
        self.closes = False
        self._expected_100_continue = expects

    def force_close(self) -> None:
        self.closes = True


def request(
    wire: Wire, length: int | None, expects: bool = False, room: Room = ROOM, **headers: str
) -> falcon.Request:
    """`length`: what is promised; None: chunks."""
    if length is None:
        headers["Transfer-Encoding"] = "chunked"
    environ = falcon.testing.create_environ(method="POST", path="/x", headers=headers)
    environ["wsgi.input"] = Incoming(Message(wire, length, expects))
    environ.pop("CONTENT_LENGTH", None)
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    req = falcon.Request(environ)
    RequestBody(LIMIT, room).process_request(req, falcon.Response())
    return req


def closes(req: falcon.Request) -> bool:
    """Whether its connection ends, but not before the answer has arrived."""
    incoming = req.env["wsgi.input"]
    ends = incoming._request.closes
    assert incoming.failed == ends == incoming._request.unreader.sock.lingers
    return ends


def answer(req: falcon.Request) -> None:
    RequestBody(LIMIT, ROOM).process_response(req, falcon.Response(), None, False)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_pieces_are_put_together() -> None:
    assert read_body(request(Wire(b"ab", b"c", b"de"), 5)) == b"abcde"
    assert read_body(request(Wire(b"left alone"), 0)) == b""
    sent = chunks(b"ab", b"c")
    for at in range(len(sent)):
        req = request(Wire(sent[:at] or sent, sent[at:] if at else b""), None)
        assert read_body(req) == b"abc"
        answer(req)
        assert not closes(req)


def test_what_comes_after_a_body_is_the_next_request() -> None:
    wire = Wire(b"abcGET /")
    assert read_body(request(wire, 3)) == b"abc"
    assert wire.read() == b"GET /"


@pytest.mark.parametrize("length", [90, None])
@pytest.mark.parametrize(
    ("step", "status"),
    [(5.0, "408"), (NoMoreData(), "400"), (InvalidChunkSize(b"zz"), "400"), (b"", "400")],
)
def test_what_goes_wrong_has_an_answer(
    monkeypatch: pytest.MonkeyPatch, length: int | None, step: Any, status: str
) -> None:
    monkeypatch.setattr(body_reader, "_PATIENCE", 0.05)
    req = request(Wire(b"3\r\nabc\r\n", step), length)
    with pytest.raises(errors.Refusal) as refusal:
        read_body(req)
    assert STATUSES[refusal.value.kind].startswith(status)
    assert closes(req)  # nobody knows where the next request begins


def test_a_reset_is_a_client_that_has_gone() -> None:
    with pytest.raises(errors.ClientGone):
        read_body(request(Wire(b"abc", ConnectionResetError()), 9))


def test_a_fast_beginning_buys_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 of 31 MiB at once, and then a byte now and then."""
    monkeypatch.setattr(body_reader, "_PATIENCE", 0.1)
    drops: list[Any] = [step for _ in range(20) for step in (0.02, b"x")]
    req = request(Wire(*[b"x" * (64 << 10)] * 15, *drops), LIMIT)
    with pytest.raises(errors.Refusal) as refusal:
        read_body(req)
    assert refusal.value.kind is Kind.TOO_SLOW
    left = len(req.env["wsgi.input"]._request.unreader.steps)
    assert left > 20  # some 5 drops of 20 came


def test_the_least_pace_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "_PATIENCE", 0.5)
    monkeypatch.setattr(body_reader, "_PACE", 1 << 20)
    steps: list[Any] = [step for _ in range(8) for step in (0.1, b"x" * (128 << 10))]
    assert len(read_body(request(Wire(*steps), 1 << 20))) == 1 << 20


def test_limits() -> None:
    with pytest.raises(errors.Refusal, match=str(LIMIT)):
        request(Wire(), LIMIT + 1)
    request(Wire(), LIMIT)
    piece = b"x" * (64 << 10)
    req = request(Wire(chunks(*[piece] * 17)), None)
    with pytest.raises(errors.Refusal, match=str(LIMIT)):
        read_body(req)
    assert closes(req)
    assert len(read_body(request(Wire(chunks(*[piece] * 16)), None))) == LIMIT


@pytest.mark.parametrize("line", [b"1", b"1;x=" + b"y" * 500])
def test_tiny_chunks_are_refused_early(line: bytes) -> None:
    """Beyond 64 KiB on the wire, of a body as large as one may be."""
    sent = line + b"\r\nx\r\n"
    wire = Wire(*[sent * (6000 // len(sent))] * (LIMIT // 6000))
    with pytest.raises(errors.Refusal, match="less than 64 bytes"):
        read_body(req := request(wire, None))
    assert closes(req)
    taken = req.env["wsgi.input"]._wire.taken
    assert taken < 256 << 10
    # Fewer of them are a client that writes as it goes.
    few = Wire(chunks(*[b"x"] * 5000))
    assert read_body(request(few, None)) == b"x" * 5000


def test_frames_that_are_longer_than_what_they_hold() -> None:
    line = b"40;x=" + b"y" * 500 + b"\r\n" + b"x" * 64 + b"\r\n"
    with pytest.raises(TinyChunks):
        Incoming(Message(Wire(*[line] * 2000), None)).read()


def test_many_chunks_let_others_run() -> None:
    """Taken apart in slices of about a millisecond, not a body at once."""
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            gevent.sleep(1e-6)
            turns += 1

    counting = gevent.spawn(count)
    sent = chunks(*[b"x" * 80] * 10_000)
    arrivals = [sent[at : at + 8192] for at in range(0, len(sent), 8192)]
    assert len(Incoming(Message(Wire(*arrivals), None)).read()) == 800_000
    counting.kill()
    assert turns >= 30  # 39 slices of 256 chunks


def test_a_body_that_is_refused_is_not_asked_for() -> None:
    for length in (9, None):
        wire = Wire()
        req = request(wire, length, expects=True)
        assert not req.env["wsgi.input"]._request._expected_100_continue  # gunicorn says nothing
        answer(req)
        assert wire.sent == b"" and closes(req)  # the client may send it or not
        wire = Wire(b"abcdefghi" if length else chunks(b"abcdefghi"))
        req = request(wire, length, expects=True)
        assert read_body(req) == b"abcdefghi"
        assert wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer(req)
        assert not closes(req)


@pytest.mark.parametrize(
    ("length", "ends"), [(0, False), (64 << 10, False), ((64 << 10) + 1, True), (None, True)]
)
def test_what_nobody_reads(length: int | None, ends: bool) -> None:
    """gunicorn would read it all before the next request."""
    req = request(Wire(), length)
    answer(req)
    assert closes(req) == ends


def test_bodies_have_a_limit_in_sum() -> None:
    room = Room(1 << 20)
    client = {"REMOTE_ADDR": "1.2.3.4"}

    def one(size: int, address: str) -> falcon.Request:
        req = request(Wire(b"x" * size), size, room=room)
        req.env.update(client | {"REMOTE_ADDR": address})
        RequestBody(LIMIT, room).process_request(req, falcon.Response())
        return req

    half = (512 << 10) + (64 << 10)
    first = one(half, "1.2.3.4")
    assert len(read_body(first)) == half
    for refused in (one(80_000, "1.2.3.4"), one(half + 1, "5.6.7.8")):
        with pytest.raises(errors.Refusal) as refusal:
            read_body(refused)
        assert refusal.value.kind is Kind.UNAVAILABLE
        assert refusal.value.retry_after == 5
        assert closes(refused)
        answer(refused)
    assert len(read_body(one(64 << 10, "1.2.3.4"))) == 64 << 10  # small ones always
    second = one(half, "5.6.7.8")
    read_body(second)
    answer(first)
    answer(first)
    again = one(half, "1.2.3.4")
    assert len(read_body(again)) == half
    for req in (second, again):
        answer(req)
    assert not room._taken


def test_slow_is_told_from_gone() -> None:
    assert issubclass(TooSlow, NoMoreData)  # which gunicorn takes for the end of a connection
