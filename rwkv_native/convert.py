"""Writes checkpoints: any that can be read becomes .safetensors with official names, or GGUF.

Owns the conversion of elements between types and the order of a file's tensors; formats/ owns the
containers. Called by the command line and by benchmarks. Reads and writes a piece of a tensor at a
time, so that memory stays small whatever the size of the model.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import adapters, checkpoint
from ._ffi import check, ffi, float_pointer, lib
from .adapters import Adapter
from .errors import CheckpointError, InvalidError, MissingFileError, UnsupportedError
from .formats import atomic_file, gguf, layouts, safetensors
from .formats.tensor import DTYPES, PACKED, Change, Refused, Tensor, packed_nbytes
from .tokenizers import Tokenizer

NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
PACKED_NAMES = {"i8": "I8", "i4": "I4"}  # of .safetensors only
PIECE = 16 << 20  # elements are read by so many bytes
# What a file says of itself and what stays true of the copy.
_KEPT = (
    checkpoint.EMBEDDING,
    *("rwkv.adapter", "rwkv.family", "rwkv.thinks", "rwkv.tokenizer", "general.name"),
)
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}  # llama.cpp's numbers
# The large matrices of every version, by official names.
_MATRIX = re.compile(
    r"^head\.weight$|\.(att\.(receptance|key|value|gate|output)|ffn\.(key|value|receptance))\.weight$"
)
# Low-rank factors [in, out], which the engine takes whole (native/src/arch).
_FACTOR = re.compile(r"\.(att\.([wavg][12]|time_decay_w[12])|ffn\.s[12]|qkv\.[kv][12])$")

Progress = Callable[[int, int], None]
Changes = tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """One tensor to write: its parts are concatenated in the order of their elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    turned: bool = False  # the transpose is packed
    changes: Changes = ()  # of a single part, by an adapter

    @property
    def nbytes(self) -> int:
        if self.dtype in PACKED:
            return packed_nbytes(self.dtype, self.shape[::-1] if self.turned else self.shape)
        return math.prod(self.shape) * DTYPES[self.dtype]


def to_safetensors(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    packed: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    adapter: Adapter | str | os.PathLike[str] | None = None,
) -> None:
    """Writes a checkpoint, or a tuned state, as .safetensors with official names.

    dtype: "fp32", "fp16" or "bf16" for all tensors; None keeps each one's own. Rounding is to the
    nearest, ties to even. "i8" and "i4" quantise the large matrices and keep the others. packed:
    matrices are written as the engine has them in memory, so that the file is used where it is
    mapped; quantised files always are. Data starts at a multiple of 64 and is contiguous. The file
    appears at once when all of it is written; one that exists is replaced only if `force`.
    progress: called with (done, total) bytes. adapter: what Model.open takes, merged in fp32 before
    the weights take their type.

    Raises CheckpointError for a source that cannot be read, holds NaN, or a value that `dtype`
    cannot hold; InvalidError for wrong arguments; OSError.
    """
    found, wanted = _opened(source, target, dtype, force, adapter, NAMES | PACKED_NAMES)
    tuned = all(n.endswith(".att.time_state") for n in found.tensors)
    if found.version is None and not tuned:
        raise CheckpointError(f"{found.path}: holds no RWKV of a known version")
    changes = found.changes
    rows = [_row(t, wanted, packed, changes.get(n, ())) for n, t in found.tensors.items()]
    # Sizes that are a multiple of the alignment come first, so that their neighbours keep it.
    rows.sort(key=lambda row: row.nbytes % safetensors.ALIGNMENT != 0)
    metadata = {k: v for k, v in found.metadata.items() if k in _KEPT}
    metadata |= {
        "format": "pt",  # what readers of HuggingFace ask for
        "rwkv.source": f"{found.format}, {found.layout}",
        **({"rwkv.version": found.version} if found.version else {"rwkv.kind": "tuned-state"}),
    }
    if found.context_length is not None:
        metadata[checkpoint.CONTEXT_LENGTH] = str(found.context_length)
    if "rwkv.tokenizer" not in metadata and (name := _vocabulary_name(found)):
        metadata["rwkv.tokenizer"] = name
    metadata |= safetensors.packed_entry(
        {r.name: (r.dtype, r.shape, r.turned) for r in rows if r.dtype in PACKED}
    )
    shown = [
        (r.name, "U8", (r.nbytes,)) if r.dtype in PACKED else (r.name, r.dtype, r.shape)
        for r in rows
    ]
    start = safetensors.header(shown, metadata)
    _write(target, start, rows, 1, progress)


