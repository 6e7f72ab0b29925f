"""tokenizer.json files: a small byte-level BPE trained here, of the kind that 20B is, and other
models and decoders of the `tokenizers` package."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Made
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import rwkv_native as rn
from rwkv_native.tokenizers import huggingface
from rwkv_native.tokenizers.huggingface import byte_alphabet

TEXTS = [
    "User: Hello there, how are you?\n\nAssistant: I am fine, thank you.\n\n",
    "def f(x):\n    return x + 1\n\n\nnaïve café, Привет мир, 你好世界 🙂\n",
    "the then there these this that with without within\t\ttabs and    blanks",
] * 20


@pytest.fixture(scope="module")
def made() -> Made:
    """Normaliser, split, decoder, specials and added blanks as 20B has them."""
    made = Made(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|endoftext|>", "<|padding|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.add_tokens([" " * n for n in range(24, 1, -1)])
    return made


@pytest.fixture(scope="module")
def opened(made: Made, tmp_path_factory: pytest.TempPathFactory) -> rn.Tokenizer:
    path = tmp_path_factory.mktemp("hf") / "small.json"
    made.save(str(path))
    return rn.Tokenizer.open(path)


def test_facts(opened: rn.Tokenizer, made: Made) -> None:
    assert (opened.name, opened.end_ids) == ("small", (0,))
    assert opened.vocab_size == made.get_vocab_size()


@pytest.mark.parametrize("text", [*TEXTS[:3], "", " ", "\n\n", "e\u0301", "a\0b", "<|endoftext|>x"])
def test_same_ids_as_the_library(text: str, opened: rn.Tokenizer, made: Made) -> None:
    ids = made.encode(text, add_special_tokens=False).ids
    assert opened.encode(text) == opened.encode_prompt(text) == ids
    assert opened.decode(ids) == made.decode(ids)


@settings(max_examples=100)
@given(text=st.text(max_size=80))
def test_any_text(text: str, opened: rn.Tokenizer, made: Made) -> None:
    ids = opened.encode(text)
    assert ids == made.encode(text).ids
    assert opened._printed(ids) == opened.decode_bytes(ids)
    assert opened.decode(ids) == normalizers.NFC().normalize_str(text).replace("<|endoftext|>", "")


def test_every_byte(opened: rn.Tokenizer, made: Made) -> None:
    """Each single byte is a token, whole characters or not."""
    alphabet = byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    for character, byte in alphabet.items():
        assert opened.decode_bytes([made.token_to_id(character)]) == bytes([byte])
    assert opened.decode([made.token_to_id("Ã")]) == "�"


def test_specials_and_added_tokens(opened: rn.Tokenizer, made: Made) -> None:
    assert opened.decode([0, 1]) == "", "specials print nothing"
    blanks = made.token_to_id("    ")
    assert opened.decode_bytes([blanks]) == b"    " and blanks in opened.encode("a    b")


def test_no_template(made: Made, tmp_path: Path) -> None:
    """What a template adds around a text is left out: prompts begin as they say themselves."""
    copy = Made.from_str(made.to_str())
    copy.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    path = tmp_path / "templated.json"
    copy.save(str(path))
    assert copy.encode("the").ids[0] == 0
    assert rn.Tokenizer.open(path).encode("the") == made.encode("the").ids


def open_json(description: dict[str, Any], folder: Path, name: str = "t") -> rn.Tokenizer:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(description))
    return rn.Tokenizer.open(path)


@pytest.fixture(scope="module")
def like_20b(made: Made, tmp_path_factory: pytest.TempPathFactory) -> rn.Tokenizer:
    """The small BPE with the two ids of 20B that matter: 187 and 535."""
    description = json.loads(made.to_str())
    vocab = description["model"]["vocab"]
    by_id = {id: word for word, id in vocab.items()}
    added = {entry["content"] for entry in description["added_tokens"]}
    assert "ĊĊ" in vocab, "two new lines are common enough to be a token"
    old, swapped = vocab["Ċ"], by_id[187]
    vocab["Ċ"], vocab[swapped] = 187, old
    vocab["ĊĊ"] = 535
    assert not added & {"Ċ", "ĊĊ", swapped}
    return open_json(description, tmp_path_factory.mktemp("20b"), "20B_tokenizer")


def test_20b_prompts(like_20b: rn.Tokenizer) -> None:
    """Two new lines at the very end of a prompt stay two tokens."""
    assert (like_20b.name, like_20b.end_ids) == ("20B", (0,))
    assert like_20b.encode("\n\n") == [535] and like_20b.decode([535, 187]) == "\n\n\n"
    assert like_20b.encode_prompt("\n\n") == [187, 187]
    assert like_20b.encode_array("\n\n").tolist() == [187, 187]
    inside = like_20b.encode("User\n\n")
    assert like_20b.encode_prompt("User\n\n") == [*inside[:-1], 187, 187] and inside[-1] == 535
    for text in ("", "User\n\nAlice:", "\n\n x"):
        assert like_20b.encode_prompt(text) == like_20b.encode(text)


def test_the_engine_takes_prompts_so(
    monkeypatch: pytest.MonkeyPatch, small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    calls: list[str] = []
    encode = rn.Tokenizer.encode_array

    def spy(self: rn.Tokenizer, text: str) -> np.ndarray:
        calls.append(text)
        return encode(self, text)

    monkeypatch.setattr(rn.Tokenizer, "encode_array", spy)
    with rn.Engine(small_model, byte_tokenizer) as engine:
        engine.submit("a\n\n", rn.Sampling(max_tokens=1))
    assert calls == ["a\n\n"]


def test_recorded_20b(shared: Path) -> None:
    """With the user's own file, named by RWKV_20B_TOKENIZER."""
    path = os.environ.get("RWKV_20B_TOKENIZER")
    if not path:
        pytest.skip("RWKV_20B_TOKENIZER names no file")
    tokenizer = rn.Tokenizer.open(path)
    assert tokenizer.name == "20B"
    for case in json.loads((shared / "golden" / "tokenizers.json").read_text())["20B"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


# -- other kinds: the bytes of an id are what it adds after another


def printed(tokenizer: rn.Tokenizer, text: str) -> str:
    return tokenizer._printed(tokenizer.encode(text)).decode("utf-8", "replace")


def test_word_level(tmp_path: Path) -> None:
    """The form of the music files: words joined by blanks."""
    made = Made(models.WordLevel({"<pad>": 0, "t1": 1, "pi:4a:7": 2}, unk_token="<pad>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<pad>"])
    tokenizer = open_json(json.loads(made.to_str()), tmp_path, "tokenizer-midi")
    assert (tokenizer.name, tokenizer.end_ids) == ("tokenizer-midi", (0,))
    assert tokenizer.encode("PI:4A:7 what t1") == [2, 0, 1]
    assert tokenizer.decode([2, 0, 1]) == "pi:4a:7 t1"
    assert printed(tokenizer, "pi:4a:7 t1") == " pi:4a:7 t1"


def test_word_piece(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}
    made = Made(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    tokenizer = open_json(json.loads(made.to_str()), tmp_path)
    assert tokenizer.encode("playing now") == [1, 2, 3]
    assert tokenizer.decode([1, 2, 3]) == "playing now"
    assert printed(tokenizer, "playing now") == " playing now"


def test_pieces_with_byte_fallback(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "▁the": 1, "▁cat": 2, "s": 3, "▁": 4}
    vocab |= {f"<0x{b:02X}>": 5 + b for b in range(256)}
    made = Made(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = open_json(json.loads(made.to_str()), tmp_path)
    assert tokenizer.decode([1, 2, 3]) == "the cats"
    assert tokenizer._printed([1, 2, 3]) == b" the cats"
    euro = [5 + b for b in "€".encode()]
    assert tokenizer.encode("€") == [4, *euro]
    assert tokenizer._printed(euro).decode() == "€", "bytes of a character come one by one"


def test_ends_by_name(tmp_path: Path) -> None:
    made = Made(models.WordLevel({"a": 0, "</s>": 1, "<|endoftext|>": 2}))
    made.add_special_tokens(["</s>"])
    tokenizer = open_json(json.loads(made.to_str()), tmp_path)
    assert tokenizer.end_ids == (1,), "id 0 is a word here, and the other name is ordinary text"
    plain = Made(models.WordLevel({"a": 0, "b": 1}))
    assert open_json(json.loads(plain.to_str()), tmp_path).end_ids == (0,)


def test_files_that_load_but_cannot_work(tmp_path: Path) -> None:
    """What the package finds out only when it encodes is told as everything else."""
    made = Made(models.WordPiece({"play": 0, "now": 1}, unk_token="[UNK]"))
    tokenizer = open_json(json.loads(made.to_str()), tmp_path)
    assert tokenizer.encode("play") == [0]
    with pytest.raises(rn.InvalidError, match=r"cannot encode this text: .*\[UNK\]"):
        tokenizer.encode("word")


def test_bytes_that_are_no_text(opened: rn.Tokenizer) -> None:
    with pytest.raises(rn.InvalidError, match="UTF-8"):
        opened.encode_bytes(b"a\xff")
    with pytest.raises(rn.InvalidError, match="surrogate"):
        opened.encode("\ud800")


# -- World, as transformers holds it


@functools.cache
def world_words() -> dict[int, str]:
    """World's words in GPT-2's characters for bytes."""
    world = rn.Tokenizer.world()
    chars = {byte: char for char, byte in byte_alphabet().items()}
    words = (world.decode_bytes([id]) for id in range(1, 65530))
    return {id: "".join(chars[b] for b in word) for id, word in enumerate(words, 1)}


def as_transformers(reserved: int = 6, change: dict[int, str] | None = None) -> str:
    """An expression of all words, the longest first; ids beyond them reserved."""
    spelt = world_words() | (change or {})
    vocab = {"<|endoftext|>": 0} | {word: id for id, word in spelt.items()}
    vocab |= {f"\ue000rwkv_reserved_{65530 + i}": 65530 + i for i in range(reserved)}
    expression = "|".join(map(re.escape, sorted(spelt.values(), key=len, reverse=True)))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level["use_regex"] = False
    split = {"type": "Split", "pattern": {"Regex": f"(?:{expression})"}, "behavior": "Isolated"}
    split["invert"] = False
    special = {"id": 0, "content": "<|endoftext|>", "special": True, "normalized": False}
    special |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [special],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [level, split]},
            "decoder": level,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<|endoftext|>"},
        }
    )


@pytest.mark.parametrize("reserved", [6, 0])
def test_world_is_recognised(reserved: int, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(as_transformers(reserved))
    monkeypatch.setattr(huggingface, "_made", None)  # the package is not asked
    assert rn.Tokenizer.open(path) is rn.Tokenizer.world()


@pytest.mark.parametrize(
    "change",
    [{65529: "\u0120" * 127 + "!"}, {300: "zzzz"}, {40000: "a" * 9, 40001: "b" * 9}],
)
def test_what_differs_from_world_in_one_word_is_not_world(
    change: dict[int, str], tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(as_transformers(change=change))
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    small = json.dumps({"version": "1.0", "model": model})
    real = huggingface._made
    monkeypatch.setattr(huggingface, "_made", lambda text: real(small))  # not the expression
    assert rn.Tokenizer.open(path).name == "mine"
