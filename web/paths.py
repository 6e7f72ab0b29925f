"""Which files a request may name: those in the workspace, the `--model-dir` folders and the folder
of the start model, after resolving links. What it may write lies in the workspace's folder `midi`.

Made once by `web/app.py`; asked by every resource that takes a path, in a thread, since a disk may
be slow. What it returns is resolved: open that, not what the client said. Never opens a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import rwkv_native as rn
from web import errors
from web.config import Config

LONGEST = 4096  # characters of a path, as Linux has it
MUSIC = "midi"  # the folder of the workspace that requests may write into


class Roots:
    """The folders that paths of requests may point into."""

    def __init__(self, config: Config) -> None:
        self.workspace = Path(config.workspace).resolve()
        self._folders = [self.workspace, *(Path(name).resolve() for name in config.model_dir)]
        if config.model is None:
            with contextlib.suppress(rn.Error):  # an installation without the demo model
                self._folders.append(rn.demo_model().resolve().parent)
        elif config.model != "none":
            self._folders.append(Path(config.model).resolve().parent)

    def find(self, field: str, given: str, suffix: str = "") -> Path:
        """The file or folder that `field` names; it need not exist.

        A relative path is looked for in every folder in turn, also with `suffix` added. 400 if it
        leads elsewhere: the same answer whether or not there is something.
        """
        try:
            paths = [path.resolve() for path in self._candidates(given, suffix)]
            for path in paths:
                if self._holds(path) and path.exists():
                    return path
        except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, links in a circle
            raise errors.invalid(field, "is not a path that can be opened") from None
        if not self._holds(paths[0]):
            raise errors.invalid(
                field, "must name a file in the server's workspace or one of its model folders"
            )
        return paths[0]

    def output(self, field: str, given: str) -> Path:
        """The file in the workspace's folder `midi` that `field` names, to be written. 400, with
        the `detail` of RWKV Runner, for one elsewhere."""
        folder = self.workspace / MUSIC
        try:
            path = (self.workspace / given).resolve()
        except (OSError, ValueError, RuntimeError):
            raise errors.invalid(field, "is not a path that can be opened") from None
        if folder not in path.parents:
            raise errors.bad_output(field, MUSIC)
        return path

    def _candidates(self, given: str, suffix: str) -> Sequence[Path]:
        names = [given, given + suffix] if suffix and not given.endswith(suffix) else [given]
        return [folder / name for folder in self._folders for name in names]

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._folders)
