"""Models: opening a checkpoint, and running tokens through it.

Owns the weights' handle and the load in progress. The index comes from checkpoint.py; conversion
runs on native threads, so that opening never blocks other threads or greenlets for long. Never
knows about text or requests.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import adapters, checkpoint
from ._ffi import check, ffi, float_pointer, id_array, lib
from .adapters import Adapter
from .errors import CheckpointError, InvalidError, Stopped, UnsupportedError
from .model_info import ModelInfo, described, state_parts
from .state import KIND, State, open_models, tuned_state


class Loading:
    """A load in progress on native threads; made by Model.load."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        strategy: str,
        threads: int | None,
        state_type: str,
        adapter: Adapter | str | os.PathLike[str] | None = None,
    ) -> None:
        found = checkpoint.read(path)
        if (other := _other_than_a_model(found)) is not None:
            raise CheckpointError(f"{found.path}: is {other}")
        if adapter is not None:
            found = adapters.merged(found, adapter)
        self._path = found.path
        self._metadata = found.metadata
        self._context_length = found.context_length
        self._tokens = found.tokenizer_tokens
        self._handle: Any = None
        self._model: Model | None = None
        self._lock = threading.Lock()
        chosen = _word("strategy", strategy, "'cpu fp32' or 'auto'")
        kept = _word("state_type", state_type, "'fp32' or 'bf16'")
        options = ffi.new("rwkv_model_options *")
        options.size = ffi.sizeof("rwkv_model_options")
        options.strategy = chosen
        options.threads = _thread_count(threads)
        options.state_type = kept
        rows, keep = _rows(found)
        out = ffi.new("rwkv_load **")
        check(lib.rwkv_load_start(out, rows, len(rows), options))

        def cancel(handle: Any, _keep: list[Any] = keep) -> None:
            lib.rwkv_load_cancel(handle)

        # The rows live as long as the load that may read them.
        self._handle = ffi.gc(out[0], cancel)

    def _state(self) -> tuple[int, int, bool]:
        with self._lock:
            if self._model is not None:
                return 1, 1, True
            if self._handle is None:
                return 0, 1, True
            done, total = ffi.new("uint64_t *"), ffi.new("uint64_t *")
            finished = ffi.new("int32_t *")
            check(lib.rwkv_load_progress(done, total, finished, self._handle))
            return done[0], total[0], bool(finished[0])

    @property
    def progress(self) -> tuple[int, int]:
        """(done, total) bytes of weights converted; total is 0 until the file has been mapped."""
        done, total, _ = self._state()
        return done, total

    @property
    def finished(self) -> bool:
        """True once result() would not wait."""
        return self._state()[2]

    def result(self) -> Model:
        """The model; waits for it. Raises what went wrong, or Stopped after cancel()."""
        pause = 0.0005
        while not self.finished:  # a blocking C call would stop every greenlet of this thread
            time.sleep(pause)
            pause = min(0.02, pause * 1.5)
        with self._lock:
            if self._model is None:
                handle, self._handle = self._handle, None
                if handle is None:
                    raise Stopped("the load has been cancelled or has failed")
                ffi.gc(handle, None)  # rwkv_load_finish frees it in every case
                out = ffi.new("rwkv_model **")
                status = lib.rwkv_load_finish(out, handle)
                self._raise(status)
                self._model = Model._adopt(out[0], self._path, self._metadata, self._context_length)
                self._model.tokenizer_tokens = self._tokens
            return self._model

    def _raise(self, status: int) -> None:
        try:
            check(status)
        except UnsupportedError:
            raise
        except InvalidError as error:
            raise CheckpointError(f"{self._path}: {error}") from None

    def cancel(self) -> None:
        """Ends the load early; without effect once the model has been handed out."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                ffi.release(handle)


def _other_than_a_model(found: checkpoint.Checkpoint) -> str | None:
    """What a file is that people mistake for a model."""
    if found.metadata.get("rwkv.kind") == KIND:
        return "a state that State.save has written, not a model: State.load reads it"
    if all(name.endswith(".att.time_state") for name in found.tensors):
        return (
            "a tuned state, not a model: give it beside one (--state, `state` of a request,"
            " Model.load_tuned_state)"
        )
    if "emb.weight" not in found.tensors and adapters.is_one(found.tensors):
        return "an adapter, not a model: give it beside one (--adapter, Model.open(adapter=))"
    return None


def _rows(found: checkpoint.Checkpoint) -> tuple[Any, list[Any]]:
    """The index as C takes it, and the memory that it points to."""
    tensors = [*found.tensors.items()]
    numbers = {"emb.weight/normed": 1.0} if found.normed else {}
    for target, changes in found.changes.items():
        for i, change in enumerate(changes):
            place = f"{target}/{i}/{change.kind}"
            tensors.append((f"{place}/a", change.a))
            if change.b is not None:
                tensors.append((f"{place}/b", change.b))
                numbers[f"{place}/scale"] = change.scale
    rows = ffi.new("rwkv_tensor[]", len(tensors) + len(numbers))
    names = {t.path for _, t in tensors}  # more than one where a model is in parts
    paths = {name: ffi.new("char[]", os.fsencode(name)) for name in names}
    keep = [rows, *paths.values()]
    for row, (key, number) in zip(rows[len(tensors) : len(rows)], numbers.items(), strict=True):
        row.name = name = ffi.new("char[]", key.encode())
        row.data = value = ffi.new("float[1]", [number])
        row.nbytes = ffi.sizeof(value)
        keep += [name, value]
    for row, (key, tensor) in zip(rows[0 : len(tensors)], tensors, strict=True):
        row.name = name = ffi.new("char[]", key.encode())
        keep.append(name)
        row.path = paths[tensor.path]
        row.dtype = getattr(lib, f"RWKV_{tensor.dtype}")
        row.rank = len(tensor.shape)
        row.shape = tensor.shape
        row.stride = tensor.strides
        row.offset = tensor.offset
        row.nbytes = tensor.nbytes
        row.scale = tensor.scale
    return rows, keep


def _word(name: str, value: str, examples: str) -> Any:
    if not isinstance(value, str) or "\0" in value:
        raise InvalidError(f"{name} must be a text such as {examples}")
    try:
        return ffi.new("char[]", value.encode())
    except UnicodeEncodeError:
        raise InvalidError(f"{name} holds a lone surrogate, which is no character") from None


def _thread_count(threads: int | None) -> int:
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= 1024:
        raise InvalidError(
            f"threads must be 1 to 1024, or 0 or None for as many as fit, not {threads!r}"
        )
    return threads


# What one call into C computes, as floating-point operations: about 0.2 s on two cores. Ctrl-C is
# heard between two calls.
_CALL_FLOPS = 1 << 37


class Model:
    """Weights in memory; immutable, usable from every thread. Made by Model.open or Model.load.

    A context manager: at its end, or by close(), the weights go as soon as no engine and no state
    needs them.
    """

    info: ModelInfo
    #: names and shapes of what State.to_numpy returns, in its order
    state_parts: dict[str, tuple[int, ...]]
    #: the bytes of every id, where the file carries a World-style vocabulary (GGUF); else None
    tokenizer_tokens: list[bytes] | None = None

    def __init__(self) -> None:
        raise TypeError("use rn.Model.open(path) or rn.Model.load(path)")

    @classmethod
    def _adopt(
        cls, handle: Any, path: str, metadata: Mapping[str, str], context_length: int | None
    ) -> Model:
        self = object.__new__(cls)
        self._native = ffi.gc(handle, lib.rwkv_model_free)
        self.info = described(handle, path, metadata, context_length)
        self.state_parts = state_parts(handle)
        self._vocab = self.info.vocab
        self._rows = max(64, min(256, _CALL_FLOPS // max(1, self.info.token_flops) // 64 * 64))
        open_models.add(self)
        return self

    @property
    def _handle(self) -> Any:
        """For one call: whoever holds it keeps the weights, so that close() cannot take them."""
        handle = self._native
        if handle is None:
            raise Stopped("the model has been closed")
        return handle

    def close(self) -> None:
        """Lets go of the weights. Engines and states of this model keep them and go on; whatever
        else is asked of it then raises Stopped. May be called twice."""
        self._native = None
        open_models.discard(self)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        i = self.info
        shape = f"RWKV-{i.version} L{i.layers} D{i.width}"
        closed = ", closed" if self._native is None else ""
        return f"<rwkv_native.Model {Path(i.path).name}: {shape}, {i.strategy}{closed}>"

    def __copy__(self) -> Model:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> Model:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Model cannot be pickled; pass its path, and open it there with rn.Model.open"
        )

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        strategy: str = "auto",
        threads: int | None = None,
        *,
        state_type: str = "fp32",
        adapter: Adapter | str | os.PathLike[str] | None = None,
    ) -> Loading:
        """Starts a load on native threads and returns at once.

        Raises as `open` does for what the file's index and the arguments show; what the weights
        show is raised by Loading.result().
        """
        return Loading(path, strategy, threads, state_type, adapter)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        strategy: str = "auto",
        threads: int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        state_type: str = "fp32",
        adapter: Adapter | str | os.PathLike[str] | None = None,
    ) -> Model:
        """Opens a checkpoint: .pth, .safetensors, .st, .gguf, or a folder or index of several.

        strategy: "cpu fp32", "cpu fp16", "cpu bf16" or "auto" (the file's own type on the CPU);
        "i8" or "i4" behind a type quantises the large matrices ("cpu bf16i4").
        threads: None or 0 for the least of physical cores, affinity and the cgroup's CPU quota.
        progress: called now and then with (done, total) bytes.
        state_type: "fp32", "fp16" or "bf16": how states keep the matrices of versions 5 to 7.
        Arithmetic stays fp32; 16 bits halve the memory that a state takes and that many
        sequences move, and cost accuracy (docs/quantisation.md).
        adapter: a LoRA or its kin, merged in fp32 before the weights take the strategy's type: a
        path, or an Adapter with what the file does not say.

        Raises FileNotFoundError, CheckpointError (a ValueError: damaged, hostile or no RWKV),
        UnsupportedError (a ValueError that names an alternative) or MemoryError.
        """
        loading = cls.load(path, strategy, threads, state_type=state_type, adapter=adapter)
        try:
            while progress is not None and not loading.finished:
                progress(*loading.progress)
                time.sleep(0.02)
            model = loading.result()
        except BaseException:
            loading.cancel()
            raise
        if progress is not None:
            size = model.info.weight_bytes
            progress(size, size)
        return model

    def forward(
        self,
        tokens: Iterable[int] | np.ndarray,
        state: State | None = None,
        full: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Runs tokens and returns (logits, new state); the state passed in is not changed.

        tokens: at least one id in [0, info.vocab). state: None for the zero state.
        logits: float32 [vocab] after the last token, or [tokens, vocab] if `full`.
        Raises ValueError for empty tokens, an id outside the vocabulary or another model's state,
        and Stopped once the model has been closed. Calls from several threads take turns. Ctrl-C
        ends a long prompt between two parts of 64 to 256 tokens.
        """
        ids = id_array("tokens", tokens, self._vocab)
        n = len(ids)
        if n == 0:
            raise InvalidError("tokens is empty; give at least one id")
        if state is None:
            state = State._zero(self)
        elif isinstance(state, State):
            state = state._clone_for(self)
        else:
            raise InvalidError(f"state must be a State, not {type(state).__name__}")
        logits = np.empty((n, self._vocab) if full else self._vocab, np.float32)
        out, handle, rows = float_pointer(logits), self._handle, self._rows
        for at in range(0, n, rows):
            to = out + at * self._vocab if full else out
            count = min(rows, n - at)
            check(lib.rwkv_model_forward(to, handle, state._handle, ids + at, count, bool(full)))
        return logits, state

    def zero_state(self) -> State:
        """The state before the first token: all zero."""
        return State._zero(self)

    def load_tuned_state(self, path: str | os.PathLike[str]) -> State:
        """A state-tuned file (.pth, .safetensors or web-rwkv's .st) as a start state.

        The file holds `blocks.i.att.time_state` [H, value, key] for every layer; the shift vectors
        are zero. Raises CheckpointError if its shapes are not this model's, or if the version has
        no such states (4).
        """
        return tuned_state(self, path)

    def barriers(self) -> int:
        """Dispatches to the thread pool so far: what tests of the engine count."""
        out = ffi.new("uint64_t *")
        check(lib.rwkv_model_barriers(out, self._handle))
        return out[0]
