"""Adapters: what fine-tuning has changed of a checkpoint, merged into it while it is read.

Owns the spellings of peft (LoRA, DoRA, MiSS, Bone) and of RWKV-PEFT (LoRA, PiSSA, Bone, DiSHA), and
what must be known beside a file to merge it. Called by model.py, convert.py and the command line.
Never computes: the engine changes rows as it reads them (native/src/weights/change.h), convert.py
by the same function.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import checkpoint
from .checkpoint import Checkpoint
from .errors import CheckpointError, InvalidError
from .formats import layouts
from .formats.tensor import Change, Refused, Tensor
from .printable import printable

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MAX_CONFIG = 1 << 20

# The tensors of an adapter: what they belong to, and what they are.
_KEY = re.compile(
    r"(?P<module>.+)\.(?:"
    r"(?P<lora>lora_[AB])(?:\.default)?(?:\.weight)?"
    r"|init_(?P<init>lora_[AB])"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.default)?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r"|(?P<blocks>bone_block|miss_block)(?:\.default)?"
    r"|(?P<shards>bone|disha)"
    r")"
)
_SAVED = re.compile(r"(.+)\.modules_to_save(?:\.default)?\.(weight|bias)")
_WEB_RWKV = re.compile(r"\.lora\.[01]$")
# Large matrices and the embedding: what the engine reads row by row.
_CHANGEABLE = re.compile(
    r"(emb|head)\.weight"
    r"|blocks\.\d+\.(att\.(receptance|key|value|gate|output)|ffn\.(key|value|receptance))\.weight"
)
# Starts of init_lora_weights for which peft takes the adapter's first values out of the base.
_RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Settings of peft's that change what its tensors mean.
_FOREIGN_SETTINGS = (
    "alora_invocation_tokens",
    *("arrow_config", "fan_in_fan_out", "kasa_config", "layer_replication", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's file and what it does not say itself.

    path: a file of RWKV-PEFT (.pth) or a folder of peft (adapter_config.json beside
    adapter_model.safetensors). alpha: of a LoRA whose file does not tell it; the change is
    alpha / rank * B A. init: for PiSSA and its kin, the first values of the adapter, which training
    has taken out of the base: a file `init_pissa.pth`, or a folder of peft.
    """

    path: str | os.PathLike[str]
    alpha: float | None = None
    init: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        alpha = self.alpha
        if alpha is not None and not (
            isinstance(alpha, (int, float)) and math.isfinite(alpha) and alpha > 0
        ):
            raise InvalidError(f"an adapter's alpha must be a number above 0, not {alpha!r:.80}")
        if alpha is not None and self.init is not None:
            raise InvalidError("an adapter with first values has no alpha; give one of the two")


def is_one(names: Iterable[str]) -> bool:
    """Whether tensors of these names change others."""
    return any(_KEY.fullmatch(name) for name in names)