def _row(tensor: Tensor, wanted: str | None, packed: bool, changes: Changes) -> _Row:
    quantise = wanted in PACKED_NAMES.values()
    kind = wanted if wanted is not None and not quantise else tensor.dtype
    two = len(tensor.shape) == 2
    matrix = two and tensor.is_contiguous and _MATRIX.search(tensor.name) is not None
    factor = two and tensor.shape[0] > 1 and _FACTOR.search(tensor.name) is not None
    if matrix and quantise:
        # As a load does: what int4 would change too much becomes int8.
        kind = "I8" if wanted == "I4" and _harmed_by_int4(tensor, changes) else wanted
    elif (matrix or factor) and (packed or quantise) and f"PACKED_{kind}" in PACKED:
        kind = f"PACKED_{kind}"
    turned = factor and kind in PACKED
    return _Row(tensor.name, kind, tensor.shape, (tensor,), turned, changes)


def to_gguf(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    adapter: Adapter | str | os.PathLike[str] | None = None,
) -> None:
    """Writes a checkpoint of RWKV-6 or 7 as GGUF, with the names and shapes of llama.cpp.

    dtype: of the large matrices, "fp32", "fp16" or "bf16"; None for that of most weights. Vectors
    and low-rank matrices are F32. The vocabulary is that of the source, or World or bytes by the
    number of rows, or "none". Otherwise as to_safetensors.
    """
    found, wanted = _opened(source, target, dtype, force, adapter)
    if found.version not in ("6.0", "7"):
        what = f"RWKV-{found.version}" if found.version else "what is in this file"
        raise UnsupportedError(
            f"{found.path}: GGUF has no form for {what}; write .safetensors, or convert 6 or 7"
        )
    if found.normed:
        raise UnsupportedError(
            f"{found.path}: its embedding holds the norm before block 0, for which GGUF has no"
            " form; write .safetensors, or convert the .pth that it was made of"
        )
    wanted = wanted or _main_dtype(found)
    try:
        plan = layouts.to_gguf(found.tensors, found.version)
        values = _gguf_values(found, wanted)
    except Refused as refusal:
        raise CheckpointError(f"{found.path}: {refusal}") from None
    rows = []
    for name, parts in plan.items():
        shape = parts[0].shape if len(parts) == 1 else (len(parts), 1, 1, *parts[0].shape)
        large = len(shape) == 2 and name.endswith(_LARGE)
        kind = wanted if large else "F32"
        changes = found.changes.get(parts[0].name, ())
        rows.append(_Row(name, kind, shape, tuple(parts), changes=changes))
    start = gguf.header(values, [(r.name, r.dtype, r.shape) for r in rows])
    _write(target, start, rows, gguf.ALIGNMENT, progress)


# Matrices that may be of 16 bits; llama.cpp wants the others as F32.
_LARGE = tuple(
    f"{name}.weight"
    for name in (
        "token_embd", "output", "time_mix_receptance", "time_mix_key", "time_mix_value",
        "time_mix_gate", "time_mix_output", "channel_mix_key", "channel_mix_value",
        "channel_mix_receptance",
    )
)  # fmt: skip


def _opened(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None,
    force: bool,
    adapter: Adapter | str | os.PathLike[str] | None,
    names: dict[str, str] = NAMES,
) -> tuple[checkpoint.Checkpoint, str | None]:
    if dtype is not None and dtype not in names:
        why = "; GGUF files of it are not written" if dtype in PACKED_NAMES else ""
        raise InvalidError(f"dtype must be one of {', '.join(names)}, not {dtype!r}{why}")
    found = checkpoint.read(source)
    odd = next((t for t in found.tensors.values() if t.kind != "plain"), None)
    if odd is not None:
        raise UnsupportedError(
            f"{found.path}: the tensor {odd.name} is {odd.kind} ({odd.dtype}); convert from the"
            " file that it was made of"
        )
    if adapter is not None:
        found = adapters.merged(found, adapter)
    place = Path(target)
    if not place.parent.is_dir():
        raise InvalidError(f"{place}: there is no folder {place.parent}")
    # Also under force: the mapped source must not be replaced while it is read by others.
    if place.exists() and any(place.samefile(p) for p in _paths(found)):
        raise InvalidError(f"{place}: is the source itself; choose another name")
    if place.is_dir():
        raise InvalidError(f"{place}: is a folder; give the name of a file")
    if place.exists() and not force:
        raise InvalidError(f"{place}: exists already; --force replaces it")
    return found, None if dtype is None else names[dtype]


def _paths(found: checkpoint.Checkpoint) -> set[str]:
    """The files that are read while the target is written."""
    parts = [c for changes in found.changes.values() for c in changes]
    sources = [*found.tensors.values(), *(c.a for c in parts), *(c.b for c in parts if c.b)]
    return {t.path for t in sources}


