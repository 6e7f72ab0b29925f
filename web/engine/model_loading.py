"""What to load, how much memory that takes, and why it failed, in words that clients know.

Called by `web/engine/model_host.py`, in threads where a file is read. Knows nothing of requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.printable import printable
from web.config import Config

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
    adapted: bool = False  # with the configured adapter, which no other model has

    @property
    def name(self) -> str:
        """The file's name without its extension, links not followed; in letters that any answer
        can hold."""
        given = Path(self.said)
        return printable(given.stem if given.suffix.lower() in _EXTENSIONS else given.name)


def configured_adapter(config: Config) -> rn.Adapter | None:
    """What the settings merge into the configured model."""
    if config.adapter is None:
        if config.adapter_alpha or config.adapter_init is not None:
            raise rn.InvalidError("adapter_alpha and adapter_init belong to an adapter")
        return None
    return rn.Adapter(config.adapter, config.adapter_alpha or None, config.adapter_init)


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
        if choice.adapted and types:  # 16 bits do not hold what fp32 makes of them
            own = 4.0
        large = len(tensor.shape) == 2 and tensor.name != "emb.weight"
        total += tensor.count * min(own, matrices if large else plain)
    return int(total) + _BESIDES


def available() -> int:
    """Bytes that this process may still take: what the machine has, and what its cgroups allow."""
    table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(table["MemAvailable"].split()[0]) << 10
    return min([free, *left_by_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


# Files of a group: its limit, its use, and in its memory.stat pages of files that the kernel would
# give back. Version 1 writes "no limit" as a number larger than any memory.
_UNIFIED = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def left_by_cgroups(own: Path, root: Path) -> list[int]:
    """Bytes that each group with a limit leaves: that of the process and those around it.

    own: the process's /proc/.../cgroup; root: where the file systems of groups are mounted. Both
    versions of groups are read. A container sees its own group of version 1 as the root, under
    another name than `own` has; what is not there is passed over.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    left = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            top, (limit, used, inactive) = root, _UNIFIED
        elif "memory" in controllers.split(","):
            top, (limit, used, inactive) = root / "memory", _VERSION_1
        else:
            continue
        inner = top / path.strip().lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            try:
                most = (folder / limit).read_text().strip()
                if most == "max":
                    continue
                stat = dict(
                    line.split() for line in (folder / "memory.stat").read_text().splitlines()
                )
                left.append(int(most) - int((folder / used).read_text()) + int(stat[inactive]))
            except (OSError, KeyError):  # a group without this controller
                continue
    return left


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
