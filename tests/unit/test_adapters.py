"""Adapters: the weights that loading and converting make of them, against a merge in float64.

tests/golden/data/adapters holds what peft 0.21.2 (torch 2.13) wrote for a module with the names of
RWKV-7 (one block, D 8, F 16, V 12: receptance, key, value and output of att, key and value of ffn,
emb and head, base seed 0), and in merged.npz the base and its own merge_and_unload(). Trained
parameters were drawn from N(0, 0.05). The README.md of each folder was left out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native._ffi import check, float_pointer, lib
from rwkv_native.formats.safetensors import header
from web.cli import main
from web.config import Config
from web.engine import model_loading
from web.engine.model_host import Runtime
from web.engine.model_loading import Choice

Arrays = dict[str, np.ndarray]
SOURCE = "v70_L3_D32_fp32.pth"
IDS = [1, 17, 90, 3, 99]
MATRICES = [
    f"blocks.{i}.{part}.weight"
    for i in range(3)
    for part in ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
]


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    rows = [(n, {4: "F32", 2: "F16"}[a.itemsize], a.shape) for n, a in arrays.items()]
    body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
    path.write_bytes(header(rows, {}) + body)
    return path


def read(path: Path) -> Arrays:
    return {n: t.to_numpy() for n, t in checkpoint.read(path).tensors.items()}


def logits(path: Path, strategy: str = "cpu fp32", **options: Any) -> np.ndarray:
    model = rn.Model.open(path, strategy, threads=1, **options)
    return model.forward(IDS, full=True)[0]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


# -- the kinds, as their trainers write and merge them, in float64

Kind = tuple[Callable[[str, np.ndarray, np.random.Generator], Arrays], Callable[..., np.ndarray]]


def small(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (0.05 * rng.standard_normal(shape)).astype(np.float32)


def lora(module: str, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    return {
        f"{module}.lora_A": small(rng, 5, w.shape[1]),
        f"{module}.lora_B": small(rng, len(w), 5),
    }


def lora_merge(w: np.ndarray, lora_A: np.ndarray, lora_B: np.ndarray) -> np.ndarray:
    return w + 12 / 5 * (lora_B @ lora_A)


def bat_columns(name: str) -> Kind:
    """RWKV-PEFT's merge: a block for every 4 inputs."""

    def made(module: str, w: np.ndarray, rng: np.random.Generator) -> Arrays:
        return {f"{module}.{name}": small(rng, w.shape[1] // 4, 4, 4)}

    def merge(w: np.ndarray, block: np.ndarray) -> np.ndarray:
        cut = w.reshape(len(w) // 4, 4, -1, 4).swapaxes(1, 2)  # [a, b, 4, 4]
        return w + (cut @ block + block).swapaxes(1, 2).reshape(w.shape)

    return made, merge


def bat_rows(name: str) -> Kind:
    """peft's merge: a block for every 4 outputs."""

    def made(module: str, w: np.ndarray, rng: np.random.Generator) -> Arrays:
        return {f"{module}.{name}": small(rng, len(w) // 4, 4, 4)}

    def merge(w: np.ndarray, block: np.ndarray) -> np.ndarray:
        cut = w.reshape(len(w) // 4, 4, -1, 4).swapaxes(1, 2)
        return w + (cut @ block[:, None] + block[:, None]).swapaxes(1, 2).reshape(w.shape)

    return made, merge


def shards(name: str, rank: int) -> Kind:
    """[r, out], repeated over the inputs, of which the last repeat may be cut off."""

    def made(module: str, w: np.ndarray, rng: np.random.Generator) -> Arrays:
        return {f"{module}.{name}": small(rng, rank, len(w))}

    def merge(w: np.ndarray, block: np.ndarray) -> np.ndarray:
        return w + np.tile(block.T, -(-w.shape[1] // rank))[:, : w.shape[1]]

    return made, merge


KINDS: dict[str, Kind] = {
    "LoRA": (lora, lora_merge),
    "Bone, RWKV-PEFT": shards("bone", 8),
    "Bat, RWKV-PEFT": bat_columns("bone"),
    "DiSHA": shards("disha", 8),
    "DiSHA, ragged": shards("disha", 5),
    "DiSHA bat": bat_columns("disha"),
    "Bone, peft": shards("bone_block", 8),
    "Bat, peft": bat_rows("bone_block"),
    "MiSS, ragged": shards("miss_block", 7),
    "MiSS bat": bat_rows("miss_block"),
}


def adapted(kind: str, base: Arrays, dtype: type = np.float32) -> tuple[Arrays, Arrays]:
    """(the adapter's tensors, the merged checkpoint in float64)."""
    make, merge = KINDS[kind]
    rng = np.random.default_rng(7)
    given: Arrays = {}
    merged = {n: a.astype(np.float64) for n, a in base.items()}
    for name in MATRICES:
        module = name.removesuffix(".weight")
        parts = {n: a.astype(dtype) for n, a in make(module, base[name], rng).items()}
        given |= parts
        merged[name] = merge(merged[name], *(a.astype(np.float64) for a in parts.values()))
    return given, merged


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_against_a_merge_in_float64(kind: str, dtype: type, golden: Path, tmp_path: Path) -> None:
    base = read(golden / SOURCE)
    given, merged = adapted(kind, base, dtype)
    path = write(tmp_path / "adapter.safetensors", given)
    adapter = rn.Adapter(path, alpha=12 if kind == "LoRA" else None)
    wanted = write(tmp_path / "b.safetensors", {n: a.astype("<f4") for n, a in merged.items()})
    assert error(logits(golden / SOURCE), logits(wanted)) > 1e-2
    assert error(logits(golden / SOURCE, adapter=adapter), logits(wanted)) < 3e-6
    # The same function for copies; its rounding is that of fp32.
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(golden / SOURCE, copy, adapter=adapter)
    for name, found in read(copy).items():
        worst = np.abs(found - merged[name]).max()
        assert worst <= 4e-7 * np.abs(merged[name]).max(), (name, worst)
    assert np.array_equal(logits(copy), logits(golden / SOURCE, adapter=adapter))


@pytest.mark.parametrize("strategy", ["cpu bf16", "cpu fp16", "cpu bf16i8", "cpu bf16i4", "auto"])
def test_the_merged_weights_take_the_strategys_type(
    strategy: str, golden: Path, tmp_path: Path
) -> None:
    """Merged first, rounded or quantised then: as the merged fp32 checkpoint loads."""
    given, _ = adapted("LoRA", read(golden / SOURCE))
    adapter = rn.Adapter(write(tmp_path / "adapter.safetensors", given), alpha=12)
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(golden / SOURCE, copy, adapter=adapter)
    model = rn.Model.open(golden / SOURCE, strategy, threads=1, adapter=adapter)
    assert np.array_equal(model.forward(IDS, full=True)[0], logits(copy, strategy))
    assert model.info.parameters == rn.Model.open(copy, strategy).info.parameters
    assert model.info.metadata["rwkv.adapter"] == "adapter.safetensors"


def test_halves_are_widened_by_a_merge(golden: Path, tmp_path: Path) -> None:
    """`cpu fp32` keeps the 16 bits of a file, which do not hold what an adapter makes of them."""
    source = golden / "v70_L2_D64_bf16.pth"
    base = read(source)
    rng = np.random.default_rng(1)
    given: Arrays = {}
    merged = dict(base)
    for name in (n for n in MATRICES if n in base):
        parts = lora(name.removesuffix(".weight"), base[name], rng)
        given |= parts
        merged[name] = lora_merge(base[name], *parts.values()).astype(np.float32)
    adapter = rn.Adapter(write(tmp_path / "a.safetensors", given), alpha=12)
    wanted = write(tmp_path / "b.safetensors", merged)
    assert error(logits(source, adapter=adapter), logits(wanted)) < 3e-6
    # A copy keeps the file's own type, of which it has 8 bits.
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(source, copy, adapter=adapter)
    assert {t.dtype for t in checkpoint.read(copy).tensors.values()} == {"BF16"}
    assert error(logits(copy), logits(wanted)) < 5e-2


@pytest.mark.parametrize("dtype", ["i8", "i4", "bf16"])
def test_packed_copies_and_gguf(dtype: str, golden: Path, tmp_path: Path) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    adapter = rn.Adapter(write(tmp_path / "a.safetensors", given), alpha=12)
    copy, plain = tmp_path / "copy.safetensors", tmp_path / "plain.safetensors"
    convert.to_safetensors(golden / SOURCE, plain, adapter=adapter)
    convert.to_safetensors(golden / SOURCE, copy, dtype, adapter=adapter, packed=True)
    again = tmp_path / "again.safetensors"
    convert.to_safetensors(plain, again, dtype, packed=True)
    assert np.array_equal(logits(copy, "auto"), logits(again, "auto"))
    if dtype == "bf16":
        convert.to_gguf(golden / SOURCE, tmp_path / "a.gguf", "fp32", adapter=adapter)
        assert np.array_equal(logits(tmp_path / "a.gguf"), logits(plain))


def test_pissa(golden: Path, tmp_path: Path) -> None:
    """W - B0 A0 + B A, without an alpha."""
    base = read(golden / SOURCE)
    rng = np.random.default_rng(2)
    given: Arrays = {}
    first: Arrays = {}
    merged = dict(base)
    for name in MATRICES:
        module, w = name.removesuffix(".weight"), base[name].astype(np.float64)
        u, s, v = np.linalg.svd(w, full_matrices=False)
        a0, b0 = np.sqrt(s[:4, None]) * v[:4], u[:, :4] * np.sqrt(s[:4])
        first |= {f"{module}.init_lora_A": a0, f"{module}.init_lora_B": b0}
        a, b = a0 + small(rng, *a0.shape), b0 + small(rng, *b0.shape)
        given |= {f"{module}.lora_A": a, f"{module}.lora_B": b}
        merged[name] = w - b0 @ a0 + b @ a
    single = {n: a.astype("<f4") for n, a in first.items()}
    path = write(tmp_path / "rwkv-1.safetensors", {n: a.astype("<f4") for n, a in given.items()})
    init = write(tmp_path / "init_pissa.safetensors", single)
    wanted = write(tmp_path / "b.safetensors", {n: a.astype("<f4") for n, a in merged.items()})
    adapter = rn.Adapter(path, init=init)
    assert error(logits(golden / SOURCE, adapter=adapter), logits(wanted)) < 3e-6
    with pytest.raises(rn.CheckpointError, match="they belong to --adapter-init"):
        logits(golden / SOURCE, adapter=rn.Adapter(init, alpha=4))
    with pytest.raises(rn.InvalidError, match="one of the two"):
        rn.Adapter(path, alpha=4, init=init)
    del single["blocks.2.ffn.value.init_lora_A"], single["blocks.2.ffn.value.init_lora_B"]
    write(init, single)
    with pytest.raises(rn.CheckpointError, match=r"blocks\.2\.ffn\.value.*do not hold it"):
        logits(golden / SOURCE, adapter=adapter)


def test_tensors_that_were_trained_whole(golden: Path, tmp_path: Path) -> None:
    """RWKV-PEFT's --train_parts: norms and mixes beside the LoRA, in place of the base's."""
    base = read(golden / SOURCE)
    given, merged = adapted("LoRA", base)
    rng = np.random.default_rng(3)
    for name in ("blocks.1.ln1.weight", "blocks.0.att.x_r", "blocks.2.att.w0", "blocks.1.att.r_k"):
        given[name] = small(rng, *base[name].shape)
        merged[name] = given[name]
    given["blocks.0.att.x_k"] = small(rng, 32)  # without the leading ones
    merged["blocks.0.att.x_k"] = given["blocks.0.att.x_k"]
    adapter = rn.Adapter(write(tmp_path / "a.safetensors", given), alpha=12)
    wanted = write(tmp_path / "b.safetensors", {n: a.astype("<f4") for n, a in merged.items()})
    assert error(logits(golden / SOURCE, adapter=adapter), logits(wanted)) < 3e-6


# -- files of peft's own


def peft_base(golden: Path, tmp_path: Path) -> tuple[Path, Arrays]:
    """A whole checkpoint around the matrices that peft has seen, and its file of results."""
    results = dict(np.load(golden / "adapters" / "merged.npz"))
    rng = np.random.default_rng(0)
    d = 8
    base: Arrays = {n.removeprefix("base/"): a for n, a in results.items() if n[:5] == "base/"}
    for name in ("blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "blocks.0.att.ln_x", "ln_out"):
        base |= {f"{name}.weight": 1 + small(rng, d), f"{name}.bias": small(rng, d)}
    for letter in "rwkvag":
        base[f"blocks.0.att.x_{letter}"] = small(rng, 1, 1, d)
    for letter in "wag":
        base |= {f"blocks.0.att.{letter}1": small(rng, d, 3)}
        base |= {f"blocks.0.att.{letter}2": small(rng, 3, d)}
    for name in ("w0", "a0", "k_k", "k_a"):
        base[f"blocks.0.att.{name}"] = small(rng, 1, 1, d)
    base |= {"blocks.0.att.r_k": small(rng, 2, 4), "blocks.0.ffn.x_k": small(rng, 1, 1, d)}
    base["emb.weight"] = base["emb.weight"] + 0  # of nn.Embedding: N(0, 1)
    return write(tmp_path / "base.safetensors", base), results


PEFT = ("lora", "rslora", "dora", "emb", "miss", "miss-bat", "miss-mini")


@pytest.mark.parametrize("name", PEFT)
def test_what_peft_writes(name: str, golden: Path, tmp_path: Path) -> None:
    source, results = peft_base(golden, tmp_path)
    wanted = {n.removeprefix(f"{name}/"): a for n, a in results.items() if n.startswith(f"{name}/")}
    assert wanted
    folder = golden / "adapters" / name
    copy = tmp_path / "copy.safetensors"
    convert.to_safetensors(source, copy, adapter=folder)
    before, after = read(source), read(copy)
    for tensor, array in after.items():
        expected = wanted.get(tensor, before[tensor])
        assert np.abs(array - expected).max() <= 1e-6 * np.abs(expected).max(), tensor
        assert (tensor in wanted) == (not np.array_equal(array, before[tensor])), tensor
    ids = [1, 5, 11, 0]
    by_load = rn.Model.open(source, "cpu fp32", adapter=folder).forward(ids, full=True)[0]
    assert np.array_equal(by_load, rn.Model.open(copy, "cpu fp32").forward(ids, full=True)[0])
    file = folder / "adapter_model.safetensors"  # whose settings lie beside it
    again = rn.Model.open(source, "cpu fp32", adapter=file).forward(ids, full=True)[0]
    assert np.array_equal(by_load, again)


SPELLINGS = {
    "official": lambda m: m,
    "transformers": lambda m: f"base_model.model.rwkv7.{m}",
    "vllm": lambda m: f"base_model.model.model.{m}",
    "fla": lambda m: "base_model.model.model." + fla_module(m),
}


def fla_module(module: str) -> str:
    names = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    _, i, mix, part = module.split(".")
    return f"layers.{i}.attn.{names[part]}" if mix == "att" else f"layers.{i}.ffn.{part}"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_every_layout(spelling: str, golden: Path, tmp_path: Path) -> None:
    base = read(golden / SOURCE)
    given, _ = adapted("LoRA", base)
    official = rn.Adapter(write(tmp_path / "a.safetensors", given), alpha=12)
    folder = tmp_path / "peft"
    folder.mkdir()
    say = SPELLINGS[spelling]
    renamed = {
        f"{say(n[:-7])}{n[-7:]}.weight" if spelling != "official" else n: a
        for n, a in given.items()
    }
    write(folder / "adapter_model.safetensors", renamed)
    config = {"peft_type": "LORA", "r": 5, "lora_alpha": 12}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    found = logits(golden / SOURCE, adapter=folder)
    assert np.array_equal(found, logits(golden / SOURCE, adapter=official))


# -- on the command line and in a server


def test_the_commands(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    file, copy = str(write(tmp_path / "a.safetensors", given)), tmp_path / "copy.safetensors"
    flags = ["--adapter", file, "--adapter-alpha", "12"]
    assert main(["convert", str(golden / SOURCE), str(copy), *flags]) == 0
    assert np.array_equal(logits(copy), logits(golden / SOURCE, adapter=rn.Adapter(file, 12)))
    capsys.readouterr()
    drawn = []
    common = ["--temperature", "0", "--max-tokens", "8", "--json", "--tokenizer", "abc"]
    common += ["--strategy", "cpu fp32", "--threads", "1"]
    for model in (["--model", str(golden / SOURCE), *flags], ["--model", str(copy)]):
        assert main(["generate", "hi", *model, *common]) == 0
        drawn.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert drawn[0] == drawn[1]
    for wrong, words in (
        (["--adapter", file], "--adapter-alpha"),
        (["--adapter-alpha", "3"], "belong to an adapter"),
        (["--adapter", str(tmp_path / "nothing"), "--adapter-alpha", "3"], "nothing: no such file"),
        (["--adapter", file, "--adapter-alpha", "-1"], "alpha must be between 0"),
    ):
        for command in (
            ["convert", str(golden / SOURCE), str(tmp_path / "x.safetensors")],
            ["generate", "hi", "--model", str(golden / SOURCE)],
            ["serve", "--port", "0", "--model", str(golden / SOURCE)],
        ):
            assert main([*command, *wrong]) == 2
            assert words in capsys.readouterr().err


def test_only_the_configured_model_of_a_server_has_it(golden: Path, tmp_path: Path) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    file = str(write(tmp_path / "a.safetensors", given))
    source = str(golden / SOURCE)
    config = Config(
        model=source, strategy="cpu fp32", threads=1, adapter=file, adapter_alpha=12, host="::1"
    )
    assert Config.from_environment(config.to_environment()) == config
    runtime = Runtime(config)
    own = runtime.known(Path(SOURCE).stem)
    assert own is not None and own.adapted
    loads = [runtime._loader.begin(c) for c in (own, Choice(source, SOURCE, "cpu fp32"))]
    tuned, plain = (load._loading.result() for load in loads)
    wanted = logits(golden / SOURCE, adapter=rn.Adapter(file, 12))
    assert np.array_equal(tuned.forward(IDS, full=True)[0], wanted)
    assert np.array_equal(plain.forward(IDS, full=True)[0], logits(golden / SOURCE))
    half = golden / "v70_L2_D64_bf16.pth"
    sizes = [
        model_loading.needed(Choice(str(half), "m", "cpu fp32", None, a)) for a in (True, False)
    ]
    assert sizes[0] > sizes[1]


# -- what does not fit


def refusal(golden: Path, adapter: Any) -> str:
    with pytest.raises(rn.CheckpointError) as caught:
        rn.Model.open(golden / SOURCE, adapter=adapter)
    return str(caught.value)


def test_what_does_not_fit_is_refused_by_its_name(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    key = "blocks.0.att.key"
    a, b = np.ones((4, 32), "<f4"), np.ones((32, 4), "<f4")
    pair = {f"{key}.lora_A": a, f"{key}.lora_B": b}
    shard = {f"{key}.disha": np.ones((4, 32), "<f4")}
    cases: list[tuple[Arrays, str]] = [
        ({f"{key}.lora_A": a}, r"att\.key\.lora_A' without its lora_B"),
        (pair | {f"{key}.lora_A": a[:, :31]}, r"att\.key\.lora_A' of the shape"),
        (pair | {f"{key}.lora_A": a[:3]}, r"att\.key\.lora_B' of the shape"),
        ({n: x.T for n, x in pair.items()}, r"att\.key\.lora_A' of the shape"),
        ({n.replace("0", "9"): x for n, x in pair.items()}, r"blocks\.9\.att\.key"),
        ({n.replace("key", "w1"): x for n, x in pair.items()}, r"blocks\.0\.att\.w1"),
        ({f"{key}.bone": np.ones((8, 4, 5), "<f4")}, r"att\.key\.bone' of the shape"),
        ({f"{key}.bone": np.ones((7, 4, 4), "<f4")}, r"att\.key\.bone' of the shape"),
        ({f"{key}.bone": np.ones((4, 31), "<f4")}, r"att\.key\.bone' of the shape"),
        (pair | {f"{key}.bone": np.ones((8, 4, 4), "<f4")}, "more than one way"),
        (shard | {"extra.weight": a}, r"'extra\.weight'"),
        (shard | {"ln_out.bias": a}, r"'ln_out\.bias' of the shape"),
        (shard | {f"{key}.weight": a}, "and a change of it"),
        ({f"{key}.lora.0": a}, "as web-rwkv has it"),
        ({"ln_out.bias": np.ones(32, "<f4")}, "holds no adapter"),
    ]
    for arrays, words in cases:
        message = refusal(golden, rn.Adapter(write(path, arrays), alpha=1))
        assert message.startswith(f"{path}: ") and re.search(words, message), (words, message)


def test_an_alpha_that_nobody_tells_is_asked_for(golden: Path, tmp_path: Path) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    assert "--adapter-alpha" in refusal(golden, write(tmp_path / "a.safetensors", given))
    for wrong in (0, -1, float("nan"), "16", float("inf")):
        with pytest.raises(rn.InvalidError, match="alpha"):
            rn.Adapter("x", alpha=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"peft_type": "\x1b[31m"}, r"type \\x1b\[31m"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*--adapter-init"),
        ({"init_lora_weights": "olora"}, "changed the base"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["blocks.0.att.w1"]}, "target_parameters"),
        ({"lora_alpha": None}, "--adapter-alpha"),
        ({"lora_alpha": "16"}, "no number"),
        ({"alpha_pattern": {"att.(key|value)": 3}}, "expression"),
    ],
    ids=str,
)
def test_settings_that_are_not_read(
    change: dict[str, Any], words: str, golden: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    shutil.copytree(golden / "adapters" / "lora", folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    source, _ = peft_base(golden, tmp_path)
    with pytest.raises(rn.CheckpointError, match=words):
        rn.Model.open(source, adapter=folder)


def test_folders_that_are_no_adapters(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    assert "adapter_model.safetensors" in refusal(golden, folder)
    shutil.copy(golden / "adapters" / "lora" / "adapter_model.safetensors", folder)
    assert "adapter_config.json" in refusal(golden, folder)
    for raw in (b"{", b"[]", b"\xff", b"[" * 100_000):
        (folder / "adapter_config.json").write_bytes(raw)
        assert "adapter_config.json is" in refusal(golden, folder)
    with pytest.raises(FileNotFoundError, match="nothing"):
        rn.Model.open(golden / SOURCE, adapter=tmp_path / "nothing")
    (tmp_path / "noise").write_bytes(b"noise" * 10)
    assert "neither a .pth" in refusal(golden, tmp_path / "noise")


def test_quantised_checkpoints_are_refused(golden: Path, tmp_path: Path) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    adapter = rn.Adapter(write(tmp_path / "a.safetensors", given), alpha=12)
    packed = tmp_path / "packed.safetensors"
    convert.to_safetensors(golden / SOURCE, packed, "i8")
    with pytest.raises(rn.CheckpointError, match="holds packed"):
        rn.Model.open(packed, adapter=adapter)


def test_a_copy_never_replaces_the_adapter(golden: Path, tmp_path: Path) -> None:
    given, _ = adapted("LoRA", read(golden / SOURCE))
    path = write(tmp_path / "a.safetensors", given)
    with pytest.raises(rn.InvalidError, match="the source itself"):
        convert.to_safetensors(
            golden / SOURCE, path, force=True, adapter=rn.Adapter(path, alpha=12)
        )


def test_the_engine_checks_what_a_caller_says(golden: Path) -> None:
    """rwkv_change_rows: sizes and places that would read beyond their arrays."""
    rows, a, b = (np.ones(n, np.float32) for n in (8, 8, 8))

    def call(*place: int, kind: int, rank: int, n_a: int = 8, n_b: int = 0) -> None:
        how = kind, rank, 1.0, float_pointer(a), n_a, float_pointer(b), n_b
        check(lib.rwkv_change_rows(float_pointer(rows), *place, *how))

    call(0, 2, 2, 4, kind=lib.RWKV_SHARD, rank=4)
    for wrong in (
        lambda: call(0, 2, 2, 4, kind=9, rank=4),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_SHARD, rank=0),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_SHARD, rank=3),
        lambda: call(1, 2, 2, 4, kind=lib.RWKV_SHARD, rank=4),
        lambda: call(-1, 1, 2, 4, kind=lib.RWKV_SHARD, rank=4),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_LOW_RANK, rank=2),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_LOW_RANK, rank=2, n_b=3),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_BAT_ROWS, rank=2),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_BAT_COLUMNS, rank=2, n_a=7),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_BAT_COLUMNS, rank=1 << 40),
        lambda: call(0, 2, 2, 4, kind=lib.RWKV_MAGNITUDE, rank=0),
    ):
        with pytest.raises(rn.InvalidError):
            wrong()
