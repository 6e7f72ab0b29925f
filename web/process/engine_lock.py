"""One worker at a time holds the engine: two would hold the weights twice.

`-w 2` is refused at the start, but TTIN adds a worker later and HUP starts the new one while the
old one still drains. Those wait here until the first has gone. The lock is a POSIX record lock on
an unlinked file that the master opens and its workers inherit: such locks belong to a process and
do not survive fork, so the kernel frees one however its worker dies, and nothing is left on disk.
Called by the hooks in `web/gunicorn.conf.py`; never by a request.
"""

from __future__ import annotations

import fcntl
import sys
import tempfile
from typing import Any

import gevent

_lock: Any = None  # of the master, inherited by every worker; survives the reload of the conf file


def prepare() -> None:
    """Makes the lock. For the master, before it forks."""
    global _lock
    if _lock is None:
        _lock = tempfile.TemporaryFile(prefix="rwkv-native-")  # noqa: SIM115


def become(worker: Any) -> None:
    """Returns once this worker is the only one. Keeps gunicorn's heartbeat meanwhile, or the
    master would kill the waiting worker after `timeout`; ends the process if told to stop."""
    if _lock is None:
        return
    told = False
    while True:
        try:
            fcntl.lockf(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if not told:
                worker.log.warning(
                    "worker %s waits: one engine serves, and another worker holds it", worker.pid
                )
                told = True
        if not worker.alive:
            sys.exit(0)
        worker.notify()
        gevent.sleep(0.1)
