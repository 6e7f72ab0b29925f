"""What to load, how much memory that takes, and why it failed, in words that clients know.

Called by `web/runtime.py`, in threads where a file is read. Knows nothing of requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import rwkv_native as rn
from rwkv_native import checkpoint

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
        """The file's name without its extension, links not followed."""
        given = Path(self.said)
        return given.stem if given.suffix.lower() in _EXTENSIONS else given.name


def needed(choice: Choice) -> int:
    """Bytes that the model will take, from its file's index. Raises as rn.Model.load does."""
    types = _TYPE.findall(choice.strategy)
    plain = max((_BYTES[kind] for kind, _ in types), default=4.0)
    matrices = max((_QUANTISED_BYTES.get(q, _BYTES[kind]) for kind, q in types), default=4.0)
    total = 0.0
    for tensor in checkpoint.read(choice.path).tensors.values():
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


def reason(problem: Exception, choice: Choice) -> str:
    """Why a load failed. RWKV Runner's clients look for some of these words, to explain them."""
    text = str(problem)
    if isinstance(problem, FileNotFoundError) and choice.path in text:
        return f"[Errno 2] No such file or directory: '{choice.said}'"
    if isinstance(problem, MemoryError):
        text = f"not enough memory: {text}"
    elif isinstance(problem, rn.UnsupportedError) and "the device cuda" in text:
        text = f"not compiled with CUDA: {text}"
    elif isinstance(problem, rn.CheckpointError):
        text = f"invalid header or archive is corrupted: {text}"
    elif is_fault(problem):
        text = f"unexpected {type(problem).__name__}"  # the log has the rest
    text = text.replace(choice.path, choice.said)
    tokenizer = choice.tokenizer
    return text.replace(tokenizer, Path(tokenizer).name) if tokenizer else text


def is_fault(problem: Exception) -> bool:
    """Whether nobody said this on purpose: the log then shows where it came from."""
    return not isinstance(problem, (rn.Error, OSError, MemoryError))
