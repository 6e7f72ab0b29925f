"""systemd's watchdog: hears from us as long as all is well, and else starts the server again.

The unit asks for it by WatchdogSec; elsewhere nothing runs. gunicorn tells systemd only that it has
started. The worker goes on telling, because it knows most: its hub turns, and its engine lives. A
worker that stands still is ended by the master (`timeout` in `web/gunicorn.conf.py`), a master that
does, or an engine that is gone, by systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

import gevent


def watch(well: Callable[[], bool]) -> None:
    """Starts a greenlet that tells while `well()`. For the worker."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    period = os.environ.get("WATCHDOG_USEC", "")
    if address and period.isdigit():
        name = "\0" + address[1:] if address.startswith("@") else address
        gevent.spawn(_tell, name, int(period) / 1e6 / 3, well)


def _tell(address: str, every: float, well: Callable[[], bool]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        while True:
            if well():
                with contextlib.suppress(OSError):  # systemd starts again, or has no room now
                    speaker.sendto(b"WATCHDOG=1", address)
            gevent.sleep(every)
