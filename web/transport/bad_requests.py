"""The answer to bytes that are no HTTP request, in the shape of all our errors.

gunicorn refuses these before the application hears of them, with a page in HTML that one function
of its own writes. `install`, called by a hook in `web/gunicorn.conf.py`, puts ours in its place:
gunicorn still decides what is wrong, with which status, and logs it.
"""

from __future__ import annotations

import falcon
import msgspec
from gunicorn import util

from web import errors
from web.transport.connection import Connection


def install() -> None:
    util.write_error = _write_error


def _write_error(sock: Connection, status: int, reason: str, message: str) -> None:
    """`message` is empty where the server failed, not the client."""
    # RFC 9112 6.1: a transfer coding that the server does not know.
    whole = falcon.HTTP_501 if status == 501 else f"{status} {reason}"
    refusal = errors.Refusal(
        whole,
        errors.malformed(message) if message else falcon.HTTP_500.partition(" ")[2],
        code="malformed_request" if message else None,
    )
    body = msgspec.json.encode(errors.body_of(refusal))
    head = (
        f"HTTP/1.1 {whole}\r\nConnection: close\r\nContent-Type: {falcon.MEDIA_JSON}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sock.lingers = True  # who sends such bytes may be sending more
    util.write_nonblock(sock, head.encode("latin-1") + body)
