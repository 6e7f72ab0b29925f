"""A client's socket with the manners that gunicorn's lacks: writes end although nobody reads, and a
close lets the last answer arrive. Made by `web/transport/worker.py`; knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import time

import gevent
from gevent import socket

_LINGER = 30.0  # seconds for what a refused client is still sending
_SILENCE = 2.0  # of them, in which nothing comes
_PAUSE = 0.001  # seconds between two reads of it: at most 250 MB/s go to nobody
_SINK = bytearray(256 << 10)  # nobody looks at it, so everybody may write there


class Stalled(ConnectionResetError):
    """The client takes nothing of what is written to it."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client does not read")


class Connection(socket.socket):
    """`patience`: seconds in which a write must get on by a byte; Stalled is raised after that.
    `lingers`: close() says the end and then reads on for a while, since a close before what the
    client is still sending would reset the connection, and take the answer away from it."""

    def __init__(self, accepted: socket.socket, patience: float) -> None:
        """Takes the place of a socket, which is detached."""
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        self.patience = patience
        self.lingers = False

    def sendall(self, data: bytes, flags: int = 0) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.send(left, flags, 0.0) :]
            except BlockingIOError:
                socket.wait_write(self.fileno(), self.patience, Stalled())

    def close(self) -> None:
        if self.lingers:
            self.lingers = False
            with contextlib.suppress(OSError):
                self._linger()
        super().close()

    def _linger(self) -> None:
        self.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _LINGER
        while (left := end - time.monotonic()) > 0:
            with gevent.Timeout(min(left, _SILENCE), TimeoutError):
                if not self.recv_into(_SINK):
                    return
            gevent.sleep(_PAUSE)
