"""Files of the workspace that requests name: read within bounds, and written whole or not at all.

Takes paths that `web/files/allowed_paths.py` has resolved. Called in threads, by the resources
whose requests name files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rwkv_native.formats import atomic_file
from web import errors


def contents(path: Path, field: str, most: int) -> bytes:
    """What is in a file of at most so many bytes. 400 for one that is larger or cannot be read."""
    try:
        # A pipe would let the reader wait. Links were followed before the path was judged.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise errors.invalid(field, "is not a file")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise errors.invalid(field, "names a file that does not exist") from None
    except OSError as problem:
        raise errors.invalid(field, f"cannot be read: {problem.strerror}") from None
    if len(data) > most:
        raise errors.invalid(field, f"names a file of more than {most} bytes")
    return data


def save(path: Path, field: str, data: bytes) -> None:
    """Makes a file, or replaces it, in a folder that exists or can be made. 400 if it cannot."""
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_file.replacing(path, through_links=False) as file:
            file.write(data)
    except OSError as problem:
        raise errors.invalid(field, f"cannot be written: {problem.strerror}") from None
