"""Files that appear whole or not at all.

Called by the writers of states and checkpoints. The new file grows beside its target, under a name
that no reader looks for, and takes the target's place at the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FileError, InvalidError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` if the block ends well and is removed if not.

    durable: have it on the disk before it takes the target's place.
    """
    try:
        # Beside the file that a link names, so that the link stays one.
        target = Path(os.fsdecode(path)).resolve()
        if target.exists() and not target.is_file():
            raise InvalidError(f"{os.fsdecode(path)}: is no regular file; it stays as it is")
    except (OSError, RuntimeError, TypeError) as error:  # RuntimeError: links in a circle
        raise FileError(f"{path!r}: {getattr(error, 'strerror', None) or error}") from None
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        if error.filename != str(partial):
            raise
        raise type(error)(error.errno, error.strerror, os.fsdecode(path)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
