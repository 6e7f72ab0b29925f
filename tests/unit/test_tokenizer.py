"""The World vocabulary and the byte vocabulary against recorded ids and a slow, obvious oracle."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkv_native as rn
from rwkv_native.tokenizer import world_file

CASES = json.loads((Path(__file__).parent / "data" / "world-tokenizer.json").read_text())


@pytest.fixture(scope="module")
def world() -> rn.Tokenizer:
    return rn.Tokenizer.world()


@pytest.fixture(scope="module")
def oracle() -> dict[bytes, int]:
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


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    tokenizer = rn.Tokenizer.world()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == longest_match(_table(), text.encode())
    assert rn.Tokenizer.world_bytes().decode(rn.Tokenizer.world_bytes().encode(text)) == text


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    tokenizer = rn.Tokenizer.world()
    ids = tokenizer.encode_bytes(raw)
    assert tokenizer.decode_bytes(ids) == raw
    assert ids == longest_match(_table(), raw)


_cache: dict[bytes, int] = {}


def _table() -> dict[bytes, int]:
    if not _cache:
        tokenizer = rn.Tokenizer.world()
        _cache.update({tokenizer.decode_bytes([i]): i for i in range(1, tokenizer.vocab_size)})
    return _cache


@settings(deadline=None, max_examples=100)
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


def model_with(vocab: int, **metadata: str) -> object:
    info = SimpleNamespace(vocab=vocab, metadata=metadata, path="m.pth")
    return SimpleNamespace(info=info)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model_with(65536), "world"),
        (model_with(65600), "world"),
        (model_with(257), "world-bytes"),
        (model_with(128), "world-bytes"),
        (model_with(50277, **{"rwkv.tokenizer": "world-bytes"}), "world-bytes"),
        (model_with(257, **{"rwkv.tokenizer": "world"}), "world"),
    ],
)
def test_for_model(model: object, name: str) -> None:
    assert rn.Tokenizer.for_model(model).name == name


@pytest.mark.parametrize("vocab", [258, 20096, 50277, 65535])
def test_for_model_that_does_not_tell(vocab: int) -> None:
    with pytest.raises(rn.UnsupportedError, match="world-bytes"):
        rn.Tokenizer.for_model(model_with(vocab))


def test_for_model_with_an_unknown_name() -> None:
    with pytest.raises(rn.UnsupportedError, match="'piano'"):
        rn.Tokenizer.for_model(model_with(257, **{"rwkv.tokenizer": "piano"}))


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
