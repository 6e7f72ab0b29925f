"""The index of a checkpoint: which tensor lies where. Python reads the index, C++ the bytes.

The door to formats/: tells a file by its content, has its container read, and brings the names of
other layouts to the official ones. Called by model.py, state.py, convert.py and the command line.
Never runs code from a file, never imports torch, and reads tensor bytes only in Tensor.to_numpy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointError, InvalidError, MissingFileError
from .formats import companions, folder, foreign, gguf, layouts, pth, safetensors
from .formats.tensor import DTYPES, Change, Refused, Tensor

__all__ = ["DTYPES", "Checkpoint", "Tensor", "read", "write_safetensors"]

write_safetensors = safetensors.write
# Keys of a file's metadata.
CONTEXT_LENGTH = "rwkv.context_length"
EMBEDDING, NORMED = "rwkv.embedding", "normed"  # its rows have gone through blocks.0.ln0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every tensor of a checkpoint by official name, and what the file says about itself."""

    path: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    format: str = ""  # of the container: "pth", "pth (legacy)", "safetensors", "gguf"
    layout: str = layouts.OFFICIAL  # whose names and orientations the file has
    #: the bytes of every id, where the file carries a World-style vocabulary (GGUF)
    tokenizer_tokens: list[bytes] | None = field(default=None, repr=False)
    #: tokens of the texts that it was trained on, where the files or their names tell
    context_length: int | None = None
    #: by the names of the matrices that an adapter changes (adapters.py)
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    @property
    def normed(self) -> bool:
        """Whether the norm before block 0 is part of the embedding; there is no ln0 then."""
        return self.metadata.get(EMBEDDING) == NORMED

    @property
    def version(self) -> str | None:
        """The version that names and shapes show: "4", "5.0" ... "7", "7a"; None if no RWKV."""
        return layouts.version_of(self.tensors)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The index of a checkpoint, told by content, with official names and orientations.

    path: a .pth (zip or legacy), .safetensors, .st or .gguf file, an index.json of several files,
    or a folder that holds one of these.
    Raises CheckpointError with the file and the reason, FileNotFoundError, or another OSError.
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise InvalidError(f"a checkpoint's path must be a text, not {path!r:.80}") from None
    if not name:
        raise InvalidError("the checkpoint's path is empty; give a file or folder")
    try:
        found = _read(name)
        if not found.tensors:
            raise Refused("holds no tensors")
        return found
    except FileNotFoundError as error:
        # A shard that is missing is named by its own path.
        raise MissingFileError(f"{error.filename or name}: no such file") from None
    except Refused as refusal:
        # Escaped names from a hostile file can be ten times as long as they are.
        raise CheckpointError(f"{name}: {refusal!s:.600}") from None
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # the last line of defence against a file made to confuse a parser
        raise CheckpointError(f"{name}: damaged file ({type(error).__name__}: {error})") from error


def as_it_is(path: str) -> dict[str, Tensor]:
    """The tensors of one .pth or .safetensors file by the names that they have in it.

    Raises Refused, FileNotFoundError or another OSError.
    """
    try:
        found, names = _container(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"{error.filename or path}: no such file") from None
    except (Refused, OSError):
        raise
    except Exception as error:
        raise Refused(f"damaged file ({type(error).__name__}: {error})") from error
    if names is not None or found.format == "gguf":
        raise Refused("is neither a .pth nor a .safetensors file")
    return found.tensors


def _read(name: str) -> Checkpoint:
    mode = Path(name).stat().st_mode
    if stat.S_ISDIR(mode):
        inside = folder.chosen(Path(name))
        return _with_companions(str(inside), inside.parent)
    path = Path(name)
    return _with_companions(name, path.parent if folder.is_of_hub(path) else None)


def _weights(name: str) -> Checkpoint:
    found, names = _container(name)
    if names is not None:
        return _sharded(found, names)
    if found.format == "gguf":
        return found
    layout, tensors = layouts.official(found.tensors, name)
    return replace(found, tensors=tensors, layout=layout)


