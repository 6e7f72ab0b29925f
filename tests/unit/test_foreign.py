"""What is no checkpoint that is read here is refused by what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint
from rwkv_native.formats.safetensors import header
from web.cli import main

HYBRID = [
    "model.layers.0.self_attn.time_maa_w1",  # RWKV6Qwen2
    "model.layers.0.self_attn.x_r",  # ARWKV
    "model.layers.0.self_attn.w0",  # HRWKV7
    "model.layers.0.self_attn.receptance.weight",
]
TRANSFORMER = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]


def write(path: Path, names: list[str], **metadata: str) -> Path:
    rows = [(n, "F32", (1,)) for n in names]
    path.write_bytes(header(rows, metadata) + np.zeros(len(rows), "<f4").tobytes())
    return path


def reason(path: Path) -> str:
    with pytest.raises(rn.CheckpointError) as caught:
        checkpoint.read(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700
    return message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "'llama', which is no RWKV"),
        ({"model_type": "qwen2"}, "'qwen2', which is no RWKV"),
        ({"model_type": "rwkv6qwen2"}, "'rwkv6qwen2', a hybrid"),
        ({"model_type": "rwkv_hybrid"}, "'rwkv_hybrid', a hybrid"),
        ({"model_type": "rwkv079qwen3"}, "'rwkv079qwen3', a hybrid"),
        ({"model_type": "hxa079"}, "'hxa079', a hybrid"),
        ({"model_type": "any_to_rwkv"}, "'any_to_rwkv', a hybrid"),
        ({"model_type": "\x1b]0;x\x07"}, r"'\\x1b]0;x\\x07', which is no RWKV"),
        (
            {"model_type": "rwkv7", "quantization_config": {"quant_method": "compressed-tensors"}},
            "quantised by compressed-tensors",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"quantization_config": {}}, "quantised by something unnamed"),
    ],
    ids=str,
)
def test_folders_by_their_config(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", ["emb.weight"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words in reason(tmp_path)
    assert words in reason(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["rwkv", "rwkv4", "rwkv5", "rwkv6", "rwkv7", "rwkv7_native"])
def test_kinds_that_are_read(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", ["emb.weight"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert checkpoint.read(tmp_path).metadata["config.model_type"] == kind


@pytest.mark.parametrize("name", HYBRID)
def test_hybrids_by_their_tensors(name: str, tmp_path: Path) -> None:
    assert "is a hybrid" in reason(write(tmp_path / "x.safetensors", [*TRANSFORMER, name]))


def test_transformers_by_their_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.safetensors", TRANSFORMER)
    assert "is a transformer (layers.0.self_attn.q_proj.weight)" in reason(path)
    assert main(["info", str(path)]) == 2  # a script sees it, too
    assert "is a transformer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.blocks.0.att.key.weight_packed", "compressed-tensors"),
        ("model.blocks.0.att.key.weight_scale", "compressed-tensors"),
        ("model.layers.0.attn.r_proj.qweight", "GPTQ or AWQ"),
        ("blocks.0.ffn.key.weight.absmax", "bitsandbytes"),
    ],
)
def test_quantised_tensors(name: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    rows = {
        "emb.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        name: {"dtype": "I32", "shape": [1], "data_offsets": [4, 8]},
    }
    raw = json.dumps(rows).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    message = reason(path)
    assert f"is quantised by {words}" in message and name in message


def test_what_people_mistake_for_a_model(golden: Path, tmp_path: Path) -> None:
    tuned = golden / "v70_L3_D32_fp32_state.state.pth"
    state, adapter = tmp_path / "state.safetensors", golden / "adapters" / "lora"
    rn.Model.open(golden / "v70_L3_D32_fp32.pth").zero_state().save(state)
    for path, words in (
        (tuned, "is a tuned state, not a model"),
        (state, "is a state that State.save has written, not a model"),
        (adapter / "adapter_model.safetensors", "is an adapter, not a model"),
    ):
        with pytest.raises(rn.CheckpointError, match=words):
            rn.Model.open(path)


def test_a_download_that_ended_early(golden: Path, tmp_path: Path) -> None:
    whole = (golden / "v70_L3_D32_fp32.pth").read_bytes()
    path = tmp_path / "x.pth"
    for size in (200, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        assert "is cut off: the end of its zip is missing; fetch it again" in reason(path)


def test_rwkvq(tmp_path: Path) -> None:
    """Two formats of that ending: a container of its own, and .safetensors with a table."""
    own = tmp_path / "a.rwkvq"
    own.write_bytes(b"RWKVQ\0\1\0" + bytes(64))
    assert "is a .rwkvq file" in reason(own)
    table = write(tmp_path / "b.rwkvq", ["emb.weight::codes"], rwkvq='{"format": "rwkvq"}')
    assert "is a .rwkvq file" in reason(table)
