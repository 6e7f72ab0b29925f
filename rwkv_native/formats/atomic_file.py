"""Files that appear whole or not at all.

Called by whoever writes a file that others may read: states, checkpoints, the server's results. The
new file grows beside its target, under a name that no reader looks for and no other writer has, and
takes the target's place at the end.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FileError, InvalidError


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, durable: bool = False, through_links: bool = True
) -> Iterator[BinaryIO]:
    """A file to write and read, which becomes `path` if the block ends well and is removed if not.

    durable: have it on the disk before it takes the target's place. through_links: where `path` is
    a link, write what it names, which must be a regular file if it is there; False replaces
    whatever has the name, for a path that has been judged already. Several writers of one path do
    not see each other; the last to end stays. Raises InvalidError, or an OSError that names `path`.
    """
    try:
        target = Path(os.fsdecode(path))
        if through_links:  # beside the file that a link names, so that the link stays one
            target = target.resolve()
            if target.exists() and not target.is_file():
                raise InvalidError(f"{os.fsdecode(path)}: is no regular file; it stays as it is")
    except (OSError, RuntimeError, TypeError) as error:  # RuntimeError: links in a circle
        raise FileError(f"{path!r}: {getattr(error, 'strerror', None) or error}") from None
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb+") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        if error.filename != str(part):
            raise
        raise type(error)(error.errno, error.strerror, os.fsdecode(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
