"""Writes the first inputs of every target into corpus/: what our own writers and attacks make.

    python tests/fuzz/seeds.py

Inputs that fuzzing found lie there, too, and are left alone.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

import parsers

sys.path.insert(0, str(parsers.ROOT / "tests"))
sys.path.insert(0, str(parsers.ROOT / "tests" / "attacks"))
import midi_files
import test_checkpoints as pth
import test_containers as containers
import writers

LARGEST = 2500  # bytes of an input
VIEW = writers.tensor((3, 2), (1, 3))
PARAMETER = writers.call(
    "torch._utils._rebuild_parameter",
    b"(" + writers.tensor() + b"\x88" + writers.call("collections.OrderedDict", b")") + b"t",
)
STATE = {"dtype": "F32", "shape": [2, 16, 16], "data_offsets": [0, 2048]}


def line(header: object, data: bytes = b"") -> bytes:
    return json.dumps(header).encode() + b"\n" + data


def adapter_seeds() -> dict[str, bytes]:
    """Of every kind, for the model that the target has."""
    key, config = "base_model.model.blocks.0.att.key", {"peft_type": "LORA", "lora_alpha": 4}
    pair = {f"{key}.lora_A": [2, 32], f"{key}.lora_B": [32, 2]}
    table = {"emb.lora_embedding_A": [1, 100], "emb.lora_embedding_B": [32, 1]}
    fla = "model.layers.0.attn.k_proj"
    mini = {"peft_type": "MISS", "init_weights": "mini", "mini_r": 4}
    rooted = config | {"use_rslora": True, "alpha_pattern": {"att.key": 8}}
    kinds: dict[str, tuple[dict[str, object], dict[str, list[int]]]] = {
        "lora": (config, {f"{name}.weight": shape for name, shape in pair.items()}),
        "dora": (rooted, pair | {f"{key}.lora_magnitude_vector": [32]}),
        "embedding": (config, table | {"ln_out.bias": [32]}),
        "miss": ({"peft_type": "MISS"}, {f"{key}.miss_block": [3, 32]}),
        "mini": (mini, {f"{key}.miss_block": [3, 4]}),
        "bat": ({"peft_type": "BONE"}, {"blocks.1.ffn.key.bone": [8, 4, 4]}),
        "rows": ({"peft_type": "BONE"}, {"model.rwkv7.blocks.1.ffn.value.bone_block": [8, 4, 4]}),
        "fla": (config, {f"{fla}.lora_A": [1, 32], f"{fla}.lora_B": [32, 1]}),
    }
    found = {}
    for name, (about, shapes) in kinds.items():
        rows: dict[str, object] = {}
        at = 0
        for tensor, shape in shapes.items():
            end = at + 4 * math.prod(shape)
            rows[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
            at = end
        found[name] = line(about) + line(rows)
    return found


def seeds() -> dict[str, dict[str, bytes]]:
    attacks = {**pth.ATTACKS, **containers.ATTACKS}
    small = {name: raw for name, (raw, _) in attacks.items() if len(raw) <= LARGEST}
    found: dict[str, dict[str, bytes]] = {name: {} for name in parsers.TARGETS}
    found["file"] = {f"attack-{name}": raw for name, raw in small.items()} | {
        "zip": writers.archive(writers.GOOD_PICKLE),
        "legacy": writers.legacy(writers.GOOD_PICKLE),
        "safetensors": writers.safetensors({"x": writers.entry()}),
        "gguf": writers.gguf_file(),
    }
    found["pickle"] = {f"attack-{n}": b"\x80\x02" + raw + b"." for n, (raw, _) in
                       pth.PICKLES.items() if len(raw) < LARGEST}  # fmt: skip
    found["pickle"] |= {
        "good": writers.GOOD_PICKLE,
        "view": writers.state_dict(VIEW),
        "parameter": writers.state_dict(PARAMETER),
        "tuned": writers.state_dict(writers.tensor((1, 2, 3), (6, 3, 1)),
                                    "blocks.0.att.time_state"),
    }  # fmt: skip
    good = writers.legacy(writers.GOOD_PICKLE)
    found["chain"] = {"good": good[good.index(writers.GOOD_PICKLE):]}  # fmt: skip
    for name, raw in small.items():
        start = raw.find(writers.SYSTEM)
        if raw.startswith(b"\x80") and start > 0:
            found["chain"][name] = raw[start + len(writers.SYSTEM) :]
    rows = {"emb.weight": writers.entry(), "__metadata__": {"rwkv.version": "7"}}
    found["safetensors"] = {"good": line(rows)}
    for name, raw in small.items():
        if raw[8:9] == b"{":
            n = struct.unpack("<Q", raw[:8])[0]
            found["safetensors"][name] = raw[8 : 8 + n].replace(b"\n", b" ") + b"\n" + raw[8 + n :]
    names = {
        "blocks.0.att.r_k": [2, 3], "blocks.0.att.w1": [3, 2], "emb.weight": [4, 3],
        "model.layers.0.attn.x_x": [6, 1, 1, 3], "model.layers.0.attn.w_lora.lora.0.weight": [2, 3],
        "rwkv.blocks.0.attention.key.weight": [3, 3], "rwkv.embeddings.weight": [4, 3],
        "blocks.0.att.time_mix_w1": [2, 3], "blocks.0.att.time_first": [2, 2],
    }  # fmt: skip
    for first in range(0, len(names), 2):
        rows, at = {}, 0
        for name, shape in list(names.items())[first : first + 2]:
            count = 1
            for n in shape:
                count *= n
            rows[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + 2 * count]}
            at += 2 * count
        found["safetensors"][f"layout-{first}"] = line(rows)
    found["index"] = {n: raw for n, (raw, _) in containers.INDICES.items() if len(raw) < LARGEST}
    weights = {"weight_map": {"emb.weight": "a.bin", "abc.weight": "b.bin"}}
    found["index"]["good"] = json.dumps(weights).encode() + b'\0{"model_type": "rwkv7"}'
    found["index"]["wide config"] = found["index"]["good"].partition(b"\0")[0] + b"\0"
    found["index"]["wide config"] += '{"model_type": "rwkv7"}'.encode("utf-16-be")
    about = b'{"model_type": "rwkv7", "context_length": 25600, "embedding_layer_norm_fused": true'
    found["index"]["folded"] = found["index"]["good"].partition(b"\0")[0] + b"\0" + about + b"}"
    found["adapter"] = adapter_seeds()
    kind = {"rwkv.kind": "state", "rwkv.version": "7"}
    parts: dict[str, object] = {"__metadata__": kind}
    at = 0
    for name, shape in parsers.model().state_parts.items():
        size = 4
        for n in shape:
            size *= n
        parts[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    tuned, at = {}, 0
    _, heads, n, _ = parsers.model().state_parts["wkv"]
    for i in range(3):
        size = 4 * heads * n * n
        tuned[f"blocks.{i}.att.time_state"] = {
            "dtype": "F32", "shape": [heads, n, n], "data_offsets": [at, at + size]}  # fmt: skip
        at += size
    found["state"] = {"saved": line(parts), "tuned": line(tuned), "other": line(rows)}
    found["world_list"] = {
        "good": b"1 'a' 1\n2 \"b'\" 2\n3 b'\\xff' 1\n4 '\\n' 1\n5 'ab' 2\n",
        "escapes": b"1 '\\u00e9' 2\n2 '\\U0001f600' 4\n3 '\\x80' 2\n4 '\\\\' 1\n",
        "windows": b"1 'a' 1\r\n2 ' ' 1\r\n",
        "far": b"1048575 'z' 1\n",
    }
    vocab = {"a": 0, "b": 1, "ab": 2, "[UNK]": 3, "##b": 4, "<0x0A>": 5}
    for name, model in {
        "bpe": {"type": "BPE", "vocab": vocab, "merges": ["a b"], "byte_fallback": True},
        "wordpiece": {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]",
                      "continuing_subword_prefix": "##", "max_input_chars_per_word": 9},
        "wordlevel": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
        "unigram": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]], "unk_id": 0},
    }.items():  # fmt: skip
        for kind, decoder in {
            "bytes": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
            "none": None,
            "fallback": {"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                                                          {"type": "Fuse"}]},
            "piece": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        }.items():  # fmt: skip
            whole = {
                "version": "1.0", "truncation": None, "padding": None,
                "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True,
                                  "single_word": False, "lstrip": False, "rstrip": False,
                                  "normalized": False}],
                "normalizer": None, "pre_tokenizer": None, "post_processor": None,
                "decoder": decoder, "model": model,
            }  # fmt: skip
            found["tokenizer_json"][f"{name}-{kind}"] = json.dumps(whole).encode()
    remi = {"tokenization": "REMI", "_vocab_base": {"PAD_None": 0, "BOS_None": 1, "EOS_None": 2}}
    found["tokenizer_json"]["remi"] = json.dumps(remi).encode()
    music = json.loads((parsers.ROOT / "tests" / "unit" / "data" / "midi.json").read_text())
    found["midi_file"] = {c["name"]: bytes.fromhex(c["file"]) for c in music["midi_to_text"]}
    left = {name.replace(" ", "-"): data for name, (data, _) in midi_files.KINDS.items()}
    found["midi_file"] |= left  # by programs and people
    found["notes"] = {c["name"]: c["text"].encode() for c in music["text_to_midi"]}
    return found | native()


def native() -> dict[str, dict[str, bytes]]:
    """Of the targets in C++; their own comments say what the bytes mean."""

    def text(value: bytes) -> bytes:
        return bytes([len(value)]) + value

    strategies = ["cpu fp32", "cuda fp16 *10+ -> cpu bf16", "auto", "cpu fp32i8 *3 -> cuda:1 fp16",
                  "cpu fp32 *2 -> cpu bf16 *1+ -> cpu fp16", "cpu"]  # fmt: skip
    answers = [
        (b"\n\nUser", [b"a\n", b"\nUs", b"er"]), (b"aab", [b"aa", b"ab"]),
        ("\u00e9".encode(), [b"x\xc3", b"\xa9"]), (b"\xff", [b"a"]),
        (b"\xef\xbf\xbd", [b"\xf0\x9f", b"\x98x", b"\xed\xa0\x80"]),
    ]  # fmt: skip
    found = {
        "fuzz_strategy": {f"{i}": b"\x05\x02" + s.encode() for i, s in enumerate(strategies)},
        "fuzz_output": {
            f"{i}": b"\x02" + text(stop) + text(b"zz") + b"".join(map(text, tokens))
            for i, (stop, tokens) in enumerate(answers)
        },
        "fuzz_vocab": {
            "file": b"\0" + b"1 'a' 1\n2 'ab' 2\n3 b'\\xff' 1\n\0abaab\xff",
            "escapes": b"\0" + b"1 '\\u00e9' 2\r\n7 \"'\" 1\n\0'\xc3\xa9",
            "tokens": b"\1" + text(b"") + text(b"ab") + text(b"a") + text(b"b") + b"\0aabab",
        },
        "fuzz_index": {f"plain-{i}": bytes([i]) + text(b"cpu fp32") for i in range(9)},
    }
    found["fuzz_index"]["adapted"] = bytes([251]) + text(b"cpu fp32")
    for row in range(30):  # another shape for each
        found["fuzz_index"][f"adapted-{row}"] = bytes([251, 0, row + 40, 7, 0, 11])
    for kind in range(14):
        found["fuzz_index"][f"change-{kind}"] = bytes([kind % 9, 0, 3, kind, 10, 0, 0, 1])
    return found


def main() -> None:
    for target, inputs in seeds().items():
        folder = parsers.CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, raw in inputs.items():
            plain = "".join(c if c.isalnum() else "-" for c in name)
            Path(folder / f"seed-{plain}").write_bytes(raw)


if __name__ == "__main__":
    main()