def _main_dtype(found: checkpoint.Checkpoint) -> str:
    counts: dict[str, int] = {}
    for t in found.tensors.values():
        counts[t.dtype] = counts.get(t.dtype, 0) + t.count
    main = max(counts, key=lambda d: counts[d])
    return main if main in _FILE_TYPES else "F32"


# -- elements


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The bits (uint16) of float32 values as bfloat16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _converted(values: np.ndarray, dtype: str, tensor: Tensor) -> np.ndarray:
    """Values as the file stores `dtype`. They are finite before and after, or refused."""
    with np.errstate(over="ignore"):
        if dtype == "F64":
            out = values.astype("<f8")
        elif dtype == "F16":
            out = values.astype("<f4").astype("<f2")
        else:
            out = values.astype("<f4", copy=False)
    stored = to_bf16(out) if dtype == "BF16" else out
    finite = ((stored & 0x7F80) != 0x7F80) if dtype == "BF16" else np.isfinite(stored)
    if not finite.all():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{tensor.path}: the tensor {tensor.name} holds a NaN or an infinity"
            )
        largest = float(np.abs(values).max())
        raise CheckpointError(
            f"{tensor.path}: the tensor {tensor.name} has values up to {largest:.3g}, which"
            f" {dtype} cannot hold; convert to bf16 or fp32"
        )
    return stored


def _number(name: str) -> int:
    """How rwkv.h numbers a type or a kind of change."""
    return getattr(lib, f"RWKV_{name}")


