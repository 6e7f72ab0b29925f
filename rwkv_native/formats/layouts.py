"""How the same weights are named elsewhere: every layout becomes the official one, by views.

Owns the tables of names and the signs by which a layout is told. Called by checkpoint.py after a
container has been read. Never copies a weight: a transposed matrix is one with exchanged strides, a
fused one is taken apart by offsets, and a factor goes into the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from . import foreign
from .gguf import Contents
from .tensor import Refused, Tensor

Tensors = dict[str, Tensor]

OFFICIAL = "official"
WEB_RWKV = "web-rwkv .st"
FLA = "flash-linear-attention"
HF_RWKV = "HuggingFace rwkv"
HF_RWKV7 = "HuggingFace rwkv7"

FIRST_NORM = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")

# What trainers put in front of every name (taken off while all names share one).
PREFIXES = ("_forward_module.", "module.", "model.", "base_model.model.")
# What torch puts into names, anywhere, for a module that it compiles or shards.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def without_prefix(tensors: Tensors) -> Tensors:
    """Takes out what wrappers put into names: anywhere, or at the start of all; they may be nested.

    Only where something is left of every name.
    """
    if any(_WRAPPERS.search(n) for n in tensors):
        tensors = _renamed(tensors, lambda name: _WRAPPERS.sub("", name))
    cut = 0
    names = list(tensors)
    for _ in range(4):
        found = next((p for p in PREFIXES if all(n.startswith(p, cut) for n in names)), "")
        cut += len(found)
    return _renamed(tensors, lambda name: name[cut:]) if cut else tensors


def official(tensors: Tensors, path: str) -> tuple[str, Tensors]:
    """The layout that the names show, and the tensors by official names."""
    tensors = without_prefix(tensors)
    if (refusal := foreign.architecture(tensors)) is not None:
        raise Refused(refusal)
    if any(n.startswith(("model.layers.", "layers.")) for n in tensors):
        return FLA, _from_fla(tensors)
    if any(".attention." in n for n in tensors) and any("blocks." in n for n in tensors):
        return HF_RWKV, _renamed(tensors, _hf_name)
    if any(_HF_7_SIGN.search(n) for n in tensors):
        return HF_RWKV7, _from_hf_7(tensors)
    return _from_web_rwkv(tensors, path)


def _renamed(tensors: Tensors, name: Callable[[str], str]) -> Tensors:
    out: Tensors = {}
    for tensor in tensors.values():
        _put(out, tensor.renamed(name(tensor.name)))
    return out


def _put(out: Tensors, tensor: Tensor) -> None:
    if tensor.name in out:
        raise Refused(f"two tensors stand for {tensor.name!a}")
    out[tensor.name] = tensor


# -- HuggingFace "rwkv", versions 4 to 6

_HF_PARTS = (
    (re.compile(r"^rwkv\."), ""),
    (re.compile(r"^embeddings\."), "emb."),
    (re.compile(r"\.attention\."), ".att."),
    (re.compile(r"\.feed_forward\."), ".ffn."),
    (re.compile(r"\.pre_ln\."), ".ln0."),
    (re.compile(r"\.time_mix_key$"), ".time_mix_k"),
    (re.compile(r"\.time_mix_value$"), ".time_mix_v"),
    (re.compile(r"\.time_mix_receptance$"), ".time_mix_r"),
    (re.compile(r"\.time_mix_gate$"), ".time_mix_g"),
)


def _hf_name(name: str) -> str:
    for pattern, official_part in _HF_PARTS:
        name = pattern.sub(official_part, name)
    return name


# -- HuggingFace "rwkv7": official names in blocks, of two spellings

_HF_7_PREFIX = re.compile(r"^(?:rwkv7|model)\.(?=(?:blocks|emb|embeddings|ln_out)\.)")
_HF_7_FACTOR = re.compile(r"(\.att\.[wavg][12])\.weight$")
_HF_7_SIGN = re.compile(
    rf"^(?:rwkv7|model)\.(?:blocks|emb|embeddings|ln_out)\.|^embeddings\.|{_HF_7_FACTOR.pattern}"
)


def _from_hf_7(tensors: Tensors) -> Tensors:
    """Low-rank factors are raw, as the official ones, or a Linear's weight and then transposed."""
    linear = any(_HF_7_FACTOR.search(n) for n in tensors)

    def name(given: str) -> str:
        given = _HF_7_PREFIX.sub("", given)
        return _HF_7_FACTOR.sub(r"\1", re.sub(r"^embeddings\.", "emb.", given))

    named = _renamed(tensors, name)
    return _swapped(named, _LOW_RANK_7) if _is_transposed_7(named, linear) else named


