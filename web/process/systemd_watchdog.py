"""systemd's watchdog: hears from us as long as all is well, and else starts the server again.

The unit asks for it by WatchdogSec; elsewhere nothing runs. gunicorn tells systemd only that it has
started. The worker goes on telling, because it knows most: its hub turns, and its engine lives. A
worker that stands still is ended by the master (`timeout` in `web/gunicorn.conf.py`), a master that
does, or an engine that is gone, by systemd.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
from gunicorn.systemd import sd_notify


def watch(well: Callable[[], bool], log: Any) -> None:
    """Starts a greenlet that tells while `well()`. For the worker."""
    period = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("NOTIFY_SOCKET") and period.isdigit():
        gevent.spawn(_tell, int(period) / 1e6 / 3, well, log)


def _tell(every: float, well: Callable[[], bool], log: Any) -> None:
    while True:
        if well():
            sd_notify("WATCHDOG=1", log)
        gevent.sleep(every)