def _packed(tensor: Tensor, dtype: str, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows [n, in] in panels, and what that changes, relative to their root mean square."""
    numbers = dtype.removeprefix("PACKED_")
    if numbers in DTYPES:
        _converted(values, numbers, tensor)  # refuses what the type cannot hold
    rows = np.ascontiguousarray(_converted(values, "F32", tensor), "<f4")
    size, loss = ffi.new("size_t *"), ffi.new("double[2]")
    check(lib.rwkv_packed_size(size, _number(dtype), *rows.shape))
    out = np.empty(size[0], np.uint8)
    data = ffi.cast("uint8_t *", ffi.from_buffer(out))
    check(lib.rwkv_pack(data, loss, _number(dtype), float_pointer(rows), *rows.shape))
    return out, math.sqrt(loss[0] / loss[1]) if loss[1] else 0.0


def _rows_of(tensor: Tensor, first: int, count: int, changes: Changes = ()) -> np.ndarray:
    """Rows of a contiguous matrix, as float32 where an adapter changes them."""
    columns = tensor.shape[1]
    rows = tensor.read(first * columns, count * columns).reshape(count, columns)
    return _changed(rows, first, tensor, changes)


def _changed(rows: np.ndarray, first: int, tensor: Tensor, changes: Changes) -> np.ndarray:
    if not changes:
        return rows
    rows = np.array(rows, np.float32, order="C")
    for change in changes:
        a = np.ascontiguousarray(change.a.to_numpy(), np.float32)
        b = np.empty(0, np.float32)
        if change.b is not None:
            b = np.ascontiguousarray(change.b.to_numpy(), np.float32)
        place = first, len(rows), *tensor.shape
        how = _number(change.kind.upper()), change.rank, change.scale
        given = float_pointer(a), a.size, float_pointer(b), b.size
        check(lib.rwkv_change_rows(float_pointer(rows), *place, *how, *given))
    return rows


def _harmed_by_int4(tensor: Tensor, changes: Changes) -> bool:
    """The engine's rule (native/src/cpu/pack_blocks.h), by the first rows."""
    rows = _rows_of(tensor, 0, min(tensor.shape[0], 1024), changes)
    return _packed(tensor, "I4", rows)[1] > 0.13


def _pieces(tensor: Tensor, dtype: str, turned: bool, changes: Changes) -> Iterator[np.ndarray]:
    """The elements in C order, converted, some at a time."""
    if changes and not tensor.is_contiguous:  # a view of a trainer's
        yield _converted(_changed(tensor.to_numpy(), 0, tensor, changes), dtype, tensor)
        return
    if changes and dtype not in PACKED:
        step = max(PIECE // 4 // tensor.shape[1], 1)
        for first in range(0, tensor.shape[0], step):
            rows = _rows_of(tensor, first, min(step, tensor.shape[0] - first), changes)
            yield _converted(rows, dtype, tensor)
        return
    if turned:  # a low-rank matrix; those are small
        yield _packed(tensor, dtype, tensor.to_numpy().T)[0]
        return
    if dtype in PACKED:
        step = max(PIECE // 4 // tensor.shape[1] // 16, 1) * 16
        for first in range(0, tensor.shape[0], step):
            rows = _rows_of(tensor, first, min(step, tensor.shape[0] - first), changes)
            yield _packed(tensor, dtype, rows)[0]
        return
    if not tensor.is_contiguous:  # a low-rank matrix or another view; those are small
        yield _converted(tensor.to_numpy(), dtype, tensor)
        return
    step = PIECE // DTYPES[tensor.dtype]
    for first in range(0, tensor.count, step):
        yield _converted(tensor.read(first, min(step, tensor.count - first)), dtype, tensor)


def _write(
    target: str | os.PathLike[str],
    start: bytes,
    rows: list[_Row],
    alignment: int,
    progress: Progress | None,
) -> None:
    total = sum(row.nbytes for row in rows)
    done = 0
    with atomic_file.replacing(target, durable=True) as file:
        file.write(start)
        for row in rows:
            for part in row.parts:
                for piece in _pieces(part, row.dtype, row.turned, row.changes):
                    file.write(np.ascontiguousarray(piece).data)
                    done += piece.nbytes
                    if progress is not None:
                        progress(done, total)
            file.write(bytes(-row.nbytes % alignment))


# -- what a GGUF file says of itself


def _gguf_values(found: checkpoint.Checkpoint, dtype: str) -> dict[str, Any]:
    tensors = found.tensors
    seven = found.version == "7"
    arch = "rwkv7" if seven else "rwkv6"

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors or len(tensors[name].shape) != 2:
            raise Refused(f"the tensor {name!a} is missing or no matrix")
        return tensors[name].shape

    vocab, width = shape("emb.weight")
    layers = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
    size = shape("blocks.0.att.r_k" if seven else "blocks.0.att.time_faaaa")[1]
    values: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": found.metadata.get("general.name") or Path(found.path).stem,
        "general.file_type": _FILE_TYPES[dtype],
        f"{arch}.context_length": 1 << 20,  # RWKV has no limit; llama.cpp asks for one
        f"{arch}.embedding_length": width,
        f"{arch}.block_count": layers,
        f"{arch}.feed_forward_length": shape("blocks.0.ffn.key.weight")[0],
        f"{arch}.attention.layer_norm_epsilon": 1e-5,
        f"{arch}.attention.head_count": 0,  # asked for, not used
        f"{arch}.wkv.head_size": size,
        f"{arch}.vocab_size": vocab,
    }
    if seven:
        for letter, name in (("w", "decay"), ("a", "iclr"), ("g", "gate")):
            rank = shape(f"blocks.0.att.{letter}1")[1]
            values[f"{arch}.attention.{name}_lora_rank"] = rank
        mix = shape("blocks.1.att.v1" if layers > 1 else "blocks.0.att.a1")[1]
        values[f"{arch}.attention.value_residual_mix_lora_rank"] = mix
    else:
        values[f"{arch}.rescale_every_n_layers"] = 0  # the weights are written undivided
        values[f"{arch}.time_mix_extra_dim"] = shape("blocks.0.att.time_maa_w1")[1] // 5
        values[f"{arch}.time_decay_extra_dim"] = shape("blocks.0.att.time_decay_w1")[1]
    return values | _gguf_vocabulary(found, vocab)


def _gguf_vocabulary(found: checkpoint.Checkpoint, rows: int) -> dict[str, Any]:
    """World-style words, padded to the number of rows; "none" where nothing tells them."""
    tokens = found.tokenizer_tokens
    if tokens is None:
        name = found.metadata.get("rwkv.tokenizer")
        if name is None:
            name = "world" if rows >= 65536 else "world-bytes" if rows == 257 else ""
        if name not in ("world", "world-bytes"):
            return {"tokenizer.ggml.model": "none"}
        try:
            tokenizer = Tokenizer.named(name)
        except MissingFileError:
            return {"tokenizer.ggml.model": "none"}
        tokens = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
    words, kinds = [b"<s>"], [3]
    for i in range(1, rows):
        known = i < len(tokens) and tokens[i] != b""
        words.append(gguf.escaped(tokens[i]) if known else b"[PAD%d]" % i)
        kinds.append(1 if known else 5)
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }


def _vocabulary_name(found: checkpoint.Checkpoint) -> str | None:
    """The name of the vocabulary that a GGUF file carries, if it is one that has a name."""
    tokens = found.tokenizer_tokens
    if tokens is None:
        return None
    for name in ("world-bytes", "world"):
        try:
            tokenizer = Tokenizer.named(name)
        except MissingFileError:
            continue
        n = tokenizer.vocab_size
        same = len(tokens) >= n and not any(tokens[n:])
        if same and tokenizer.decode_bytes(range(n)) == b"".join(tokens):
            return name
    return None