def is_normed(layout: str, tensors: Mapping[str, Tensor], folded: bool | None) -> bool:
    """Whether the rows of the embedding have gone through blocks.0.ln0.

    folded: what config.json says. Without its word, a norm of nothing but ones and zeros is what a
    converter left behind that had folded it: no trained one is.
    Raises Refused for a norm that is neither there nor said to be folded in.
    """
    if layout != HF_RWKV7:
        return False
    found = [tensors[name] for name in FIRST_NORM if name in tensors]
    if folded is None and len(found) == 2 and all(t.count <= 1 << 20 for t in found):
        weight, bias = (t.to_numpy() for t in found)
        folded = bool((weight == 1).all() and (bias == 0).all())
    if not folded and "emb.weight" in tensors and not found:
        raise Refused(
            f"{FIRST_NORM[0]} is missing, and there is no config.json beside it that says that the"
            " embedding holds it (embedding_layer_norm_fused)"
        )
    return bool(folded)


# -- flash-linear-attention, version 7

_FLA_TOP = {
    "embeddings.weight": "emb.weight",
    "norm.weight": "ln_out.weight",
    "norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}
_FLA_LAYER = re.compile(r"^layers\.(\d{1,6})\.(.+)$")
_FLA_PARTS = {
    "pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2", "attn.g_norm": "att.ln_x",
    "attn.r_proj": "att.receptance", "attn.k_proj": "att.key", "attn.v_proj": "att.value",
    "attn.o_proj": "att.output", "ffn.key": "ffn.key", "ffn.value": "ffn.value",
}  # fmt: skip
_FLA_LOW_RANK = re.compile(r"^attn\.([wavg])_lora\.lora\.(0\.weight|2\.weight|2\.bias)$")
LERP_7 = "rwkvag"  # the order of a fused x_x


def _from_fla(tensors: Tensors) -> Tensors:
    out: Tensors = {}
    for tensor in tensors.values():
        name = tensor.name.removeprefix("model.")
        layer = _FLA_LAYER.match(name)
        if layer is None:
            _put(out, tensor.renamed(_FLA_TOP.get(name, name)))
            continue
        block, part = f"blocks.{layer[1]}.", layer[2]
        stem, _, leaf = part.rpartition(".")
        if part == "attn.x_x":
            for i, letter in enumerate(LERP_7):
                row = tensor.part(i, len(LERP_7))
                _put(out, row.renamed(f"{block}att.x_{letter}"))
        elif low_rank := _FLA_LOW_RANK.match(part):
            letter, which = low_rank[1], low_rank[2]
            if which == "2.bias":
                _put(out, tensor.renamed(f"{block}att.{letter}0"))
            else:
                number = 1 if which[0] == "0" else 2
                _put(out, tensor.swapped().renamed(f"{block}att.{letter}{number}"))
        elif stem in _FLA_PARTS:
            _put(out, tensor.renamed(f"{block}{_FLA_PARTS[stem]}.{leaf}"))
        else:  # attn.x_r, attn.k_k, attn.r_k, ffn.x_k; anything else will be refused by its name
            _put(out, tensor.renamed(block + re.sub(r"^attn\.", "att.", part)))
    return out


# -- web-rwkv's .st

_LOW_RANK_7 = re.compile(r"\.att\.[wavg][12]$")
_LOW_RANK_6 = re.compile(r"\.att\.(time_mix|time_decay)_w[12]$")
_TIME_MIX = re.compile(r"\.time_mix_")
_TIME_FIRST = re.compile(r"\.att\.time_first$")
_DECAY = "blocks.0.att.time_decay"
_TIME_STATE = re.compile(r"\.att\.time_state$")


def _from_web_rwkv(tensors: Tensors, path: str) -> tuple[str, Tensors]:
    """Official names, as they are or as web-rwkv's converter leaves them.

    The converter makes all tensors F16, renames those of versions 5 and 6, and exchanges the last
    two dimensions of low-rank matrices and tuned states. Nothing in its files says so.
    """
    names = set(tensors)
    half = all(t.dtype == "F16" for t in tensors.values())
    suffix = path.endswith(".st")
    if all(_TIME_STATE.search(n) for n in names):  # a tuned state: only the suffix tells
        return (
            (WEB_RWKV, _swapped(tensors, _TIME_STATE)) if suffix and half else (OFFICIAL, tensors)
        )
    first = tensors.get("blocks.0.att.time_first")
    if {"blocks.0.att.time_mix_w1", "blocks.0.att.time_mix_x"} & names:  # 6, whatever the type
        tensors = _swapped(tensors, _LOW_RANK_6)
        tensors = _replaced(tensors, _TIME_MIX, ".time_maa_")
        tensors = _replaced(tensors, _TIME_FIRST, ".att.time_faaaa")
    elif "blocks.0.att.r_k" in names:
        if not _is_transposed_7(tensors, half and suffix):
            return OFFICIAL, tensors
        tensors = _swapped(tensors, _LOW_RANK_7)
    elif "blocks.0.att.ln_x.weight" in names and half and first is not None:
        # Version 5. The converter calls time_faaaa time_first, which means its exponential in the
        # official files; there it is one number per head.
        if len(first.shape) == 2 and first.shape[1] > 1:
            tensors = _replaced(tensors, _TIME_FIRST, ".att.time_faaaa")
        elif suffix and (decay := tensors.get(_DECAY)) is not None and len(decay.shape) == 1:
            raise Refused(
                "is a .st file of RWKV-5.0, in which time_first can mean two things;"
                " give the original .pth"
            )
        else:
            return OFFICIAL, tensors
    else:
        return OFFICIAL, tensors
    return WEB_RWKV, _swapped(tensors, _TIME_STATE)


def _is_transposed_7(tensors: Tensors, likely: bool) -> bool:
    """Whether the low-rank matrices are [rank, D] and [D, rank]; `likely` where they are square."""
    emb = tensors.get("emb.weight")
    width = emb.shape[-1] if emb is not None else 0
    for name, tensor in tensors.items():
        if _LOW_RANK_7.search(name) and len(tensor.shape) == 2:
            rows, columns = tensor.shape
            if name.endswith("2"):
                rows, columns = columns, rows
            if rows != columns and width in (rows, columns):
                return rows != width
    return likely


def _swapped(tensors: Tensors, pattern: re.Pattern[str]) -> Tensors:
    return {n: t.swapped() if pattern.search(n) else t for n, t in tensors.items()}


def _replaced(tensors: Tensors, pattern: re.Pattern[str], by: str) -> Tensors:
    return _renamed(tensors, lambda name: pattern.sub(by, name))


# -- GGUF, versions 6 and 7

_GGUF_TOP = {
    "token_embd.weight": "emb.weight",
    "token_embd_norm.weight": "blocks.0.ln0.weight",
    "token_embd_norm.bias": "blocks.0.ln0.bias",
    "output_norm.weight": "ln_out.weight",
    "output_norm.bias": "ln_out.bias",
    "output.weight": "head.weight",
}
_GGUF_LAYER = re.compile(r"^blk\.(\d{1,6})\.(.+)\.(weight|bias)$")
# Of both versions; these keep their .weight and .bias.
_GGUF_PARTS = {
    "attn_norm": "ln1", "attn_norm_2": "ln2", "time_mix_ln": "att.ln_x",
    "time_mix_receptance": "att.receptance", "time_mix_key": "att.key",
    "time_mix_value": "att.value", "time_mix_output": "att.output", "time_mix_gate": "att.gate",
    "channel_mix_key": "ffn.key", "channel_mix_value": "ffn.value",
    "channel_mix_receptance": "ffn.receptance",
}  # fmt: skip
# These lose it. True: the last two dimensions are exchanged.
_GGUF_6 = {
    "time_mix_w1": ("att.time_maa_w1", True), "time_mix_w2": ("att.time_maa_w2", True),
    "time_mix_decay_w1": ("att.time_decay_w1", True),
    "time_mix_decay_w2": ("att.time_decay_w2", True),
    "time_mix_decay": ("att.time_decay", False), "time_mix_first": ("att.time_faaaa", False),
    "channel_mix_lerp_k": ("ffn.time_maa_k", False),
    "channel_mix_lerp_r": ("ffn.time_maa_r", False),
    **{f"time_mix_lerp_{c}": (f"att.time_maa_{c}", False) for c in "xwkvrg"},
}  # fmt: skip
_GGUF_7 = {
    **{f"time_mix_{c}0": (f"att.{c}0", False) for c in "wav"},
    **{f"time_mix_{c}{i}": (f"att.{c}{i}", True) for c in "wavg" for i in (1, 2)},
    "time_mix_k_k": ("att.k_k", False), "time_mix_k_a": ("att.k_a", False),
    "time_mix_r_k": ("att.r_k", False), "channel_mix_lerp_k": ("ffn.x_k", False),
}  # fmt: skip
LERP_6 = "wkvrg"
_LERP = "time_mix_lerp"
_FUSED = f"{_LERP}_fused"
_UNUSED = {"att.v0", "att.v1", "att.v2"}  # in block 0
_BLOCK = re.compile(r"^blocks\.(\d{1,6})\.")
_RESCALED = {"att.output", "ffn.value"}
ARCHITECTURES = {"rwkv6": _GGUF_6, "rwkv7": _GGUF_7}


def from_gguf(found: Contents) -> tuple[str, Tensors]:
    """The layout and the tensors by official names."""
    architecture = found.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise Refused(
            f"is a GGUF of the architecture {str(architecture)[:40]!a}; read are rwkv6 and rwkv7"
        )
    parts = ARCHITECTURES[architecture]
    seven = architecture == "rwkv7"
    every = 0 if seven else found.number("rwkv6.rescale_every_n_layers") or 0
    head_size = found.number(f"{architecture}.wkv.head_size") or 0
    out: Tensors = {}
    for name, tensor in found.tensors.items():
        layer = _GGUF_LAYER.match(name)
        if layer is None:
            _put(out, tensor.renamed(_GGUF_TOP.get(name, name)))
            continue
        number, part, leaf = int(layer[1]), layer[2], layer[3]
        block = f"blocks.{number}."
        if part == _FUSED:
            letters, stem = (LERP_7, "att.x_") if seven else (LERP_6, "att.time_maa_")
            for i, letter in enumerate(letters):
                row = tensor.part(i, len(letters))
                _put(out, row.renamed(f"{block}{stem}{letter}"))
        elif part in parts:
            plain, exchanged = parts[part]
            if seven and number == 0 and plain in _UNUSED:
                continue  # copies of a0, a1, a2 that fill a gap of llama.cpp
            tensor = tensor.swapped() if exchanged else tensor
            if plain == "att.r_k":
                tensor = _heads(tensor, head_size)
            _put(out, tensor.renamed(block + plain))
        else:
            plain = _GGUF_PARTS.get(part, part)
            # What the writer divided, so that fp16 activations would not overflow.
            if plain in _RESCALED and every > 0:
                tensor = tensor.scaled(2.0 ** min(number // every, 64))
            _put(out, tensor.renamed(f"{block}{plain}.{leaf}"))
    return f"GGUF {architecture}", out


def to_gguf(tensors: Tensors, version: str) -> dict[str, list[Tensor]]:
    """GGUF names, each with its tensor or, for a fused one, its parts; views as llama.cpp wants.

    tensors: by official names, of version "6.0" or "7".
    """
    seven = version == "7"
    letters, stem = (LERP_7, "att.x_") if seven else (LERP_6, "att.time_maa_")
    rest = dict(tensors)
    out: dict[str, list[Tensor]] = {}

    def take(name: str) -> Tensor:
        if name not in rest:
            raise Refused(f"the tensor {name!a} is missing")
        return rest.pop(name)

    for name, plain in _GGUF_TOP.items():
        out[name] = [take(plain)]
    layers = 1 + max((int(m[1]) for n in tensors if (m := _BLOCK.match(n))), default=-1)
    for number in range(layers):
        block, blk = f"blocks.{number}.", f"blk.{number}."
        out[f"{blk}{_FUSED}.weight"] = [_flat(take(f"{block}{stem}{c}")) for c in letters]
        for part, plain in _GGUF_PARTS.items():
            for leaf in ("weight", "bias"):
                if f"{block}{plain}.{leaf}" in rest:
                    out[f"{blk}{part}.{leaf}"] = [take(f"{block}{plain}.{leaf}")]
        for part, (plain, exchanged) in ARCHITECTURES["rwkv7" if seven else "rwkv6"].items():
            if part.startswith(f"{_LERP}_") and part[-1] in letters:
                continue  # fused above
            if seven and number == 0 and plain in _UNUSED:
                rest.pop(block + plain, None)
                found = tensors[block + plain.replace("v", "a")]  # taken above, so it is there
            else:
                found = take(block + plain)
            if exchanged:
                found = found.swapped()
            elif plain != "att.time_faaaa":
                found = _flat(found)
            out[f"{blk}{part}.weight"] = [found]
    if rest:
        raise Refused(f"GGUF has no place for the tensor {min(rest)!a}")
    return out


def _flat(vector: Tensor) -> Tensor:
    return vector if len(vector.shape) == 1 else vector.reshaped(vector.count)


def _heads(r_k: Tensor, head_size: int) -> Tensor:
    """A flattened r_k as [H, N]."""
    if len(r_k.shape) != 1:
        return r_k
    if head_size < 1 or r_k.count % head_size:
        raise Refused(
            f"rwkv7.wkv.head_size is {head_size}, which does not divide {r_k.count} channels"
        )
    return r_k.reshaped(r_k.count // head_size, head_size)


def version_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The version that the official names and shapes show; the loader has the last word."""
    names = tensors.keys()
    first = "blocks.0."
    if first + "att.r_k" in names:
        if first + "qkv.qq.weight" in names:
            return "7b"
        if first + "ffn.s_emb.weight" in names:
            return "7a"
        return "8rc" if first + "ffn.enn.weight" in names else "7"
    if first + "att.time_maa_x" in names:
        return "6.0"
    if first + "att.time_mix_k" not in names:
        return None
    if first + "att.ln_x.weight" not in names:
        return "4"
    if first + "att.gate.weight" not in names:
        return "5.0"
    decay = tensors.get(first + "att.time_decay")
    channels = decay is not None and len(decay.shape) > 1 and decay.shape[-1] > 1
    return "5.2" if channels else "5.1"
