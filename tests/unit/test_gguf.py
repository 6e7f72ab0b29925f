"""The GGUF container by itself: what is written is read, and what the format allows is accepted."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import gguf


def read(path: Path) -> gguf.Contents:
    with path.open("rb") as file:
        return gguf.read(file, str(path), path.stat().st_size)


def test_values_come_back(tmp_path: Path) -> None:
    values = {
        "a.flag": True,
        "a.number": 7,
        "a.float": 0.5,
        "a.text": "größe",
        "a.words": [b"x", b"", b"\xff"],
        "a.numbers": [1, -2, 3],
    }
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf.header(values, [("t", "F32", (2, 3))]) + bytes(24))
    found = read(path)
    assert found.values == values | {"a.text": "größe".encode()}
    assert found.text("a.text") == "größe" and found.number("a.number") == 7
    assert found.text("a.number") is None and found.number("a.flag") is None
    assert found.tensors["t"].offset % gguf.ALIGNMENT == 0
    assert gguf.facts(found) == {
        "a.flag": "True", "a.number": "7", "a.float": "0.5", "a.text": "größe"
    }  # fmt: skip


def test_every_type_of_value(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2 * len(gguf.FIXED))
    wanted = {}
    for kind, form in gguf.FIXED.items():
        value = True if kind == 7 else 2
        raw = struct.pack(form, value)
        for name, body in (("v", raw), ("w", struct.pack("<IQ", kind, 3) + raw * 3)):
            key = f"{name}{kind}".encode()
            head += struct.pack("<Q", len(key)) + key
            head += struct.pack("<I", kind if name == "v" else gguf.ARRAY) + body
            wanted[key.decode()] = value if name == "v" else [value] * 3
    path = tmp_path / "x.gguf"
    path.write_bytes(head)
    assert read(path).values == wanted


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_other_alignments(alignment: int, tmp_path: Path) -> None:
    values = {"general.alignment": alignment}
    path = tmp_path / "x.gguf"
    raw = gguf.header(values, [("t", "BF16", (2, 2))])
    # Its own end: the name, then rank, two dimensions, type and offset.
    end = raw.index(b"\x01\0\0\0\0\0\0\0t") + 9 + 4 + 16 + 4 + 8
    start = end + -end % alignment
    numbers = np.arange(4, dtype=np.float32)
    path.write_bytes(raw[:end].ljust(start, b"\0") + convert.to_bf16(numbers).tobytes())
    tensor = read(path).tensors["t"]
    assert tensor.offset == start and tensor.shape == (2, 2)
    assert np.array_equal(tensor.to_numpy().ravel(), numbers)


def test_the_world_vocabulary_is_escaped_and_back() -> None:
    world = rn.Tokenizer.world()
    tokens = [world.decode_bytes([i]) for i in range(world.vocab_size)]
    words = [b"<s>", *(gguf.escaped(t) if t else b"[PAD%d]" % i for i, t in enumerate(tokens))][1:]
    words[0] = b"<s>"
    assert all(w.isascii() and b"\n" not in w for w in words)
    values = {"tokenizer.ggml.model": b"rwkv", "tokenizer.ggml.tokens": words}
    assert gguf.tokens(values) == tokens


def test_other_vocabularies_are_not_ours() -> None:
    words = [b"a", b"b"]
    assert gguf.tokens({}) is None
    assert gguf.tokens({"tokenizer.ggml.model": b"rwkv"}) is None
    assert gguf.tokens({"tokenizer.ggml.model": b"gpt2", "tokenizer.ggml.tokens": words}) is None


def test_kinds_of_tokens() -> None:
    """Control (3) and unused (5) ids have no text, whatever their word is."""
    values = {
        "tokenizer.ggml.model": b"rwkv",
        "tokenizer.ggml.tokens": [b"<s>", b"a", b"<stop>", b"\\x00", b"spare", b"<s>"],
        "tokenizer.ggml.token_type": [3, 1, 3, 1, 5, 1],
    }
    assert gguf.tokens(values) == [b"", b"a", b"", b"\0", b"", b"<s>"]


def test_llama_cpp_names_and_shapes(golden: Path, tmp_path: Path) -> None:
    """What llama.cpp asks of an rwkv7 file, by its own list of names."""
    path = tmp_path / "x.gguf"
    convert.to_gguf(golden / "v70_L3_D32_fp32.pth", path, "fp16")
    found = read(path)
    shapes = {n: (t.dtype, t.shape) for n, t in found.tensors.items()}
    d, f, v, w, a, g = 32, 128, 257, 8, 4, 8
    layer = {
        "attn_norm.weight": (d,), "attn_norm.bias": (d,),
        "attn_norm_2.weight": (d,), "attn_norm_2.bias": (d,),
        "time_mix_w0.weight": (d,), "time_mix_w1.weight": (w, d), "time_mix_w2.weight": (d, w),
        "time_mix_a0.weight": (d,), "time_mix_a1.weight": (a, d), "time_mix_a2.weight": (d, a),
        "time_mix_v0.weight": (d,), "time_mix_v1.weight": (a, d), "time_mix_v2.weight": (d, a),
        "time_mix_g1.weight": (g, d), "time_mix_g2.weight": (d, g),
        "time_mix_lerp_fused.weight": (6, 1, 1, d), "time_mix_k_k.weight": (d,),
        "time_mix_k_a.weight": (d,), "time_mix_r_k.weight": (d,),
        "time_mix_key.weight": (d, d), "time_mix_value.weight": (d, d),
        "time_mix_receptance.weight": (d, d), "time_mix_output.weight": (d, d),
        "time_mix_ln.weight": (d,), "time_mix_ln.bias": (d,),
        "channel_mix_lerp_k.weight": (d,), "channel_mix_key.weight": (f, d),
        "channel_mix_value.weight": (d, f),
    }  # fmt: skip
    wanted = {f"blk.{i}.{n}": s for i in range(3) for n, s in layer.items()}
    wanted |= {
        "token_embd.weight": (v, d), "output.weight": (v, d), "token_embd_norm.weight": (d,),
        "token_embd_norm.bias": (d,), "output_norm.weight": (d,), "output_norm.bias": (d,),
    }  # fmt: skip
    assert {n: s for n, (_, s) in shapes.items()} == wanted
    large = {"token_embd", "output", "key", "value", "receptance"}
    for name, (dtype, shape) in shapes.items():
        matrix = name.split(".")[-2].split("_mix_")[-1] in large and len(shape) == 2
        assert dtype == ("F16" if matrix else "F32"), name
    numbers = {k: v for k, v in found.values.items() if k.startswith("rwkv7.")}
    assert numbers["rwkv7.attention.decay_lora_rank"] == w
    assert numbers["rwkv7.attention.value_residual_mix_lora_rank"] == 4
    assert numbers["rwkv7.wkv.head_size"] == 16 and numbers["rwkv7.block_count"] == 3
    assert checkpoint.read(path).version == "7"
