"""What to load, how much memory that takes, and why it failed, in words that clients know.

Called by `web/runtime.py`, in threads where a file is read. Knows nothing of requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.printable import printable

_EXTENSIONS = frozenset({".pth", ".safetensors", ".st", ".gguf", ".json"})

_TYPE = re.compile(r"(fp32|fp16|bf16)(i8|i4)?")
_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0}
_QUANTISED_BYTES = {"i8": 1.1, "i4": 0.6}  # scales included
_BESIDES = 64 << 20  # bytes of an engine without its weights: buffers, states, pages half used


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that somebody asked for."""

    path: str
    said: str  # the path as it was given; what messages may show
    strategy: str = "auto"
    tokenizer: str | None = None  # name or path

    @property
    def name(self) -> str:
        """The file's name without its extension, links not followed; in letters that any answer
        can hold."""
        given = Path(self.said)
        return printable(given.stem if given.suffix.lower() in _EXTENSIONS else given.name)


def needed(choice: Choice) -> int:
    """Bytes that the model will take, from its file's index. Raises as rn.Model.load does."""
    types = _TYPE.findall(choice.strategy)
    plain = max((_BYTES[kind] for kind, _ in types), default=4.0)
    matrices = max((_QUANTISED_BYTES.get(q, _BYTES[kind]) for kind, q in types), default=4.0)
    total = 0.0
    tensors = checkpoint.read(choice.path).tensors
    if all(name.endswith("time_state") for name in tensors):
        raise rn.CheckpointError(
            f"{choice.path}: is a tuned state, not a model: name it in the field `state`"
        )
    for tensor in tensors.values():
        # 16-bit types are never widened, and the embedding stays as it is. The matrices of a
        # quantised file keep their format under "auto", and are widened where none is named.
        kind = tensor.dtype.removeprefix("PACKED_")
        own = checkpoint.DTYPES.get(kind, 4.0 if types else _QUANTISED_BYTES["i8"])
        large = len(tensor.shape) == 2 and tensor.name != "emb.weight"
        total += tensor.count * min(own, matrices if large else plain)
    return int(total) + _BESIDES


def available() -> int:
    """Bytes that this process may still take: what the machine has, and what its cgroups allow."""
    table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(table["MemAvailable"].split()[0]) << 10
    for folder in _cgroups():
        try:
            most = (folder / "memory.max").read_text().strip()
            if most == "max":
                continue
            used = int((folder / "memory.current").read_text())
            # Pages of files that the kernel would give back.
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free = min(free, int(most) - used + int(stat["inactive_file"]))
        except (OSError, KeyError):  # version 1, or a group without a limit
            continue
    return free


def _cgroups() -> list[Path]:
    """The folders of this process's cgroup and of those around it."""
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::")[2].split("\n")[0]
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    inner = root / own.strip().lstrip("/")
    return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]


def too_little(wanted: int, free: int) -> MemoryError:
    return MemoryError(f"the model needs {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a load failed."""

    message: str
    detail: str  # the same with words that RWKV Runner's clients look for, to explain them
    param: str | None  # of /switch-model, where another request could succeed; None: it is ours


def failure(problem: Exception, choice: Choice) -> Failure:
    """What to tell of a load that has ended so."""
    text, param, known = str(problem), None, ""
    if isinstance(problem, FileNotFoundError) and choice.path in text:
        said = printable(choice.said)
        return Failure(
            f"there is no file {said!r}", f"[Errno 2] No such file or directory: {said!r}", "model"
        )
    if isinstance(problem, MemoryError):
        text = f"not enough memory: {text}"
    elif is_fault(problem):
        text = f"unexpected {type(problem).__name__}"  # the log has the rest
    elif isinstance(problem, FileNotFoundError) or not isinstance(problem, OSError):
        param = _field(problem, text, choice)
        if isinstance(problem, rn.UnsupportedError) and "the device cuda" in text:
            known = "not compiled with CUDA: "
        elif isinstance(problem, rn.CheckpointError) and not _SOUND.search(text):
            known = "invalid header or archive is corrupted: "
    text = text.replace(choice.path, choice.said)
    if choice.tokenizer:
        text = text.replace(choice.tokenizer, Path(choice.tokenizer).name)
    text = printable(text)
    return Failure(text, known + text, param)


# Of files that are whole, but no model that could be loaded.
_SOUND = re.compile("is a folder|tuned state|not the tensors of|is a device or pipe")


def _field(problem: Exception, text: str, choice: Choice) -> str:
    """The field of a request that asked for what cannot be."""
    if choice.tokenizer and choice.tokenizer in text:
        return "tokenizer"
    if isinstance(problem, (rn.CheckpointError, FileNotFoundError)):
        return "model"
    if "strategy" in text or "the device " in text:
        return "strategy"
    return "tokenizer" if "tokenizer" in text or "vocabulary" in text else "model"


def is_fault(problem: Exception) -> bool:
    """Whether nobody said this on purpose: the log then shows where it came from."""
    return not isinstance(problem, (rn.Error, OSError, MemoryError))
