"""World and bytes against recorded ids and a slow, obvious oracle; and which tokenizer a model, a
name or a file means, hostile files included."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkv_native as rn
from rwkv_native.tokenizers import world_file

CASES = json.loads((Path(__file__).parent / "data" / "world-tokenizer.json").read_text())


@pytest.fixture(scope="module")
def world() -> rn.Tokenizer:
    return rn.Tokenizer.world()


@pytest.fixture(scope="module")
def oracle() -> dict[bytes, int]:
    return read_oracle()


@functools.cache
def read_oracle() -> dict[bytes, int]:
    """The vocabulary file, read by Python's own literal parser."""
    table = {}
    for line in world_file().read_text(encoding="utf-8").splitlines():
        number, literal = line[: line.index(" ")], line[line.index(" ") : line.rindex(" ")]
        size = int(line[line.rindex(" ") :])
        value = ast.literal_eval(literal.strip())
        raw = value.encode() if isinstance(value, str) else value
        assert len(raw) == size
        table[raw] = int(number)
    return table


def longest_match(table: dict[bytes, int], raw: bytes) -> list[int]:
    ids, at = [], 0
    while at < len(raw):
        for size in range(min(128, len(raw) - at), 0, -1):
            if (found := table.get(raw[at : at + size])) is not None:
                ids.append(found)
                at += size
                break
    return ids


def test_facts(world: rn.Tokenizer, oracle: dict[bytes, int]) -> None:
    facts = CASES["world_facts"]
    assert len(oracle) == facts["count"] and max(oracle.values()) == facts["max_id"]
    assert world.vocab_size == facts["max_id"] + 1
    assert max(map(len, oracle)) == facts["max_len"]
    assert (world.name, world.end_ids) == ("world", (0,))


@pytest.mark.parametrize("case", CASES["world"], ids=lambda c: repr(c["text"][:20]))
def test_recorded_texts(case: dict, world: rn.Tokenizer) -> None:
    assert world.encode(case["text"]) == case["ids"]
    assert world.decode(case["ids"]) == case["text"]


@pytest.mark.parametrize("case", CASES["world_bytes"], ids=lambda c: c["hex"][:20])
def test_recorded_bytes(case: dict, world: rn.Tokenizer) -> None:
    raw = bytes.fromhex(case["hex"])
    assert world.encode_bytes(raw) == case["ids"]
    assert world.decode_bytes(case["ids"]) == raw
    assert world.decode(case["ids"]) == raw.decode("utf-8", "replace")


def test_every_token_is_itself(world: rn.Tokenizer, oracle: dict[bytes, int]) -> None:
    for raw, number in oracle.items():
        assert world.decode_bytes([number]) == raw
    for raw, number in list(oracle.items())[::37]:
        assert world.encode_bytes(raw) == [number]


@settings(max_examples=300)
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    tokenizer = rn.Tokenizer.world()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == longest_match(read_oracle(), text.encode())
    assert rn.Tokenizer.world_bytes().decode(rn.Tokenizer.world_bytes().encode(text)) == text


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    tokenizer = rn.Tokenizer.world()
    ids = tokenizer.encode_bytes(raw)
    assert tokenizer.decode_bytes(ids) == raw
    assert ids == longest_match(read_oracle(), raw)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 65529), max_size=60))
def test_any_ids(ids: list[int]) -> None:
    """Decoding any ids gives bytes that encode to ids of the same bytes."""
    tokenizer = rn.Tokenizer.world()
    raw = tokenizer.decode_bytes(ids)
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(raw)) == raw


def test_end_of_document_has_no_text(world: rn.Tokenizer) -> None:
    assert world.decode([0]) == "" and world.decode([33155, 0, 34]) == "Hello!"
    assert world.decode([]) == "" and world.encode("") == []


def test_long_texts(world: rn.Tokenizer) -> None:
    text = "The quick brown fox. " * 20_000
    ids = world.encode(text)
    assert world.decode(ids) == text and len(ids) == 100_001
    spaces = " " * 100_000
    assert world.decode(world.encode(spaces)) == spaces


@pytest.mark.parametrize("ids", [[65530], [-1], [2**31], [1.5], "12", [None]])
def test_wrong_ids(ids: object, world: rn.Tokenizer) -> None:
    with pytest.raises(rn.InvalidError, match="ids"):
        world.decode(ids)


def test_arrays_are_the_lists(world: rn.Tokenizer) -> None:
    for tokenizer in (world, rn.Tokenizer.named("midi"), rn.Tokenizer.world_bytes()):
        for text in ("", "pi:4a:7 t12", "Grüße, 日本\n\n"):
            ids = tokenizer.encode_array(text)
            assert ids.dtype == np.int32 and ids.ndim == 1
            assert ids.tolist() == tokenizer.encode_prompt(text)
    for wrong in ("\ud800", b"a", None):
        with pytest.raises(rn.InvalidError, match="text"):
            world.encode_array(wrong)


