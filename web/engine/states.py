"""States that answers start from, by reference: a request holds a StateRef, and only the engine's
side has the numbers behind it. Today these are tuned states, files that a request or /update-config
names.

`LocalStates` belongs to one model in this process; `StartStates` turns what a request says into a
reference.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from cachetools import LRUCache
from gevent.lock import BoundedSemaphore

import rwkv_native as rn
from web import errors
from web.engine.client import StateRef
from web.engine.serving import Serving
from web.errors import Kind
from web.files.allowed_paths import Roots
from web.threadpool import at_disk

# Bytes of the states that are kept: 12 MB each for a 1.5B model, 33 MB for 7B.
KEPT = 256 << 20
_MOST_REFS = 4096  # names of states that can be read again


class LocalStates:
    """The states of one model that is loaded here. What is kept of them is bounded; a state that
    has been let go is read from its file again."""

    def __init__(self, model: rn.Model, name: str, most: int = KEPT) -> None:
        """name: the model's fingerprint."""
        self._model = model
        self._name = name
        size = model.info.state_bytes
        self._kept: LRUCache[StateRef, rn.State] = LRUCache(most, lambda state: size)
        self._refs: LRUCache[tuple[Path, int, int], StateRef] = LRUCache(_MOST_REFS)
        self._paths: LRUCache[StateRef, Path] = LRUCache(_MOST_REFS)
        self._turn = BoundedSemaphore(1)  # requests that come together read a file once

    def open(self, path: Path) -> StateRef:
        """The state in a file, read again if the file has changed. 400 for one that does not fit,
        in RWKV Runner's words."""
        with self._turn:
            return at_disk(self._open, path)

    def resolve(self, ref: StateRef) -> rn.State:
        """The state itself, for the engine of its model. 400 if it is gone: its file has changed
        since it was named."""
        if (state := self._kept.get(ref)) is not None:
            return state
        if (path := self._paths.get(ref)) is not None:
            with self._turn:
                found, state = at_disk(self._read, path)
            if found == ref:
                return state
        raise errors.state_gone()

    def forget(self) -> None:
        """Gives back the memory of what is kept; whoever uses a state has it still."""
        self._kept.clear()

    def _open(self, path: Path) -> StateRef:
        try:
            facts = path.stat()
        except OSError as problem:
            raise _refusal(problem, path) from None
        key = (path, facts.st_mtime_ns, facts.st_size)
        ref = self._refs.get(key)
        if ref is None or self._kept.get(ref) is None:
            ref, _ = self._read(path)
            self._refs[key] = ref
        return ref

    def _read(self, path: Path) -> tuple[StateRef, rn.State]:
        try:
            state = self._model.load_tuned_state(path)
            ref = StateRef(self._name, _content(state))
        except (rn.Error, OSError) as problem:
            raise _refusal(problem, path) from None
        self._paths[ref] = path
        if self._model.info.state_bytes <= self._kept.maxsize:
            self._kept[ref] = state
        return ref, state


def _content(state: rn.State) -> str:
    digest = blake2b(digest_size=16)
    for name, array in sorted(state.to_numpy().items()):
        digest.update(name.encode())
        digest.update(array)
    return digest.hexdigest()


class StartStates:
    """Where the answer to a request starts."""

    def __init__(self, roots: Roots, deploy: Callable[[], bool]) -> None:
        """`deploy` tells whether requests may name no files now."""
        self._roots = roots
        self._deploy = deploy

    def path(self, given: str) -> Path | None:
        """The file that a field `state` names; None for a folder or nothing, which mean no state:
        RWKV Runner's guide sends "models/"."""
        if not given or given.endswith(("/", "\\")):
            return None
        path = at_disk(self._roots.find, "state", given, ".pth")
        return None if at_disk(path.is_dir) else path

    def of(self, serving: Serving, given: str | None) -> StateRef | None:
        """The state of one request, which may say nothing: then what /update-config has set."""
        if given is None:
            return serving.start
        if given and self._deploy():
            raise errors.forbidden("state")
        path = self.path(given)
        return None if path is None else serving.engine.states.open(path)


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
    return errors.Refusal(Kind.INVALID, said, param="state", code="invalid_value")
