"""One row of a checkpoint's index, and the views of it that other layouts need.

Owns Tensor, its element types, and the refusals that every container shares. A view is a change of
numbers in the row: transposing swaps strides, taking a part moves the offset; no byte is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import CheckpointError

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Elements and bytes of a block of GGUF's quantised formats, as far as the engine reads them.
BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}  # fmt: skip
# The same of packed matrices (.safetensors of ours): int8 and int4 with fp16 scales, plain numbers.
PACKED = {
    "I8": (64, 66), "I4": (32, 18),
    "PACKED_F32": (1, 4), "PACKED_F16": (1, 2), "PACKED_BF16": (1, 2),
}  # fmt: skip
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
MAX_NAME = 512
MAX_RANK = 8


class Refused(ValueError):
    """A reason without the file's name, which checkpoint.read adds."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the index. `strides` count elements, `offset` and `nbytes` bytes of the file."""

    name: str
    dtype: str  # a key of DTYPES, BLOCKS or PACKED
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    path: str
    offset: int  # of element 0
    nbytes: int  # from `offset` to the end of the last element
    scale: float = 1.0  # a power of two: the tensor is this times what the file holds

    def to_numpy(self) -> np.ndarray:
        """A copy of the elements, C-contiguous; BF16 becomes float32, which is exact."""
        self._plain()
        size = DTYPES[self.dtype]
        flat = self.read(0, self.nbytes // size)
        strides = [s * flat.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides).copy()

    def read(self, first: int, count: int) -> np.ndarray:
        """`count` stored elements from number `first` on, in the file's order; BF16 as float32."""
        self._plain()
        size = DTYPES[self.dtype]
        at = self.offset + first * size
        flat = np.fromfile(self.path, STORED[self.dtype], count, offset=at)
        if flat.size != count:
            raise CheckpointError(f"{self.path}: the file has become shorter while it was read")
        if self.dtype == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        # A power of two is exact, except that F16 may not hold the result.
        return flat if self.scale == 1 else flat.astype(np.float32) * np.float32(self.scale)

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def kind(self) -> str:
        """How the elements lie: "plain", "quantised" in blocks of neighbours, or "packed"."""
        if self.dtype in BLOCKS:
            return "quantised"
        return "packed" if self.dtype in PACKED else "plain"

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous(self.shape)

    def renamed(self, name: str) -> Tensor:
        if not name:
            raise Refused(f"a tensor is called {self.name!a}, which is nothing but a prefix")
        return self if name == self.name else replace(self, name=name)

    def swapped(self) -> Tensor:
        """The last two dimensions exchanged."""
        self._plain()
        if len(self.shape) < 2:
            raise Refused(f"tensor {self.name!a} should be a matrix and has {_dims(self)}")
        *a, m, n = self.shape
        *b, s, t = self.strides
        return replace(self, shape=(*a, n, m), strides=(*b, t, s))

    def part(self, index: int, of: int) -> Tensor:
        """Element `index` of the first dimension, which must have `of`."""
        self._plain()
        if len(self.shape) < 2 or self.shape[0] != of:
            raise Refused(f"tensor {self.name!a} should hold {of} parts and has {_dims(self)}")
        shape, strides = self.shape[1:], self.strides[1:]
        last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        size = DTYPES[self.dtype]
        offset = self.offset + index * self.strides[0] * size
        return replace(self, shape=shape, strides=strides, offset=offset, nbytes=(last + 1) * size)

    def reshaped(self, *shape: int) -> Tensor:
        """The same elements in another shape."""
        if math.prod(shape) != self.count or not self.is_contiguous:
            raise Refused(
                f"tensor {self.name!a} has {_dims(self)}, which is not {list(shape)} anew"
            )
        return replace(self, shape=tuple(shape), strides=contiguous(shape))

    def _plain(self) -> None:
        """Refuses what would take blocks apart."""
        if self.kind != "plain":
            raise Refused(
                f"tensor {self.name!a} is {self.kind} ({self.dtype}), which is read for the large"
                " matrices only, by the engine"
            )

    def scaled(self, scale: float) -> Tensor:
        return replace(self, scale=self.scale * scale)


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter makes of a matrix, row by row as it is read: rwkv_change in rwkv.h."""

    kind: str  # "low_rank", "shard", "bat_columns", "bat_rows" or "magnitude"
    a: Tensor
    b: Tensor | None = None
    scale: float = 1.0  # of low_rank

    @property
    def rank(self) -> int:
        """Rows of `a` [r, ...], or the size of its blocks [n, r, r]."""
        return self.a.shape[-1] if self.kind.startswith("bat") else self.a.shape[0]


def nbytes_of(dtype: str, count: int) -> int:
    """Bytes of `count` elements, whole blocks of a quantised type."""
    elements, size = BLOCKS.get(dtype) or PACKED.get(dtype) or (1, DTYPES[dtype])
    return count // elements * size


def packed_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a packed matrix [out, in]: panels of 16 outputs (native/src/weights/quant.h)."""
    out, columns = shape
    elements, size = PACKED[dtype]
    if elements == 1:
        return -(-out // 16) * 16 * -(-columns // 2) * 2 * size
    groups = -(-columns // elements)
    scales = -(-groups * 32 // 64) * 64
    return -(-out // 16) * (scales + groups * 16 * (size - 2))


def _dims(tensor: Tensor) -> str:
    return f"the shape {list(tensor.shape)}"


def check_name(name: str) -> None:
    """Refuses names that C, which sees zero-terminated UTF-8, or a terminal could trip over."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise Refused(f"a tensor's name is not 1 to {MAX_NAME} printable characters: {name[:80]!a}")


def is_extent(value: Any) -> bool:
    """Whether `value` can be the size of a dimension."""
    return type(value) is int and 0 < value < 1 << 48


def contiguous(shape: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a tensor whose last dimension runs fastest."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * shape[i]
    return tuple(strides)
