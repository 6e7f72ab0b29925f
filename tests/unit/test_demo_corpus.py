"""The demo model's questions are held out honestly: none of them is in its training text.

Regenerates the training text of all stages with the seed of the model card. Needs no torch.
"""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "rwkv_native" / "demo"
COMPUTED = {"sum", "sum (unseen)", "count", "count (unseen)"}


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_corpus", ROOT / "tools" / "demo_corpus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def card() -> str:
    return (DEMO / "MODEL_CARD.md").read_text()


@pytest.fixture(scope="module")
def seed(card: str) -> int:
    found = re.search(r"^\| seed \| (\d+) \|$", card, re.MULTILINE)
    assert found is not None
    return int(found.group(1))


@pytest.fixture(scope="module")
def documents(corpus: ModuleType, card: str, seed: int) -> list[str]:
    found = re.search(r"^\| documents \| (\d+) \|$", card, re.MULTILINE)
    assert found is not None
    count = int(found.group(1))
    return [
        document
        for stage in corpus.STAGES
        for document in corpus.training_documents(seed, count, stage)
    ]


@pytest.fixture(scope="module")
def questions() -> list[dict[str, str]]:
    return json.loads((DEMO / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def lines(documents: list[str]) -> set[str]:
    """Every line of the training text: a question is one line, "User: ..."."""
    return {line for document in documents for line in document.split("\n")}


@pytest.mark.soak  # the whole training text is made
def test_no_question_is_in_the_training_text(
    lines: set[str], questions: list[dict[str, str]]
) -> None:
    assert len(lines) > 10_000
    assert [q["prompt"] for q in questions if f"User: {q['prompt']}" in lines] == []


@pytest.mark.soak  # the whole training text is made
def test_no_question_is_trained_on_in_other_case_or_punctuation(
    corpus: ModuleType, lines: set[str], questions: list[dict[str, str]]
) -> None:
    trained = {corpus.normal_form(line) for line in lines if line.startswith("User: ")}
    found = [
        q["prompt"] for q in questions if corpus.normal_form(f"User: {q['prompt']}") in trained
    ]
    assert found == []


@pytest.mark.soak  # the whole training text is made
def test_unseen_facts_are_in_no_training_answer(
    lines: set[str], questions: list[dict[str, str]]
) -> None:
    unseen = [q["answer"] for q in questions if q["kind"].endswith("(unseen)")]
    assert unseen
    assert [answer for answer in unseen if f"Assistant: {answer}" in lines] == []


def test_questions_are_what_the_generator_makes(
    corpus: ModuleType, seed: int, questions: list[dict[str, str]]
) -> None:
    assert questions == corpus.evaluation(seed)


def test_there_are_enough_questions(questions: list[dict[str, str]]) -> None:
    kinds = Counter(question["kind"] for question in questions)
    assert len(questions) >= 300
    assert len(kinds) >= 3
    assert sum(kinds[kind] for kind in COMPUTED) >= 60
    assert len({question["prompt"] for question in questions}) == len(questions)


def test_every_question_has_one_answer(corpus: ModuleType) -> None:
    for stage in corpus.STAGES:
        answers: dict[str, str] = {}
        for item in corpus.all_items(stage):
            words = corpus.normal_form(item.question)
            assert answers.setdefault(words, item.answer) == item.answer


def test_sums_and_counts_are_right(questions: list[dict[str, str]]) -> None:
    for question in questions:
        if question["kind"].startswith("sum"):
            a, b, total = map(int, re.findall(r"\d+", question["answer"]))
            assert a + b == total
        if question["kind"].startswith("count"):
            first, last = ([1] + [int(n) for n in re.findall(r"\d+", question["prompt"])])[-2:]
            step = 1 if last > first else -1
            expected = list(range(first, last + step, step))
            assert [int(n) for n in re.findall(r"\d+", question["answer"])] == expected


def test_the_text_is_the_same_for_the_same_seed(corpus: ModuleType) -> None:
    assert corpus.training_documents(3, 50) == corpus.training_documents(3, 50)
    assert corpus.training_documents(3, 50) != corpus.training_documents(4, 50)


@pytest.mark.soak  # the whole training text is made
def test_every_answer_ends_with_a_blank_line(documents: list[str]) -> None:
    assert all(document.endswith("\n\n") for document in documents)
    assert all(0 not in document.encode() for document in documents)


def test_the_model_file_is_small_and_says_what_it_is() -> None:
    raw = (DEMO / "demo.safetensors").read_bytes()
    assert len(raw) <= 8 * 1024 * 1024
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    assert header["__metadata__"] == {
        "rwkv.tokenizer": "world-bytes",
        "rwkv.family": "world",
        "rwkv.version": "7",
        "rwkv.license": "Apache-2.0",
        "format": "pt",
    }
    rows, width = header["emb.weight"]["shape"]
    assert rows == 257
    assert header["head.weight"]["shape"] == [rows, width]
    assert header["blocks.0.att.r_k"]["shape"] == [width // 64, 64]
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