def merged(found: Checkpoint, adapter: Adapter | str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint with an adapter's changes, which take effect where its tensors are read.

    Raises CheckpointError that names the adapter's tensor that does not fit, FileNotFoundError,
    or another OSError.
    """
    given = adapter if isinstance(adapter, Adapter) else Adapter(adapter)
    name = os.fsdecode(given.path)
    try:
        return _merged(found, given, name)
    except Refused as refusal:
        raise CheckpointError(f"{name}: {refusal!s:.600}") from None


def _merged(found: Checkpoint, given: Adapter, name: str) -> Checkpoint:
    file, config = _opened(name)
    tensors = checkpoint.as_it_is(file)
    parts, others = _parts(tensors)
    if not parts:
        raise Refused("holds no adapter: no lora_A, bone, disha or miss_block among its tensors")
    if any(".init_lora_" in key for key in tensors):
        raise Refused("holds the first values of a PiSSA: they belong to --adapter-init")
    _check(config, given.init is not None)
    rule = _Rule(config, given.alpha, plain=given.init is not None)
    first, first_rule = dict[str, _Module](), rule
    if given.init is not None:
        start, settings = _opened(os.fsdecode(given.init))
        first, _ = _parts(checkpoint.as_it_is(start))
        first_rule = _Rule(settings, None, plain=True)
    # Names of the modules and of the other tensors become official together.
    stand_ins = {f"{m}.weight": _stand_in(f"{m}.weight", i) for i, m in enumerate(parts)}
    if twice := stand_ins.keys() & others.keys():
        raise Refused(f"holds both the tensor {printable(min(twice), 80)!r} and a change of it")
    _, named = layouts.official(stand_ins | others, "")
    modules = list(parts.values())
    changes: dict[str, tuple[Change, ...]] = {}
    result = dict(found.tensors)
    for target, tensor in named.items():
        if tensor.path:  # a tensor of its own, in place of the base's
            result[target] = _in_place(tensor, found.tensors.get(target))
            continue
        module = modules[tensor.offset]
        base = _target(found.tensors, target, module.name)
        made = _changes(module, base, rule)
        if given.init is not None:
            made = _without_first(made, module, first.get(module.name), base, first_rule)
        changes[target] = tuple(made)
    if odd := first.keys() - parts.keys():
        raise Refused(f"its first values hold {printable(min(odd), 80)!r}, which it lacks")
    metadata = found.metadata | {"rwkv.adapter": printable(Path(name).name, 200)}
    return replace(found, tensors=result, metadata=metadata, changes=changes)


def _opened(name: str) -> tuple[str, dict[str, Any]]:
    """The file of an adapter's tensors, and peft's settings, if there are some."""
    place = Path(name)
    if place.is_dir():
        file = next((place / w for w in WEIGHTS if (place / w).is_file()), None)
        if file is None:
            raise Refused(f"is a folder without {' or '.join(WEIGHTS)}")
        return str(file), _settings(place / CONFIG, needed=True)
    return name, _settings(place.with_name(CONFIG)) if place.name in WEIGHTS else {}


def _settings(path: Path, needed: bool = False) -> dict[str, Any]:
    if not needed and not path.is_file():
        return {}
    try:
        raw = path.read_bytes() if path.stat().st_size <= _MAX_CONFIG else b""
        found = json.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        raise Refused(f"has no {CONFIG} beside it, which tells what its tensors mean") from None
    except (ValueError, RecursionError):
        raise Refused(f"its {CONFIG} is not valid JSON") from None
    if type(found) is not dict:
        raise Refused(f"its {CONFIG} is not an object")
    return found


# -- which tensors belong together


@dataclass(slots=True)
class _Module:
    """The tensors of one changed matrix."""

    name: str
    kinds: dict[str, Tensor]

    def take(self, *kinds: str) -> tuple[Tensor, ...] | None:
        """These tensors, all or none."""
        found = [k for k in kinds if k in self.kinds]
        if found and len(found) < len(kinds):
            missing = next(k for k in kinds if k not in self.kinds)
            raise Refused(f"has {self.kinds[found[0]].name!a} without its {missing}")
        return tuple(self.kinds[k] for k in kinds) if found else None


def _parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, _Module], dict[str, Tensor]]:
    """What changes matrices, by their modules; and tensors that stand in place of the base's."""
    modules: dict[str, _Module] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in layouts.without_prefix(dict(tensors)).items():
        if _WEB_RWKV.search(name):
            raise Refused(
                f"holds {name!a}: a LoRA as web-rwkv has it, which is not read; give the .pth"
            )
        key = _KEY.fullmatch(name)
        if key is None:
            plain = _SAVED.sub(r"\1.\2", name)
            others[plain] = tensor.renamed(plain)
            continue
        kind = next(
            {"embedding": f"embedding_{v}"}.get(k, v)
            for k, v in key.groupdict().items()
            if v is not None and k != "module"
        )
        module = modules.setdefault(key["module"], _Module(key["module"], {}))
        if kind in module.kinds:
            raise Refused(f"two tensors stand for the {kind} of {key['module']!a}")
        module.kinds[kind] = tensor
    return modules, others


def _stand_in(name: str, number: int) -> Tensor:
    """Takes a module's place while names become official; has no file."""
    return Tensor(name, "F32", (1, 1), (1, 1), "", number, 4)


def _target(tensors: Mapping[str, Tensor], name: str, module: str) -> Tensor:
    base = tensors.get(name)
    if base is None:
        raise Refused(f"changes {module!a}, and the checkpoint has no tensor {name!a}")
    if not _CHANGEABLE.fullmatch(name) or len(base.shape) != 2:
        raise Refused(f"changes {module!a}; only large matrices and the embedding can be changed")
    if base.kind != "plain":
        raise Refused(
            f"changes {module!a}, which the checkpoint holds {base.kind} ({base.dtype}); give the"
            " checkpoint that it was made of"
        )
    return base


def _in_place(tensor: Tensor, base: Tensor | None) -> Tensor:
    if base is None:
        if tensor.name.endswith(".att.time_state"):  # tuned beside the adapter
            return tensor
        raise Refused(f"holds {tensor.name!a}, which the checkpoint does not have")
    if tensor.count != base.count or [n for n in tensor.shape if n > 1] != [
        n for n in base.shape if n > 1
    ]:
        raise Refused(
            f"holds {tensor.name!a} of the shape {list(tensor.shape)}; the checkpoint's is"
            f" {list(base.shape)}"
        )
    if tensor.shape == base.shape:
        return tensor
    return tensor.reshaped(*base.shape)


# -- what they mean


def _check(config: dict[str, Any], has_first: bool) -> None:
    """Refuses what peft's settings say that is not read."""
    kind = config.get("peft_type")
    if config and kind not in ("LORA", "MISS", "BONE"):
        raise Refused(
            f"is an adapter of the type {printable(kind, 40)}; read are LORA, MISS and BONE"
        )
    for name in _FOREIGN_SETTINGS:
        if config.get(name):
            raise Refused(f"was trained with {name}, which is not read")
    start = config.get("init_lora_weights")
    if type(start) is str and start.lower().startswith(_RESIDUAL) and not has_first:
        raise Refused(
            f"was started by {printable(start, 40)}, which has changed the base, too: give the"
            " adapter's first values (--adapter-init), or save it as a plain LoRA"
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the product of two factors is multiplied by."""

    config: dict[str, Any]  # peft's settings; {} of a file of RWKV-PEFT
    alpha: float | None
    plain: bool  # a file that tells no alpha has none: PiSSA

    def scale(self, module: str, rank: int) -> float:
        told: Any = self.alpha
        if told is None and self.config:
            pattern = self.config.get("alpha_pattern")
            told = _of_pattern(pattern, module, self.config.get("lora_alpha"))
        if told is None and self.plain:
            return 1.0
        if told is None:
            raise Refused(
                "is a LoRA whose file does not tell its alpha; give it (--adapter-alpha). A PiSSA"
                " needs its first values in place of it (--adapter-init init_pissa.pth)"
            )
        if type(told) not in (int, float) or not math.isfinite(told):
            raise Refused(f"its lora_alpha is no number: {printable(told, 40)}")
        return float(told) / (math.sqrt(rank) if self.config.get("use_rslora") is True else rank)


def _of_pattern(pattern: Any, module: str, otherwise: Any) -> Any:
    """peft's own rule: a key is an expression for the end of a module's name."""
    for key, value in pattern.items() if type(pattern) is dict else ():
        if module == key or module.endswith(f".{key}"):
            return value
        if re.escape(key) != key.replace(".", r"\."):
            raise Refused(f"its alpha_pattern has the expression {printable(key, 80)!r}")
    return otherwise


def _changes(module: _Module, base: Tensor, rule: _Rule) -> list[Change]:
    out, columns = base.shape
    made = _low_rank(module, out, columns, rule)
    if (found := module.take("lora_magnitude_vector")) is not None:
        (vector,) = found
        _fits(vector, (out,), base)
        if not made or "embedding_A" in module.kinds:
            raise Refused(f"holds {vector.name!a} where there is no LoRA of a matrix")
        made.append(Change("magnitude", vector))
    for kind in ("bone", "disha", "bone_block", "miss_block"):
        if (found := module.take(kind)) is not None:
            made.append(_blocks(found[0], kind.endswith("_block"), base, rule.config))
    if len(made) > 1 and {c.kind for c in made} != {"low_rank", "magnitude"}:
        raise Refused(f"changes {module.name!a} in more than one way")
    return made


def _without_first(
    made: list[Change], module: _Module, first: _Module | None, base: Tensor, rule: _Rule
) -> list[Change]:
    """With the first values taken out, as training has taken them out of the base."""
    out, columns = base.shape
    if first is None or made[0].kind != "low_rank":
        raise Refused(f"changes {module.name!a}, and its first values do not hold it")
    before = [replace(c, scale=-c.scale) for c in _low_rank(first, out, columns, rule)]
    return [made[0], *before, *made[1:]]


def _low_rank(module: _Module, out: int, columns: int, rule: _Rule) -> list[Change]:
    if (pair := module.take("lora_A", "lora_B")) is not None:
        a, b = pair
    elif (pair := module.take("embedding_A", "embedding_B")) is not None:
        a, b = pair[1].swapped(), pair[0].swapped()
    else:
        return []
    rank = a.shape[0] if len(a.shape) == 2 else 0
    for tensor, shape in ((a, (rank, columns)), (b, (out, rank))):
        if tensor.shape != shape or rank < 1:
            raise Refused(
                f"has {tensor.name!a} of the shape {list(tensor.shape)}, which does not fit a"
                f" matrix [{out}, {columns}]" + (f" and a rank of {rank}" if rank else "")
            )
    return [Change("low_rank", a, b, rule.scale(module.name, rank))]


def _fits(tensor: Tensor, shape: tuple[int, ...], base: Tensor) -> None:
    if tensor.shape != shape:
        raise Refused(
            f"has {tensor.name!a} of the shape {list(tensor.shape)}; for {base.name!a},"
            f" {list(base.shape)}, it should be {list(shape)}"
        )


def _blocks(tensor: Tensor, of_peft: bool, base: Tensor, config: dict[str, Any]) -> Change:
    """Bone and MiSS [r, out], which repeats over the inputs; Bat [blocks, r, r].

    The blocks of Bat are those of a row in RWKV-PEFT, one for each r inputs, and those of a column
    in peft, one for each r outputs.
    """
    out, columns = base.shape
    if len(tensor.shape) == 3:
        rank = tensor.shape[2]
        if rank < 1 or out % rank or columns % rank:
            rank = 1
        _fits(tensor, ((out if of_peft else columns) // rank, rank, rank), base)
        return Change("bat_rows" if of_peft else "bat_columns", tensor)
    width = out
    if config.get("init_weights") == "mini":
        mini = config.get("mini_r")
        if type(mini) is not int or mini < 1 or out % mini:
            raise Refused(f"its mini_r, {printable(mini, 40)}, does not divide {out}")
        width = mini
    rank = tensor.shape[0] if len(tensor.shape) == 2 else 1
    _fits(tensor, (rank, width), base)
    return Change("shard", tensor)