def test_wrong_texts(world: rn.Tokenizer) -> None:
    with pytest.raises(rn.InvalidError, match="lone surrogate at position 2"):
        world.encode("ab\ud800")
    with pytest.raises(rn.InvalidError, match="bytes"):
        world.encode(b"ab")
    with pytest.raises(rn.InvalidError):
        rn.Tokenizer([b"a", b"b"]).encode("abc")


def test_world_bytes() -> None:
    tokenizer = rn.Tokenizer.world_bytes()
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_ids) == ("world-bytes", 257, (0,))
    assert tokenizer.encode("aé\n") == [98, 0xC3 + 1, 0xA9 + 1, 11]
    assert tokenizer.decode_bytes(range(257)) == bytes(range(256))
    with pytest.raises(rn.InvalidError):
        tokenizer.decode([257])


def test_own_tokens() -> None:
    tokenizer = rn.Tokenizer([b"", b"a", b"ab", b"b", b"", b"ba"], name="tiny", end_ids=(0, 4))
    assert (tokenizer.name, tokenizer.end_ids, tokenizer.vocab_size) == ("tiny", (0, 4), 6)
    assert tokenizer.encode("abab") == [2, 2] and tokenizer.encode("baab") == [5, 2]
    assert tokenizer.decode([4, 1, 0, 3]) == "ab"


def model_with(vocab: int, tokens: list[bytes] | None = None, **metadata: str) -> object:
    info = SimpleNamespace(vocab=vocab, metadata=metadata, path="m.pth")
    return SimpleNamespace(info=info, tokenizer_tokens=tokens)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model_with(100), "abc"),
        (model_with(128), "abc"),
        (model_with(129), "world-bytes"),
        (model_with(257), "world-bytes"),
        (model_with(2176), "midi-piano"),
        (model_with(20095), "midi-piano"),
        (model_with(20096), "midi"),
        (model_with(50276), "midi"),
        (model_with(65536), "world"),
        (model_with(65600), "world"),
        (model_with(100, **{"rwkv.tokenizer": "midi"}), "midi"),
        (model_with(50277, **{"rwkv.tokenizer": "world-bytes"}), "world-bytes"),
        (model_with(257, **{"rwkv.tokenizer": "world"}), "world"),
        (model_with(257, **{"rwkv.tokenizer": "rwkv_vocab_v20230424"}), "world"),
        (model_with(65536, [b"<s>", b"a", b"b"]), "gguf"),
        (model_with(65536, [b"<s>", b"a"], **{"rwkv.tokenizer": "abc"}), "abc"),
    ],
)
def test_for_model(model: object, name: str) -> None:
    assert rn.Tokenizer.for_model(model).name == name


@pytest.mark.parametrize(
    ("vocab", "name"), [(258, "REMI"), (2175, "REMI"), (50277, "20B"), (65535, "20B")]
)
def test_for_model_that_needs_a_file(vocab: int, name: str) -> None:
    with pytest.raises(rn.UnsupportedError, match=f"{vocab} rows .* {name}, .*--tokenizer"):
        rn.Tokenizer.for_model(model_with(vocab))


@pytest.mark.parametrize("name", ["piano", "/etc/passwd", "20B_tokenizer.json", "../x.txt", ""])
def test_for_model_with_an_unknown_name(name: str) -> None:
    """A model's file names tokenizers; it does not choose files to open."""
    with pytest.raises(rn.UnsupportedError, match=f"tokenizer '{name}'.*--tokenizer"):
        rn.Tokenizer.for_model(model_with(257, **{"rwkv.tokenizer": name}))


def test_tokens_that_a_file_carries(world: rn.Tokenizer) -> None:
    tokens = [b"<s>", b"a", b"ab", b"\xc3", b"\xa9", b"<", b"s", b">"]
    tokenizer = rn.Tokenizer.for_model(model_with(8, tokens))
    assert tokenizer.encode("abaé<s>") == [2, 1, 3, 4, 5, 6, 7], "id 0 is no text"
    assert tokenizer.decode([2, 0, 3, 4]) == "abé" and tokenizer.end_ids == (0,)
    whole = [world.decode_bytes([i]) for i in range(65530)] + [b"[PAD]"] * 6
    tokenizer = rn.Tokenizer.for_model(model_with(65536, whole))
    assert tokenizer.name == "world" and tokenizer.vocab_size == 65536
    assert tokenizer.encode("Hello, world!") == world.encode("Hello, world!")


