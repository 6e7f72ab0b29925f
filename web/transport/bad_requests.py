"""The answer to bytes that are no HTTP request, in the shape of all our errors.

gunicorn refuses these before the application hears of them, with a page in HTML that one function
of its own writes. `install`, called by a hook in `web/gunicorn.conf.py`, puts ours in its place:
gunicorn still decides what is wrong, with which status, and logs it.
"""

from __future__ import annotations

import functools

import falcon
import msgspec
from gunicorn import util

from web import errors
from web.transport.connection import Connection
from web.transport.error_answers import Body


def install(body: Body) -> None:
    """`body` is the shape of the errors."""
    util.write_error = functools.partial(_write_error, body)


def _write_error(body: Body, sock: Connection, status: int, reason: str, message: str) -> None:
    """`message` is empty where the server failed, not the client."""
    # RFC 9112 6.1: a transfer coding that the server does not know.
    whole = falcon.HTTP_501 if status == 501 else f"{status} {reason}"
    refusal = errors.malformed(message, known=status != 501) if message else errors.internal()
    said = msgspec.json.encode(body(refusal))
    head = (
        f"HTTP/1.1 {whole}\r\nConnection: close\r\nContent-Type: {falcon.MEDIA_JSON}\r\n"
        f"Content-Length: {len(said)}\r\n\r\n"
    )
    sock.lingers = True  # who sends such bytes may be sending more
    util.write_nonblock(sock, head.encode("latin-1") + said)
