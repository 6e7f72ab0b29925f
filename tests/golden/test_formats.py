"""Every container and every layout of names gives the model that its source is, to the last bit.

The layouts are written here as their own converters write them, from random checkpoints; the files
in ../shared/golden/formats come from those converters' rules by another hand.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import Shape, tensors

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import gguf, layouts, safetensors

Arrays = dict[str, np.ndarray]
TOKENS = [0, 3, 1, 4, 1, 5, 9, 2, 6]
SHAPES = {
    version: Shape(version, layers=3, heads=2, head_size=16, ffn=80, vocab=70, ranks=(4, 8, 6, 12))
    for version in ("4", "5.0", "5.1", "5.2", "6.0", "7")
}


def made(version: str, half: bool = False, **other: object) -> Arrays:
    rows = tensors(replace(SHAPES[version], **other), np.random.default_rng(5))
    arrays = {n: a.astype(np.float32) for n, a in rows}
    return {n: a.astype(np.float16) for n, a in arrays.items()} if half else arrays


def write(path: Path, arrays: Mapping[str, np.ndarray], **metadata: str) -> Path:
    kinds = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}
    rows = [(n, kinds[a.dtype], a.shape) for n, a in arrays.items()]
    body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
    path.write_bytes(safetensors.header(rows, metadata) + body)
    return path


def logits(path: Path, strategy: str = "cpu fp32") -> np.ndarray:
    model = rn.Model.open(path, strategy, threads=1)
    return model.forward(TOKENS, full=True)[0]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def same_model(path: Path, official: Path, layout: str) -> None:
    found, wanted = checkpoint.read(path), checkpoint.read(official)
    assert found.layout == layout
    names = {n for n in wanted.tensors if n not in UNUSED}
    assert names <= found.tensors.keys() <= names | UNUSED
    for name in names:
        a, b = found.tensors[name].to_numpy(), wanted.tensors[name].to_numpy()
        assert np.array_equal(a.ravel(), b.ravel()), name
    assert np.array_equal(logits(path), logits(official))


UNUSED = {f"blocks.0.att.v{i}" for i in range(3)}


# -- the files that others have written


@pytest.mark.parametrize(
    "kind",
    ["legacy.pth", "ordered.pth", "views.pth", "wrapped.pth", "safetensors", "st",
     "fla.safetensors", "fla_v1.safetensors"],
)  # fmt: skip
def test_the_golden_formats(kind: str, golden: Path, shared: Path) -> None:
    source = golden / "v70_L4_D32_fp16.pth"
    path = shared / "golden" / "formats" / f"v70_L4_D32_fp16.{kind}"
    for strategy in ("cpu fp32", "cpu fp16"):
        assert np.array_equal(logits(path, strategy), logits(source, strategy))


def test_the_golden_st_of_version_6(shared: Path) -> None:
    """F16 weights of an F32 source: 11 bits, which 3 layers of random weights make 1e-3."""
    path = shared / "golden" / "formats" / "v60_L3_D32_fp32.st"
    assert error(logits(path), logits(shared / "golden" / "v60_L3_D32_fp32.pth")) < 3e-3


def test_the_golden_state_of_web_rwkv(golden: Path, shared: Path) -> None:
    model = rn.Model.open(golden / "v70_L3_D32_fp32_state.pth", "cpu fp32")
    wanted = model.load_tuned_state(golden / "v70_L3_D32_fp32_state.state.pth").to_numpy()["wkv"]
    path = shared / "golden" / "formats" / "v70_L3_D32_fp32_state.state.st"
    found = model.load_tuned_state(path).to_numpy()["wkv"]
    assert np.array_equal(found, wanted.astype(np.float16).astype(np.float32))


# -- web-rwkv's .st

TRANSPOSED = ("time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "time_state",
              *(f".{c}{i}" for c in "wagv" for i in (1, 2)))  # fmt: skip


def as_web_rwkv(arrays: Arrays, version: str) -> Arrays:
    out = {}
    for name, array in arrays.items():
        array = array.astype(np.float16)
        if version == "5.1" and ("time_decay" in name or "time_faaaa" in name):
            array = np.repeat(array[:, None], SHAPES[version].head_size, 1)
        name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
        if name.endswith(TRANSPOSED):
            array = array.swapaxes(-1, -2)
        out[name] = array
    return out


@pytest.mark.parametrize("version", ["4", "5.1", "5.2", "6.0", "7"])
def test_web_rwkv(version: str, tmp_path: Path) -> None:
    source = made(version)
    exact = write(tmp_path / "a.safetensors", source)
    rounded = write(tmp_path / "b.safetensors", made(version, half=True))
    path = write(tmp_path / "c.st", as_web_rwkv(source, version))
    assert np.array_equal(logits(path), logits(rounded))
    if version not in ("4", "5.1"):  # 4 is as it was; 5.1 comes back as 5.2, which computes it
        same_model(path, rounded, layouts.WEB_RWKV)
    assert error(logits(path), logits(exact)) < 1e-2


@pytest.mark.parametrize("suffix", [".st", ".safetensors"])
def test_web_rwkv_with_square_low_rank_matrices(suffix: str, tmp_path: Path) -> None:
    """Where all ranks are D, the shapes tell nothing and the suffix decides."""
    source = made("7", half=True, ranks=(32, 32, 32, 32))
    official = write(tmp_path / "official.safetensors", source)
    given = as_web_rwkv(source, "7") if suffix == ".st" else source
    path = write(tmp_path / f"x{suffix}", given)
    assert np.array_equal(logits(path), logits(official))


def test_one_square_pair_follows_the_others(tmp_path: Path) -> None:
    source = made("7", half=True, ranks=(32, 32, 32, 8))
    official = write(tmp_path / "official.safetensors", source)
    path = write(tmp_path / "renamed.safetensors", as_web_rwkv(source, "7"))
    assert np.array_equal(logits(path), logits(official))


def test_an_ambiguous_st_is_refused(tmp_path: Path) -> None:
    """5.0 calls exp(time_first) what the converter calls time_faaaa, and both are [H]."""
    path = write(tmp_path / "x.st", as_web_rwkv(made("5.0"), "5.0"))
    with pytest.raises(rn.CheckpointError, match="two things"):
        rn.Model.open(path)


def test_a_tuned_state_inside_a_checkpoint(tmp_path: Path) -> None:
    """Embedded, beside it, transposed in .st: the same start of every text."""
    rng = np.random.default_rng(3)
    for version in ("5.2", "6.0", "7"):
        source = made(version, half=True)
        tuned = {
            f"blocks.{i}.att.time_state": rng.standard_normal((2, 16, 16)).astype(np.float16)
            for i in range(3)
        }
        plain = write(tmp_path / "plain.safetensors", source)
        model = rn.Model.open(plain, "cpu fp32")
        state = model.load_tuned_state(write(tmp_path / "tuned.safetensors", tuned))
        wanted = model.forward(TOKENS, state)[0]
        assert error(model.forward(TOKENS)[0], wanted) > 1e-3
        swapped = {n: a.swapaxes(1, 2) for n, a in tuned.items()}
        state = model.load_tuned_state(write(tmp_path / "tuned.st", swapped))
        assert np.array_equal(model.forward(TOKENS, state)[0], wanted)
        whole = write(tmp_path / "whole.safetensors", source | tuned)
        web = write(tmp_path / "whole.st", as_web_rwkv(source | tuned, version))
        for path in (whole, web):
            assert np.array_equal(rn.Model.open(path, "cpu fp32").forward(TOKENS)[0], wanted)


# -- HuggingFace


def as_huggingface(arrays: Arrays) -> Arrays:
    out = {}
    long = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}
    for name, array in arrays.items():
        name = name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
        name = name.replace(".ln0.", ".pre_ln.").replace("emb.", "embeddings.")
        if ".time_mix_" in name:
            name = name[:-1] + long[name[-1]]
        out[name if name == "head.weight" else f"rwkv.{name}"] = array
    return out


@pytest.mark.parametrize("version", ["4", "5.0", "5.2", "6.0"])
def test_huggingface(version: str, tmp_path: Path) -> None:
    source = made(version)
    official = write(tmp_path / "a.safetensors", source)
    path = write(tmp_path / "b.safetensors", as_huggingface(source), format="pt")
    same_model(path, official, layouts.HF_RWKV)


# -- flash-linear-attention


def as_fla(arrays: Arrays, fused: bool = False) -> Arrays:
    top = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight",
           "ln_out.weight": "model.norm.weight", "ln_out.bias": "model.norm.bias"}  # fmt: skip
    parts = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm",
             "att.receptance": "attn.r_proj", "att.key": "attn.k_proj",
             "att.value": "attn.v_proj", "att.output": "attn.o_proj"}  # fmt: skip
    out: Arrays = {}
    for name, array in arrays.items():
        if name in top:
            out[top[name]] = array
            continue
        _, i, part = name.split(".", 2)
        layer = f"model.layers.{i}."
        stem, _, leaf = part.rpartition(".")
        if stem in parts:
            out[f"{layer}{parts[stem]}.{leaf}"] = array
        elif stem == "att" and leaf[:-1] in ("w", "a", "v", "g"):
            place = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[leaf[-1]]
            value = array.ravel() if leaf[-1] == "0" else array.T
            out[f"{layer}attn.{leaf[0]}_lora.lora.{place}"] = value
        else:
            out[layer + part.replace("att.", "attn.")] = array
    for i in range(3 if fused else 0):
        rows = [out.pop(f"model.layers.{i}.attn.x_{c}").ravel() for c in "rwkvag"]
        out[f"model.layers.{i}.attn.x_x"] = np.stack(rows)
    return out


@pytest.mark.parametrize("fused", [False, True])
def test_fla(fused: bool, tmp_path: Path) -> None:
    source = made("7")
    official = write(tmp_path / "a.safetensors", source)
    path = write(tmp_path / "b.safetensors", as_fla(source, fused))
    same_model(path, official, layouts.FLA)


def write_shards(folder: Path, arrays: Arrays, parts: int) -> Path:
    folder.mkdir()
    where = {}
    for i in range(parts):
        name = f"model-{i + 1:05}-of-{parts:05}.safetensors"
        mine = dict(list(arrays.items())[i::parts])
        write(folder / name, mine, format="pt")
        where |= dict.fromkeys(mine, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / "config.json").write_text('{"model_type": "rwkv7", "norm_eps": 1e-5}')
    return folder


def test_fla_in_several_files(tmp_path: Path) -> None:
    source = made("7")
    official = write(tmp_path / "a.safetensors", source)
    folder = write_shards(tmp_path / "model", as_fla(source), 3)
    same_model(folder, official, layouts.FLA)
    same_model(folder / "model.safetensors.index.json", official, layouts.FLA)
    found = checkpoint.read(folder)
    assert found.format == "safetensors, 3 files"
    assert found.metadata == {"format": "pt", "config.model_type": "rwkv7"}
    assert len({t.path for t in found.tensors.values()}) == 3
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        rn.Model.open(folder)


# -- HuggingFace rwkv7, in the two spellings of transformers and of vLLM's fork

FACTOR = re.compile(r"\.att\.[wavg][12]$")
SPELLINGS = ("transformers", "transformers emb", "vllm")


def as_rwkv7(arrays: Arrays, spelling: str) -> Arrays:
    out = {}
    for name, array in arrays.items():
        if name in UNUSED or name == "head.weight":
            if name not in UNUSED:
                out[name] = array
            continue
        if spelling == "vllm" and FACTOR.search(name):
            name, array = f"{name}.weight", array.T
        if not spelling.endswith("emb"):
            name = name.replace("emb.", "embeddings.")
        out[("model." if spelling == "vllm" else "rwkv7.") + name] = array
    return out


def in_folder(folder: Path, arrays: Arrays, parts: int = 1, **config: object) -> Path:
    """As save_pretrained leaves it."""
    if parts > 1:
        write_shards(folder, arrays, parts)
    else:
        folder.mkdir()
        write(folder / "model.safetensors", arrays, format="pt")
    about = {"model_type": "rwkv7", "architectures": ["Rwkv7ForCausalLM"], "context_length": 25600}
    (folder / "config.json").write_text(json.dumps(about | config))
    return folder


def official_arrays(path: Path) -> Arrays:
    return {n: t.to_numpy() for n, t in checkpoint.read(path).tensors.items()}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("source", ["v70_L4_D32_fp16.pth", "v70_L3_D32_fp32.pth"])
def test_rwkv7_of_huggingface(
    source: str, spelling: str, parts: int, golden: Path, tmp_path: Path
) -> None:
    official = golden / source
    given = as_rwkv7(official_arrays(official), spelling)
    folder = in_folder(tmp_path / "m", given, parts, embedding_layer_norm_fused=False)
    same_model(folder, official, layouts.HF_RWKV7)
    found = checkpoint.read(folder)
    assert (found.version, found.context_length, found.normed) == ("7", 25600, False)
    # Transposed views of the file, not copies.
    strides = {n: t.strides for n, t in found.tensors.items() if FACTOR.search(n)}
    assert all((s[0] == 1) == (spelling == "vllm") for s in strides.values())
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(folder, copy)
    same_model(copy, official, layouts.OFFICIAL)


def test_rwkv7_with_square_factors(tmp_path: Path) -> None:
    """Where all ranks are D the shapes tell nothing, and the names decide."""
    source = made("7", ranks=(32, 32, 32, 32))
    official = write(tmp_path / "a.safetensors", source)
    for spelling in SPELLINGS:
        folder = in_folder(tmp_path / spelling, as_rwkv7(source, spelling))
        assert np.array_equal(logits(folder), logits(official))


def test_rwkv7_whose_factors_lie_as_their_shapes_say(tmp_path: Path) -> None:
    """Names of one spelling, orientations of the other."""
    source = made("7")
    official = write(tmp_path / "a.safetensors", source)
    turned = {n: a.T if FACTOR.search(n) else a for n, a in source.items()}
    for spelling in SPELLINGS:
        folder = in_folder(tmp_path / spelling, as_rwkv7(turned, spelling))
        assert np.array_equal(logits(folder), logits(official))


def folded(arrays: Arrays, left: str) -> Arrays:
    """The norm before block 0 in the embedding; `left`: what is left of it."""
    weight, bias = (arrays[n] for n in layouts.FIRST_NORM)
    wide = arrays["emb.weight"].astype(np.float64)
    mean, spread = wide.mean(1, keepdims=True), wide.var(1, keepdims=True)
    table = (wide - mean) / np.sqrt(spread + 1e-5) * weight + bias
    out = arrays | {"emb.weight": table.astype(arrays["emb.weight"].dtype)}
    for name, value in zip(layouts.FIRST_NORM, (1, 0), strict=True):
        if left == "nothing":
            del out[name]
        else:
            out[name] = np.full_like(out[name], value)
    return out


@pytest.mark.parametrize(
    ("left", "config"),
    [
        ("nothing", {"embedding_layer_norm_fused": True}),
        ("ones and zeros", {"embedding_layer_norm_fused": True}),
        ("ones and zeros", {}),  # an older converter, which did not say it
    ],
)
@pytest.mark.parametrize("spelling", ["transformers", "vllm"])
def test_a_first_norm_in_the_embedding(
    spelling: str, left: str, config: dict[str, bool], golden: Path, tmp_path: Path
) -> None:
    official = golden / "v70_L3_D32_fp32.pth"
    given = as_rwkv7(folded(official_arrays(official), left), spelling)
    folder = in_folder(tmp_path / "m", given, 2, **config)
    assert error(logits(folder), logits(official)) < 1e-5
    found = checkpoint.read(folder)
    assert found.normed and not set(layouts.FIRST_NORM) & found.tensors.keys()
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(folder, copy)
    assert checkpoint.read(copy).normed
    assert np.array_equal(logits(copy), logits(folder))
    with pytest.raises(rn.UnsupportedError, match="no form"):
        convert.to_gguf(folder, tmp_path / "x.gguf")


def test_a_first_norm_in_a_bf16_embedding(golden: Path, tmp_path: Path) -> None:
    """A folded table is rounded once more: half of 2^-8 of every element, and two layers of random
    weights make 3.3e-3 of the range of it."""
    official = golden / "v70_L2_D64_bf16.pth"
    given = as_rwkv7(folded(official_arrays(official), "nothing"), "transformers")
    rows = [(n, "BF16", a.shape) for n, a in given.items()]
    body = b"".join(convert.to_bf16(a).tobytes() for a in given.values())
    folder = in_folder(tmp_path / "m", given, embedding_layer_norm_fused=True)
    (folder / "model.safetensors").write_bytes(safetensors.header(rows, {}) + body)
    assert 0 < error(logits(folder), logits(official)) < 8e-3


def test_an_untrained_first_norm_is_applied_where_the_config_says_so(tmp_path: Path) -> None:
    source = made("7")
    for name, value in zip(layouts.FIRST_NORM, (1, 0), strict=True):
        source[name] = np.full_like(source[name], value)
    official = write(tmp_path / "a.safetensors", source)
    given = as_rwkv7(source, "transformers")
    folder = in_folder(tmp_path / "m", given, embedding_layer_norm_fused=False)
    assert np.array_equal(logits(folder), logits(official))


def test_a_first_norm_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    given = as_rwkv7(folded(made("7"), "nothing"), "transformers")
    for name, config in (("a", {}), ("b", {"embedding_layer_norm_fused": False})):
        folder = in_folder(tmp_path / name, given, **config)
        with pytest.raises(rn.CheckpointError, match=r"ln0\.weight is missing.*config\.json"):
            rn.Model.open(folder)
    stray = folder / "renamed.safetensors"
    (folder / "model.safetensors").rename(stray)
    with pytest.raises(rn.CheckpointError, match=r"ln0\.weight is missing"):
        rn.Model.open(stray)


# -- what trainers put into names


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"_orig_mod.module.{n}",
        lambda n: f"model._orig_mod.{n}",
        lambda n: n.replace("blocks.1.", "blocks.1._orig_mod."),
        lambda n: n.replace("blocks.", "_fsdp_wrapped_module.blocks."),
        lambda n: re.sub(r"^(blocks\.\d)", r"\1._checkpoint_wrapped_module", n),
    ],
)
def test_wrappers_in_names(wrap: Callable[[str], str], tmp_path: Path) -> None:
    source = made("7")
    official = write(tmp_path / "a.safetensors", source)
    path = write(tmp_path / "b.safetensors", {wrap(n): a for n, a in source.items()})
    same_model(path, official, layouts.OFFICIAL)


@pytest.mark.parametrize("name", ["model.", "rwkv.", "_orig_mod.", "module._orig_mod.", "rwkv7."])
def test_names_that_are_prefixes_only(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for others in ((), ("rwkv.blocks.0.attention.x",), ("model.layers.0.x",), ("embeddings.x",)):
        write(path, {n: np.float32([1]) for n in (name, *others)})
        try:
            found = checkpoint.read(path)
        except rn.CheckpointError as refusal:
            assert "prefix" in str(refusal) or "missing" in str(refusal)
        else:
            assert all(found.tensors)


def test_two_names_that_become_one(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.safetensors",
        {n: np.float32([1]) for n in ("emb.weight", "_orig_mod.emb.weight")},
    )
    with pytest.raises(rn.CheckpointError, match=r"two tensors stand for .emb\.weight"):
        checkpoint.read(path)


def test_folders(golden: Path, tmp_path: Path) -> None:
    source = golden / "v70_L3_D32_fp32.pth"
    with pytest.raises(rn.CheckpointError, match="is a folder with no checkpoint"):
        checkpoint.read(tmp_path)
    shutil.copy(source, tmp_path / "x.pth")
    assert checkpoint.read(tmp_path).path == str(tmp_path / "x.pth")
    shutil.copy(source, tmp_path / "y.pth")
    with pytest.raises(rn.CheckpointError, match="2 checkpoints; name one"):
        checkpoint.read(tmp_path)
    shutil.copy(source, tmp_path / "pytorch_model.bin")
    assert checkpoint.read(tmp_path).path == str(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "bin"])
def test_folders_of_trainers(suffix: str, golden: Path, tmp_path: Path) -> None:
    """Their own endings count where no other is there; what lies beside weights never does."""
    source = golden / "v70_L3_D32_fp32.pth"
    shutil.copy(source, tmp_path / f"step-100.{suffix}")
    for other in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth"):
        (tmp_path / other).write_bytes(b"x")
    same_model(tmp_path, source, layouts.OFFICIAL)
    shutil.copy(source, tmp_path / f"step-200.{suffix}")
    with pytest.raises(rn.CheckpointError, match="2 checkpoints; name one"):
        checkpoint.read(tmp_path)
    shutil.copy(source, tmp_path / "x.pth")
    assert checkpoint.read(tmp_path).path == str(tmp_path / "x.pth")


# -- GGUF


def official_of(version: str, path: Path) -> Path:
    return write(path / f"official-{version}.safetensors", made(version))


@pytest.mark.parametrize("version", ["6.0", "7"])
def test_gguf(version: str, tmp_path: Path) -> None:
    """F32 is the source, bit by bit, and goes back to it; the 16-bit types round the matrices."""
    official = official_of(version, tmp_path)
    path, back = tmp_path / "x.gguf", tmp_path / "back.safetensors"
    convert.to_gguf(official, path, "fp32")
    same_model(path, official, f"GGUF rwkv{version[0]}")
    convert.to_safetensors(path, back)
    same_model(back, official, layouts.OFFICIAL)
    for dtype, bound in (("fp16", 1e-2), ("bf16", 8e-2)):
        convert.to_gguf(official, path, dtype, force=True)
        found = {t.dtype for t in checkpoint.read(path).tensors.values()}
        assert found == {"F32", convert.NAMES[dtype]}
        assert 0 < error(logits(path), logits(official)) < bound


def rescaled(source: Path, path: Path, every: int, dtype: str, fused: bool = True) -> None:
    """A GGUF of version 6 as llama.cpp's converter writes it: two matrices divided by layer."""
    found = checkpoint.read(source)
    values = convert._gguf_values(found, "F32") | {"rwkv6.rescale_every_n_layers": every}
    arrays: Arrays = {}
    for name, parts in layouts.to_gguf(found.tensors, "6.0").items():
        if len(parts) > 1 and not fused:  # files of before the fusion
            for letter, part in zip("wkvrg", parts, strict=True):
                arrays[name.replace("fused", letter)] = part.to_numpy()
            continue
        array = np.stack([p.to_numpy() for p in parts])
        array = array[:, None, None] if len(parts) > 1 else array[0]
        if name.endswith(("time_mix_output.weight", "channel_mix_value.weight")):
            array = array / np.float32(2 ** (int(name.split(".")[1]) // every))
        arrays[name] = array.astype(np.float16 if dtype == "F16" and array.ndim == 2 else "<f4")
    rows = [(n, "F16" if a.dtype == np.float16 else "F32", a.shape) for n, a in arrays.items()]
    with path.open("wb") as file:
        file.write(gguf.header(values, rows))
        for array in arrays.values():
            raw = np.ascontiguousarray(array).tobytes()
            file.write(raw + bytes(gguf.padded(len(raw)) - len(raw)))


@pytest.mark.parametrize(("every", "fused"), [(1, True), (2, True), (6, False)])
def test_gguf_of_version_6_undoes_the_rescaling(every: int, fused: bool, tmp_path: Path) -> None:
    official, path = official_of("6.0", tmp_path), tmp_path / "x.gguf"
    rescaled(official, path, every, "F32", fused)
    same_model(path, official, "GGUF rwkv6")
    scales = [checkpoint.read(path).tensors[f"blocks.{i}.ffn.value.weight"].scale for i in range(3)]
    assert scales == [2.0 ** (i // every) for i in range(3)]
    convert.to_safetensors(path, tmp_path / "back.safetensors")
    same_model(tmp_path / "back.safetensors", official, layouts.OFFICIAL)


def test_rescaled_half_precision(tmp_path: Path) -> None:
    """A power of two changes no bit of a normal F16, in the strategies that store 16 bits too."""
    official = write(tmp_path / "a.safetensors", made("6.0", half=True))
    path, plain = tmp_path / "x.gguf", tmp_path / "plain.gguf"
    rescaled(official, path, 1, "F16")
    rescaled(official, plain, 99, "F16")
    for strategy in ("cpu fp32", "cpu fp16", "cpu bf16"):
        # Dividing made the smallest weights subnormal; 2^-24 is what they can lose.
        assert error(logits(path, strategy), logits(plain, strategy)) < 1e-3


def test_a_scale_that_overflows_is_refused(tmp_path: Path) -> None:
    source = made("6.0")
    source["blocks.2.ffn.value.weight"][3, 5] = 60_000
    official, path = write(tmp_path / "a.safetensors", source), tmp_path / "x.gguf"
    rescaled(official, path, 99, "F16")
    raw = path.read_bytes()
    key = b"rwkv6.rescale_every_n_layers\x04\0\0\0"
    assert key in raw
    path.write_bytes(raw.replace(key + b"\x63", key + b"\x01"))
    with pytest.raises(rn.CheckpointError, match=r"ffn\.value\.weight holds a NaN or an infinity"):
        rn.Model.open(path)
