"""`midi/sample.txt` in the workspace: a piece for a first try of /txt-to-midi, and the file that
RWKV Runner's guide names there. Called when a server starts.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from web.files.allowed_paths import MUSIC

NAME = "sample.txt"

# How "Frère Jacques" begins, on a piano and a bass: every note has its end.
TEXT = (
    "b:24:8 pi:3c:a t62 pi:3c:0 pi:3e:a t62 b:24:0 b:2b:8 pi:3e:0 pi:40:a t62 pi:3c:a pi:40:0 "
    "t62 b:24:8 b:2b:0 pi:3c:0 pi:3c:a t62 pi:3c:0 pi:3e:a t62 b:24:0 b:2b:8 pi:3e:0 pi:40:a "
    "t62 pi:3c:a pi:40:0 t62 b:24:8 b:2b:0 pi:3c:0 pi:40:a t62 pi:40:0 pi:41:a t62 b:24:0 "
    "b:2b:8 pi:41:0 pi:43:a t124 b:24:8 b:2b:0 pi:40:a pi:43:0 t62 pi:40:0 pi:41:a t62 b:24:0 "
    "b:2b:8 pi:41:0 pi:43:a t124 b:2b:0 pi:43:0"
)


def write(workspace: Path) -> None:
    """Unless there is one. A workspace that cannot be written into stays without."""
    folder = workspace / MUSIC
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        with (folder / NAME).open("x") as file:
            file.write(TEXT + "\n")
