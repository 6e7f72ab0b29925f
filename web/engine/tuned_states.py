"""Tuned states: files that a request, or /update-config, names as the start of every answer.

`TunedStates` belongs to one model and reads each file once while it is in use; `StartStates` turns
what a request says into a state. Called by the resources that generate and by
`web/engine/model_host.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cachetools import LRUCache
from gevent.lock import BoundedSemaphore

import rwkv_native as rn
from web import errors
from web.files.allowed_paths import Roots
from web.threadpool import at_disk

if TYPE_CHECKING:
    from web.engine.generation import Serving
    from web.engine.model_host import Runtime

# Bytes of the states that are kept: 12 MB each for a 1.5B model, 33 MB for 7B.
KEPT = 256 << 20


class TunedStates:
    """The tuned states of one model."""

    def __init__(self, model: rn.Model, most: int = KEPT) -> None:
        self._model = model
        size = model.info.state_bytes
        self._kept: LRUCache[tuple[Path, int, int], rn.State] = LRUCache(most, lambda state: size)
        self._turn = BoundedSemaphore(1)  # requests that come together read a file once

    def get(self, path: Path) -> rn.State:
        """The state in a file, read again if the file has changed. 400 for one that does not fit,
        in RWKV Runner's words."""
        with self._turn:
            return at_disk(self._get, path)

    def _get(self, path: Path) -> rn.State:
        try:
            facts = path.stat()
            key = (path, facts.st_mtime_ns, facts.st_size)
            state = self._kept.get(key)
            if state is None:
                state = self._model.load_tuned_state(path)
        except (rn.Error, OSError) as problem:
            raise _refusal(problem, path) from None
        if self._model.info.state_bytes <= self._kept.maxsize:
            self._kept[key] = state
        return state

    def forget(self) -> None:
        """Gives back the memory of what is kept; whoever uses a state has it still."""
        self._kept.clear()


class StartStates:
    """Where the answer to a request starts."""

    def __init__(self, runtime: Runtime, roots: Roots) -> None:
        self._runtime = runtime
        self._roots = roots

    def path(self, given: str) -> Path | None:
        """The file that a field `state` names; None for a folder or nothing, which mean no state:
        RWKV Runner's guide sends "models/"."""
        if not given or given.endswith(("/", "\\")):
            return None
        path = at_disk(self._roots.find, "state", given, ".pth")
        return None if at_disk(path.is_dir) else path

    def of(self, serving: Serving, given: str | None) -> rn.State | None:
        """The state of one request, which may say nothing: then what /update-config has set."""
        if given is None:
            return serving.state
        if given and self._runtime.deploy:
            raise errors.forbidden("state")
        path = self.path(given)
        return None if path is None else serving.tuned.get(path)


def _refusal(problem: Exception, path: Path) -> errors.Refusal:
    text = str(problem).replace(f"{path}: ", "", 1)
    if isinstance(problem, FileNotFoundError):
        said = "state file not found"
    elif "there are no tuned states" in text:
        said = f"file format of the model or state model not supported: {text}"
    elif "has shape" in text or "layers" in text:
        said = f"state shape mismatch: {text}"
    else:
        said = "state file failed to load: " + (
            text if isinstance(problem, rn.Error) else "it cannot be read"
        )
    return errors.Refusal(errors.Kind.INVALID, said, param="state", code="invalid_value")
