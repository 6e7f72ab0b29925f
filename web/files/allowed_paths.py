"""Which files a request may name: those in the workspace, the `--model-dir` folders and the folder
of the start model, after resolving links, and nothing hidden in them: such files hold keys and
passwords. What it may write lies in the workspace's folder `midi`.

Made once by `web/app.py`; asked by every resource that takes a path, in a thread, since a disk may
be slow. What it returns is resolved: open that, not what the client said. Never opens a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import rwkv_native as rn
from web import errors
from web.config import Config

LONGEST = 4096  # characters of a path, as Linux has it
CHECKPOINTS = (".pth", ".safetensors", ".st", ".gguf")  # that a model's name may leave out
MUSIC = "midi"  # the folder of the workspace that requests may write into

_ALLOWED = "the server's workspace and model folders"
_BESIDE = frozenset({".json", ".jinja", ".txt"})  # that describe a checkpoint
_OF_CHECKPOINTS = _BESIDE | frozenset({*CHECKPOINTS, ".bin", ".pt", ".ckpt"})


class Roots:
    """The folders that paths of requests may point into."""

    def __init__(self, config: Config) -> None:
        self.workspace = Path(config.workspace).resolve()
        self._folders = [self.workspace, *(Path(name).resolve() for name in config.model_dir)]
        if config.model is None:
            with contextlib.suppress(rn.Error):  # an installation without the demo model
                self._folders.append(rn.demo_model().resolve().parent)
        elif config.model != "none":
            start = Path(config.model)
            self._folders += [start.resolve().parent, start.parent.resolve()]

    def find(self, field: str, given: str, *suffixes: str) -> Path:
        """The file or folder that `field` names; it need not exist.

        A relative path is looked for in every folder in turn, also with each of `suffixes` added.
        400 if it leads elsewhere, with the same answer whether or not there is something, or to
        what is hidden.
        """
        try:
            candidates = self._candidates(given, suffixes)
            paths = [path.resolve() for path in candidates]
            for path in paths:
                if self._holds(path) and path.exists():
                    return self._shown(field, path)
            if self._holds(paths[0]):
                return self._shown(field, paths[0])
            linked = any(self._leads_out(path) for path in candidates)
        except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, links in a circle
            raise errors.invalid(field, "is not a path that can be opened") from None
        if linked:
            raise errors.invalid(field, f"names a link that leads out of {_ALLOWED}")
        raise errors.invalid(
            field, "must name a file in the server's workspace or one of its model folders"
        )

    def check_checkpoint(self, field: str, path: Path) -> None:
        """400 if a link beside or in what `find` has returned would let a loader read elsewhere:
        the files of a folder or an index, and what lies beside a file to describe it."""
        whole = path.is_dir() or path.suffix == ".json"
        folder = path if path.is_dir() else path.parent
        for entry in folder.iterdir() if folder.is_dir() else ():
            read = entry.suffix in _OF_CHECKPOINTS if whole else entry.suffix in _BESIDE
            if read and entry.is_symlink() and not self._holds(entry.resolve()):
                raise errors.invalid(
                    field,
                    f"names a checkpoint whose file {errors.clip(entry.name)} is a link that "
                    f"leads out of {_ALLOWED}",
                )

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

    def _candidates(self, given: str, suffixes: Sequence[str]) -> Sequence[Path]:
        names = [given, *(given + end for end in suffixes if not given.endswith(suffixes))]
        return [folder / name for folder in self._folders for name in names]

    def _shown(self, field: str, path: Path) -> Path:
        """The path, unless it is hidden in each folder that holds it."""
        for folder in self._folders:
            if path.is_relative_to(folder) and not any(
                part.startswith(".") for part in path.relative_to(folder).parts
            ):
                return path
        raise errors.invalid(field, "names a hidden file, or one in a hidden folder")

    def _leads_out(self, path: Path) -> bool:
        """Whether a path that leads elsewhere would be allowed as it is written, but for a link in
        one of the folders. Tells nothing of what lies behind it."""
        plain = Path(os.path.normpath(path))
        return any(self._holds(part) and part.is_symlink() for part in (plain, *plain.parents))

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._folders)