def _with_companions(name: str, place: Path | None) -> Checkpoint:
    """place: the folder whose files speak of these weights; None: they stand alone."""
    beside = companions.Companions() if place is None else companions.read(place)
    if beside.refusal is not None:
        raise Refused(beside.refusal)
    found = _weights(name)
    tensors, metadata = found.tensors, found.metadata | beside.metadata
    if layouts.is_normed(found.layout, tensors, beside.folded):
        metadata[EMBEDDING] = NORMED
    if metadata.get(EMBEDDING) == NORMED:
        tensors = {n: t for n, t in tensors.items() if n not in layouts.FIRST_NORM}
    length = found.metadata.get(CONTEXT_LENGTH, "")
    names = [Path(found.path).stem] + ([] if place is None else [place.resolve().name])
    told = [
        int(length) if length.isascii() and length.isdigit() and len(length) < 10 else None,
        beside.context_length,
        *map(companions.context_in, names),
    ]
    return replace(
        found,
        tensors=tensors,
        metadata=metadata,
        context_length=next((n for n in told if n), None),
    )


def _cached(fd: int, size: int) -> bool:
    """Whether the system holds at least half of a file, by eight places of it."""
    held = 0
    for i in range(8):
        try:
            os.preadv(fd, [bytearray(1)], size * i // 8, os.RWF_NOWAIT)
            held += 1
        except BlockingIOError:
            pass
        except OSError:  # a file system that cannot say
            return True
    return held >= 4


def _container(name: str) -> tuple[Checkpoint, dict[str, set[str]] | None]:
    """One file as it is; or, for an index of several, the tensors that it expects in each."""
    if not stat.S_ISREG(Path(name).stat().st_mode):  # opening a pipe would wait for its other end
        raise Refused("is a device or pipe, not a checkpoint file")
    with Path(name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(16)
        if head.startswith(b"PK\x03\x04"):
            cached = _cached(file.fileno(), size)
            found = Checkpoint(name, pth.read_zip(file, name, size), format="pth")
            if not cached:
                # The index lies in pieces all over the file. Left in the cache, they would cut the
                # engine's reading of what lies between into small pieces: 0.34 s in place of 0.22.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return found, None
        if pth.is_legacy(head):
            return Checkpoint(name, pth.read_legacy(file, name, size), format="pth (legacy)"), None
        if head.startswith(gguf.MAGIC):
            return _gguf(file, name, size), None
        if name.endswith(".json") and head.lstrip().startswith(b"{"):
            file.seek(0)
            return Checkpoint(name, {}), folder.shards(file.read(folder.MAX_INDEX + 1))
        if len(head) > 8 and head[8:9] == b"{":
            tensors, metadata = safetensors.read(file, name, size)
            return Checkpoint(name, tensors, metadata, "safetensors"), None
    raise Refused(foreign.of_bytes(head))


def _gguf(file: BinaryIO, name: str, size: int) -> Checkpoint:
    contents = gguf.read(file, name, size)
    layout, tensors = layouts.from_gguf(contents)
    return Checkpoint(
        name, tensors, gguf.facts(contents), "gguf", layout, gguf.tokens(contents.values)
    )


def _sharded(index: Checkpoint, names: dict[str, set[str]]) -> Checkpoint:
    """Several files as one checkpoint; `index` gives the path that errors and users see."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    kinds = set()
    for file, expected in sorted(names.items()):
        path = str(Path(index.path).with_name(file))
        try:
            found, nested = _container(path)
        except Refused as refusal:
            raise Refused(f"its file {file}: {refusal}") from None
        if nested is not None or found.format == "gguf":
            raise Refused(f"its file {file} is neither a .pth nor a .safetensors file")
        if found.tensors.keys() != expected:
            odd = min(found.tensors.keys() ^ expected)
            place = "does not hold" if odd in expected else "holds, unknown to the index,"
            raise Refused(f"its file {file} {place} the tensor {odd!a}")
        tensors |= found.tensors
        metadata |= found.metadata
        kinds.add(found.format)
    layout, tensors = layouts.official(tensors, index.path)
    kind = f"{' and '.join(sorted(kinds))}, {len(names)} files"
    return replace(index, tensors=tensors, metadata=metadata, format=kind, layout=layout)
