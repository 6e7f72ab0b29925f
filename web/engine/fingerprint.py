"""Which model a state belongs to: a short digest of its weights, whatever the file is called.

Reading 14 GB takes a minute. So the index is digested, and of every tensor the first, the middle
and the last 4 KiB: whatever has trained a tensor has changed nearly all of its numbers. These are
some 10 MB of a 1.5B model, which a load has just read. The same weights in another type are another
model: its states differ. Digests are kept by the path, size and time of every file. Called in
threads, by `web/engine/in_process.py`.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import blake2b, file_digest
from pathlib import Path

from cachetools import LRUCache

import rwkv_native as rn
from rwkv_native import checkpoint

_BLOCK = 4 << 10  # bytes

_known: LRUCache[tuple[object, ...], str] = LRUCache(64)


def fingerprint(path: str, adapter: rn.Adapter | None = None) -> str:
    """32 hex digits. path: a file, an index or a folder that rn.Model.load has taken; adapter: what
    it has merged into that. Raises rn.Error and OSError."""
    tensors = checkpoint.read(path).tensors
    merged = [] if adapter is None else _files(adapter)
    files = sorted({os.fspath(one) for one in merged} | {one.path for one in tensors.values()})
    alpha = None if adapter is None else adapter.alpha
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in (Path(name).stat() for name in files)]
    key = (alpha, *files, *facts)
    if key not in _known:
        _known[key] = _digest(tensors, merged, alpha)
    return _known[key]


def _digest(tensors: dict[str, checkpoint.Tensor], merged: list[Path], alpha: float | None) -> str:
    digest = blake2b(repr(alpha).encode(), digest_size=16)
    with contextlib.ExitStack() as stack:
        opened = {
            path: stack.enter_context(Path(path).open("rb", buffering=0))
            for path in {tensor.path for tensor in tensors.values()}
        }
        for name, tensor in sorted(tensors.items()):
            digest.update(f"\n{name} {tensor.dtype} {tensor.shape} {tensor.scale}\n".encode())
            last = max(tensor.nbytes - _BLOCK, 0)
            for start in sorted({0, last // 2, last}):
                size = min(_BLOCK, tensor.nbytes)
                fd = opened[tensor.path].fileno()
                digest.update(os.pread(fd, size, tensor.offset + start))
        for path in merged:  # small beside a model: to the last byte
            with path.open("rb") as file:
                digest.update(file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(adapter: rn.Adapter) -> list[Path]:
    named = [Path(one) for one in (adapter.path, adapter.init) if one is not None]
    return [
        file
        for one in named
        for file in (sorted(p for p in one.iterdir() if p.is_file()) if one.is_dir() else [one])
    ]
