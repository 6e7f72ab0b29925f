"""gunicorn's gevent worker with stricter HTTP: what a client may cost before and after its request
is at work. Named in `web/gunicorn.conf.py`. Never looks into a body.
"""

from __future__ import annotations

from typing import Any

from gevent.server import StreamServer
from gunicorn.http import message
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from web.threadpool import breathe
from web.transport import log_writer, open_connections
from web.transport.body_reader import Incoming
from web.transport.connection import Connection

HEADERS = 64 << 10  # bytes of one header and of all: cookies of a host are shared by its ports
# Connections that are taken in a turn of the hub. Each begins to work at once: of gevent's hundred
# at a time thousands would, and everybody else would wait for a turn among them.
_ACCEPTED = 1
_CODINGS = frozenset({"compress", "x-compress", "deflate", "gzip", "x-gzip"})


class NoHost(InvalidHeader):
    def __init__(self, request: Any) -> None:
        super().__init__("HOST", request)

    def __str__(self) -> str:
        return "HTTP/1.1 wants a Host header"


class Request(message.Request):
    """A request as gunicorn parses it, and as HTTP/1.1 (RFC 9112) has it."""

    def parse(self, unreader: Any) -> bytes:
        self.max_buffer_headers = min(self.max_buffer_headers, HEADERS)
        return super().parse(unreader)

    def set_body_reader(self) -> None:
        names = [name for name, _ in self.headers]
        for value in (value for name, value in self.headers if name == "TRANSFER-ENCODING"):
            # gunicorn hands the body out as it came, in a coding that nobody undoes.
            if _CODINGS & {coding.strip(" \t").lower() for coding in value.split(",")}:
                raise UnsupportedTransferCoding(value)
        if self.version >= (1, 1) and "HOST" not in names:
            raise NoHost(self)
        self.version = min(self.version, (1, 1))  # which is what the answer speaks
        super().set_body_reader()
        self.body = Incoming(self)


class Worker(GeventWorker):
    """`send_timeout`: seconds in which a client must take some of its answer. `keeps_alive`:
    whether a connection stays open for another request. Both are set by a hook."""

    send_timeout = 60.0
    keeps_alive = True

    def patch(self) -> None:
        super().patch()
        log_writer.install()
        RequestParser.mesg_class = Request
        StreamServer.max_accept = _ACCEPTED

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = Connection(client, self.send_timeout)
        open_connections.accepted(connection)
        super().handle(listener, connection, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        if not self.keeps_alive:
            req.force_close()
        breathe()  # a client may send thousands at once, and take the answers as they come
        super().handle_request(listener_name, req, sock, addr)
