"""States: the whole past of one sequence, as a value.

Owns the handle of one state, its arrays and its file form. Made by Model.forward and by the class
methods here; read by engine/. Never computes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import checkpoint
from ._ffi import check, ffi, float_pointer, lib
from .errors import CheckpointError, InvalidError, UnsupportedError
from .model_info import ModelInfo

KIND = "state"  # metadata rwkv.kind of the files that save() writes


class Loaded(Protocol):
    """What a state knows of its model. A Model is one; it lies above states, which it returns."""

    info: ModelInfo
    state_parts: dict[str, tuple[int, ...]]

    @property
    def _handle(self) -> Any: ...


# Of this process, for states that are unpickled; model.py fills it.
open_models: weakref.WeakSet[Loaded] = weakref.WeakSet()


class State:
    """The past of one sequence. Model.forward never changes one; it returns a new one.

    Use one from one thread at a time. A state can be pickled, and is read back where a model of the
    same file is open; copies are independent.
    """

    __slots__ = ("_handle", "_model")

    def __init__(self) -> None:
        raise TypeError("use model.forward, rn.State.from_numpy or rn.State.load")

    @classmethod
    def _adopt(cls, handle: Any, model: Loaded) -> State:
        self = object.__new__(cls)
        self._handle = ffi.gc(handle, lib.rwkv_state_free)
        self._model = model
        return self

    @classmethod
    def _zero(cls, model: Loaded) -> State:
        out = ffi.new("rwkv_state **")
        check(lib.rwkv_state_new(out, model._handle))
        return cls._adopt(out[0], model)

    def _clone_for(self, model: Loaded) -> State:
        if self._model is not model:
            raise InvalidError(
                "the state belongs to another model; State.from_numpy(model, state.to_numpy())"
                " makes one for this model"
            )
        return self.clone()

    def clone(self) -> State:
        """An equal, independent state."""
        out = ffi.new("rwkv_state **")
        check(lib.rwkv_state_clone(out, self._handle))
        return State._adopt(out[0], self._model)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Copies of the parts, float32: "att_x" and "ffn_x" [L, D], "wkv" [L, H, N, N].

        wkv is as the official package holds it: [value][key] from RWKV-7 on, [key][value] in 5 and
        6. RWKV-4 has "aa", "bb" and "pp" [L, A] in its place. The cache of 7b is not among them.
        """
        arrays = {}
        for i, (name, shape) in enumerate(self._model.state_parts.items()):
            arrays[name] = array = np.empty(shape, np.float32)
            check(lib.rwkv_state_read(float_pointer(array), self._handle, i, array.size))
        return arrays

    def __repr__(self) -> str:
        info = self._model.info
        size = f"{info.state_bytes / 1e6:.1f} MB"
        return f"<rwkv_native.State of RWKV-{info.version} {Path(info.path).name}: {size}>"

    def __copy__(self) -> State:
        return self.clone()

    def __deepcopy__(self, memo: object) -> State:
        return self.clone()

    def __reduce__(self) -> Any:
        self._refuse_text("files and pickles")
        return _unpickled, (self._model.info.path, self._model.info.version, self.to_numpy())

    def _refuse_text(self, form: str) -> None:
        if self._model.info.version == "7b":
            raise UnsupportedError(
                "a state of RWKV-7b also holds a cache that grows with the text, which"
                f" {form} of states do not have; keep its tokens and run them again, or clone() it"
            )

    @classmethod
    def from_numpy(cls, model: Loaded, arrays: Mapping[str, np.ndarray]) -> State:
        """The inverse of to_numpy. Raises ValueError that names a missing or ill-shaped part."""
        if not isinstance(arrays, Mapping):
            raise InvalidError(
                "arrays must map the names of a state's parts to arrays, as State.to_numpy()"
                f" returns them, not {type(arrays).__name__}"
            )
        state = cls._zero(model)
        parts = model.state_parts
        if unknown := set(arrays) - set(parts):
            name = min(map(repr, unknown))
            raise InvalidError(
                f"a state of this model has no part {name:.80}; it has {', '.join(parts)}"
            )
        for i, (name, shape) in enumerate(parts.items()):
            if name not in arrays:
                raise InvalidError(f"the part {name!r} of the state is missing")
            try:
                array = np.ascontiguousarray(arrays[name], np.float32)
            except (TypeError, ValueError) as error:
                raise InvalidError(f"the part {name!r} of the state: {error}") from None
            if np.shape(arrays[name]) != shape:
                raise InvalidError(
                    f"the part {name!r} of the state has shape {list(np.shape(arrays[name]))};"
                    f" this model needs {list(shape)}"
                )
            check(lib.rwkv_state_write(state._handle, i, float_pointer(array), array.size))
        return state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .safetensors file; load() continues exactly where this state stands.

        Raises UnsupportedError for RWKV-7b, whose past is more than the parts of to_numpy().
        """
        self._refuse_text("files")
        metadata = {"rwkv.kind": KIND, "rwkv.version": self._model.info.version}
        checkpoint.write_safetensors(path, self.to_numpy(), metadata)

    @classmethod
    def load(cls, model: Loaded, path: str | os.PathLike[str]) -> State:
        """Reads what save() wrote.

        Raises CheckpointError if it is no state, or one of a model of another version or shape.
        """
        found = checkpoint.read(path)
        if found.metadata.get("rwkv.kind") != KIND:
            hint = ""
            if "blocks.0.att.time_state" in found.tensors:
                hint = ": it is a tuned state, which Model.load_tuned_state reads"
            raise CheckpointError(f"{found.path}: is not a state saved by State.save{hint}")
        version, wanted = found.metadata.get("rwkv.version"), model.info.version
        if version != wanted:
            raise CheckpointError(
                f"{found.path}: is a state of RWKV-{version}, the model is RWKV-{wanted}"
            )
        try:
            # The shapes first: a file must not make us read more than a state's worth.
            parts = model.state_parts
            for name, tensor in found.tensors.items():
                if name in parts and tensor.shape != parts[name]:
                    raise InvalidError(
                        f"the part {name!r} has shape {list(tensor.shape)};"
                        f" this model needs {list(parts[name])}"
                    )
            arrays = {n: t.to_numpy() if n in parts else None for n, t in found.tensors.items()}
            for name, array in arrays.items():
                if array is not None and not np.isfinite(array).all():
                    raise InvalidError(f"the part {name!r} holds a NaN or an infinity")
            return cls.from_numpy(model, arrays)
        except InvalidError as error:
            raise CheckpointError(f"{found.path}: {error}") from None


def _unpickled(path: str, version: str, arrays: dict[str, np.ndarray]) -> State:
    """A pickled state, of a model of the same file that is open in this process."""
    for model in list(open_models):
        if (model.info.path, model.info.version) == (path, version):
            return State.from_numpy(model, arrays)
    raise InvalidError(
        f"this is a state of {path}, which is not open here: open it with rn.Model.open before the"
        " state is unpickled, or pass state.to_numpy() and use rn.State.from_numpy"
    )


def tuned_state(model: Loaded, path: str | os.PathLike[str]) -> State:
    """The state of Model.load_tuned_state."""
    info = model.info
    if "wkv" not in model.state_parts:
        raise CheckpointError(
            f"{os.fspath(path)}: there are no tuned states for RWKV-{info.version}, which has no"
            " matrix state; versions 5, 6 and 7 have them"
        )
    wkv = tuned_wkv(path, (info.layers, info.heads, info.head_size, info.head_size))
    if info.version[0] in "56":  # their recurrence holds [key][value], the file never does
        wkv = wkv.swapaxes(2, 3)
    parts = {name: np.zeros(shape, np.float32) for name, shape in model.state_parts.items()}
    return State.from_numpy(model, parts | {"wkv": wkv})


def tuned_wkv(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """[L, H, value, key] of a state-tuned file, whatever its version and container."""
    found = checkpoint.read(path)
    layers, *head_shape = shape
    names = [f"blocks.{i}.att.time_state" for i in range(layers)]
    if not any(n in found.tensors for n in names):
        if found.metadata.get("rwkv.kind") == KIND:
            raise CheckpointError(
                f"{found.path}: is no tuned state: State.save has written it, State.load reads it"
            )
        raise CheckpointError(f"{found.path}: holds no tuned state (blocks.0.att.time_state)")
    extra = f"blocks.{layers}.att.time_state"
    if extra in found.tensors:
        raise CheckpointError(f"{found.path}: is for a model of more than {layers} layers")
    wkv = np.empty(shape, np.float32)
    for i, name in enumerate(names):
        tensor = found.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{found.path}: {name} is missing; the model has {layers} layers")
        if tensor.shape != tuple(head_shape):
            raise CheckpointError(
                f"{found.path}: {name} has shape {list(tensor.shape)};"
                f" this model needs {head_shape}"
            )
        wkv[i] = tensor.to_numpy()
        if not np.isfinite(wkv[i]).all():
            raise CheckpointError(f"{found.path}: {name} holds a NaN or an infinity")
    return wkv
