"""What requests have set in one worker, for its successor. Without it a reload (SIGHUP), or a
worker that died, would bring back the first model under the clients of another, and open a server
that had entered deploy mode.

An unlinked file that the master opens and its workers inherit: it lasts as long as the server, and
leaves nothing on disk. Written and read by `web/engine/model_host.py`; without a master it does
nothing.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

_file: Any = None  # of the master; survives the reload of the conf file


def prepare() -> None:
    """Makes the file. For the master, before it forks."""
    global _file
    if _file is None:
        _file = tempfile.TemporaryFile(prefix="rwkv-native-", buffering=0)  # noqa: SIM115


def leave(content: bytes) -> None:
    """Takes the place of what was there; without line ends."""
    if _file is not None:
        # One call: a worker that is killed leaves the old content or the new one.
        os.pwrite(_file.fileno(), content + b"\n", 0)
        os.ftruncate(_file.fileno(), len(content) + 1)


def left() -> bytes | None:
    """What the last worker has left; None for the first one."""
    if _file is None:
        return None
    content = os.pread(_file.fileno(), os.fstat(_file.fileno()).st_size, 0)
    # A killed worker may have left the end of an older, longer content.
    return content.partition(b"\n")[0] or None