@pytest.mark.parametrize("tokens", [[], [b"<s>"], [b"<s>", b""]])
def test_a_file_without_words(tokens: list[bytes]) -> None:
    with pytest.raises(rn.InvalidError, match=r"the tokens in m\.pth: the vocabulary is empty"):
        rn.Tokenizer.for_model(model_with(9, tokens))


# -- by name or file


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("world", "world"),
        ("rwkv_vocab_v20230424", "world"),
        ("rwkv_vocab_v20230424.txt", "world"),  # the wheel's, where there is no such file
        ("abc_tokenizer", "abc"),
        ("midi", "midi"),
        ("tokenizer-midipiano", "midi-piano"),
    ],
)
def test_names(given: str, name: str) -> None:
    assert rn.Tokenizer.open(given).name == name


@pytest.mark.parametrize("name", ["klingon", "cl100k_base", "", "World", "a.bin", "x\0y"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(rn.UnsupportedError, match=r"there is no tokenizer .*midi-piano.*\.json"):
        rn.Tokenizer.open(name)


def test_a_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.TXT"
    path.write_bytes(b"1 'a' 1\r\n2 b'\\xc3' 1\r\n5 'a b' 3\r\n")
    tokenizer = rn.Tokenizer.open(path)
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_ids) == ("mine", 6, (0,))
    assert tokenizer.encode("aa b") == [1, 5] and tokenizer.decode([5, 0, 1]) == "a ba"
    copy = tmp_path / "renamed.txt"
    copy.write_bytes(world_file().read_bytes())
    assert rn.Tokenizer.open(copy).name == "world", "known by its tokens, not by its name"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"\xff\xfe\x00", "vocabulary line 1"),
        ("a.txt", b"1 'a' 1\n1 'b' 1\n", "occurs twice"),
        ("a.txt", b"4000000000 'a' 1\n", "line 1: the id must be below"),
        ("a.txt", b"1 'a' 2\n", "1 bytes, not 2"),
        ("a.txt", b"1 __import__('os') 3\n", "not a quoted"),
        ("a.json", b"", "not JSON"),
        ("a.json", b"\xff", "not JSON"),
        ("a.json", b"[" * 100_000, "nested too deeply|not JSON"),
        ("a.json", b"9" * 10_000, "not JSON"),
        ("a.json", b"[]", "neither HuggingFace's"),
        ("a.json", b"{}", "neither HuggingFace's"),
        ("a.json", b'{"model": 3}', "neither HuggingFace's"),
        ("a.json", b'{"model": {}}', "not a tokenizer of HuggingFace"),
        ("a.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "it has no tokens"),
        (
            "a.json",
            b'{"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}',
            "must be below 1048576",
        ),
        (
            "a.json",
            b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
            "not a tokenizer of HuggingFace",
        ),
        ("a.json", b'{"model": {"type": "WordLevel", "vocab": {"a": -1}}}', "HuggingFace"),
    ],
)
def test_hostile_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(rn.InvalidError, match=says) as caught:
        rn.Tokenizer.open(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(rn.MissingFileError, match="there is no such file"):
        rn.Tokenizer.open(tmp_path / "none.json")
    with pytest.raises(rn.Error):
        rn.Tokenizer.open("\0.json")
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(rn.InvalidError, match="not a file"):
        rn.Tokenizer.open(folder)
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)  # opening one would wait for ever
    with pytest.raises(rn.InvalidError, match="not a file"):
        rn.Tokenizer.open(pipe)
    big = tmp_path / "big.json"
    with big.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(rn.InvalidError, match="larger than 64 MiB"):
        rn.Tokenizer.open(big)
    with pytest.raises(rn.InvalidError, match="str"):
        rn.Tokenizer.open(b"world")


def test_the_rwkv_package_is_not_imported() -> None:
    """Its wheel carries the vocabulary; importing it would import torch."""
    code = (
        "import sys, rwkv_native as rn; rn.Tokenizer.world().encode('x');"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('rwkv', 'torch', 'gevent', 'falcon', 'web')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_world_is_parsed_once() -> None:
    assert rn.Tokenizer.world() is rn.Tokenizer.world()


@pytest.mark.parametrize("tokens", [None, 5, ["a"], [b"a", None], b"abc"])
def test_tables_that_are_no_bytes(tokens: object) -> None:
    with pytest.raises(rn.InvalidError, match="tokens"):
        rn.Tokenizer(tokens)


def test_end_ids_that_are_no_ids() -> None:
    with pytest.raises(rn.InvalidError, match="end_ids"):
        rn.Tokenizer([b"", b"a"], end_ids=5)
