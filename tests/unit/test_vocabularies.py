"""Vocabularies made by a rule: music in words, ABC and the numbers of REMI; and what an engine
prints of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rwkv_native as rn

# Recorded from the `tokenizers` library with the official file: (text, ids, decoded).
RECORDED = [
    ("<pad>", [0], ""),
    ("<start> pi:4a:7 t24 pi:4f:7 <end>", [1, 13311, 26, 13371, 2], "pi:4a:7 t24 pi:4f:7"),
    (
        "<pad> v:5b:3 v:5b:2 t125 t106 pi:43:5",
        [0, 10439, 10438, 127, 108, 13225],
        "v:5b:3 v:5b:2 t125 t106 pi:43:5",
    ),
    ("PI:4A:7 nonsense t1", [13311, 0, 3], "pi:4a:7 t1"),
]


def printed(tokenizer: rn.Tokenizer, ids: list[int]) -> str:
    """What an engine shows of drawn ids."""
    return tokenizer._printed(ids).decode()


@pytest.fixture(scope="module")
def midi() -> rn.Tokenizer:
    return rn.Tokenizer.named("midi")


@pytest.fixture(scope="module")
def piano() -> rn.Tokenizer:
    return rn.Tokenizer.named("midi-piano")


@pytest.mark.parametrize(("text", "ids", "decoded"), RECORDED)
def test_recorded_music(text: str, ids: list[int], decoded: str, midi: rn.Tokenizer) -> None:
    assert midi.encode(text) == ids
    assert midi.decode(ids) == decoded and midi.decode_bytes(ids) == decoded.encode()


def test_music_facts(midi: rn.Tokenizer, piano: rn.Tokenizer) -> None:
    assert (midi.name, midi.vocab_size, midi.end_ids) == ("midi", 20096, (0, 2))
    assert (piano.name, piano.vocab_size, piano.end_ids) == ("midi-piano", 2176, (0, 2))


def test_the_id_rule(midi: rn.Tokenizer, piano: rn.Tokenizer) -> None:
    """6.2: note = 128 + bin*1536 + note*12 + velocity; piano: 128 + note*16 + velocity."""
    names = ["p", "d", "t", "m", "b", "g", "v", "tr", "pi", "s", "f", "l", "pa"]
    for n in range(1, 126):
        assert midi.encode(f"t{n}") == piano.encode(f"T{n}") == [2 + n]
    for place, name in enumerate(names):
        for note in (0, 9, 10, 64, 127):
            for velocity in (0, 10, 11):
                word = f"{name}:{note:x}:{velocity:x}"
                assert midi.encode(word) == [128 + place * 1536 + note * 12 + velocity]
                assert midi.decode(midi.encode(word)) == word
    assert piano.encode("p:7f:f p:0:0") == [2175, 128]
    assert midi.encode("pa:7f:b") == [20095]
    unknown = ["t0", "t126", "p:80:0", "p:7f:c", "p:07:0", "x:1:1", "t", "<unk>", "pi:3c"]
    assert midi.encode(" ".join(unknown)) == [0] * len(unknown)


def test_white_space_and_nothing(midi: rn.Tokenizer) -> None:
    assert midi.encode(" t1\n\n t2\tt3 ") == [3, 4, 5]
    assert midi.encode("") == midi.encode(" \n") == [] and midi.decode([]) == ""


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20095), max_size=40))
def test_any_music(ids: list[int]) -> None:
    midi = rn.Tokenizer.named("midi")
    kept = [i for i in ids if i > 2]
    assert midi.encode(midi.decode(ids)) == kept
    # A blank before each word, as RWKV Runner streams; a lone one for what has no text.
    assert printed(midi, [i for i in ids if i]).split() == midi.decode(ids).split()
    assert printed(midi, kept) == "".join(" " + midi.decode([i]) for i in kept)


def test_printed_specials(midi: rn.Tokenizer) -> None:
    assert printed(midi, [1, 13311, 2, 0, 3]) == "  pi:4a:7  t1"


def test_a_recorded_stream(midi: rn.Tokenizer) -> None:
    """chat-vectors.json, midi_stream: what RWKV Runner sends, piece by piece."""
    ids = midi.encode("p:24:a p:2a:a t14 p:24:0 <end> p:30:b")
    told = [printed(midi, [id]) for id in ids]
    assert told == [" p:24:a", " p:2a:a", " t14", " p:24:0", " ", " p:30:b"]


def test_abc() -> None:
    abc = rn.Tokenizer.named("abc")
    assert (abc.name, abc.vocab_size, abc.end_ids) == ("abc", 128, (3,))
    tune = "\x02S:3\nB:9\nL:1/8\nM:4/4\nK:D\n|: A2 ^c'>d |\x03"
    assert abc.encode(tune) == [ord(c) for c in tune]
    assert abc.decode(abc.encode(tune)) == tune[1:-1] == printed(abc, abc.encode(tune))
    with pytest.raises(rn.InvalidError, match=r"character 2 .* '\\xe9'"):
        abc.encode("abé")
    with pytest.raises(rn.InvalidError, match="UTF-8"):
        abc.encode_bytes(b"a\xff")
    assert abc.encode_bytes(b"ab") == [97, 98]
    with pytest.raises(rn.InvalidError, match="128"):
        abc.decode([128])


def remi(folder: Path, **more: Any) -> rn.Tokenizer:
    path = folder / "remi.json"
    path.write_text(json.dumps({"tokenization": "REMI", **more}))
    return rn.Tokenizer.open(path)


def test_remi_with_its_vocabulary(tmp_path: Path) -> None:
    words = ["PAD_None", "EOS_None", "BOS_None", *(f"Pitch_{n}" for n in range(21, 109))]
    tokenizer = remi(tmp_path, _vocab_base={word: id for id, word in enumerate(words)})
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_ids) == ("remi", 91, (1,))
    assert tokenizer.encode("2, 17,5 ,90") == [2, 17, 5, 90]
    assert tokenizer.encode(", 17, 5") == [17, 5], "what it has printed is a prompt again"
    assert tokenizer.encode("") == tokenizer.encode(" \n") == [2], "empty means begin"
    assert printed(tokenizer, [17, 5]) == ", 17, 5" and tokenizer.decode([17, 5]) == "17, 5"
    for wrong in ("91", "-1", "x", "1.5", "٣", "9" * 5000):
        with pytest.raises(rn.InvalidError, match="ids from 0 to 90"):
            tokenizer.encode(wrong)


def test_remi_without_its_vocabulary(tmp_path: Path) -> None:
    tokenizer = remi(tmp_path, config={"special_tokens": ["PAD", "BOS", "EOS", "MASK"]})
    assert (tokenizer.vocab_size, tokenizer.end_ids, tokenizer.encode("")) == (2176, (2,), [1])
    assert remi(tmp_path).end_ids == (2,)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"_vocab_base": {"a": "x"}}, "map words to ids"),
        ({"_vocab_base": {"BOS_None": 1, "EOS_None": -2}}, "map words to ids"),
        ({"_vocab_base": {"BOS_None": 1, "EOS_None": 1 << 40}}, "map words to ids"),
        ({"_vocab_base": {"BOS_None": 1, "EOS_None": True}}, "map words to ids"),
        ({"_vocab_base": {"a": 1}}, "no BOS and EOS"),
        ({"config": {"special_tokens": ["PAD"]}}, "no BOS and EOS"),
        ({"config": {"special_tokens": [1]}}, "list of words"),
        ({"config": {"special_tokens": "PAD"}}, "list of words"),
    ],
)
def test_wrong_remi(parameters: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(rn.InvalidError, match=rf"remi\.json: .*{says}"):
        remi(tmp_path, **parameters)
