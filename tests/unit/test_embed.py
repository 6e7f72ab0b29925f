"""Embeddings as the engine gives them: what a vector depends on, and what is refused."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import measure_embeddings

TEXTS = ["What is the capital of France?", "x", "Spell banana. " * 40, "\n", "é你\x00"]


@pytest.fixture
def engine(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> Iterator[rn.Engine]:
    with rn.Engine(small_model, byte_tokenizer) as engine:
        yield engine


def test_unit_vectors_in_the_order_of_the_texts(engine: rn.Engine) -> None:
    vectors = engine.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 32) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.array_equal(engine.embed([text])[0], vector)
    assert engine.embed([]).shape == (0, 32)
    assert engine.stats().completion_tokens == 0


def test_texts_and_ids_are_the_same(engine: rn.Engine) -> None:
    ids = [byte + 1 for byte in TEXTS[0].encode()]
    text, listed, array = engine.embed([TEXTS[0], ids, np.array(ids, np.int32)], 100)
    assert np.array_equal(text, listed) and np.array_equal(text, array)


def test_an_event_has_the_vector(engine: rn.Engine) -> None:
    id = engine.submit_embedding("hello", 5)
    events: list[rn.Event] = []
    while not events:
        assert select.select([engine.fileno()], [], [], 60)[0]
        events = engine.poll()
    (event,) = events
    assert event.id == id and event.finish_reason == "stop"
    assert event.embedding is not None and event.embedding.shape == (5,)
    assert (event.prompt_tokens, event.completion_tokens, event.token_ids) == (5, 0, [])
    assert list(engine.generate("x", rn.Sampling(max_tokens=2)))[-1].embedding is None


def test_neither_neighbours_nor_chunks_matter(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    with rn.Engine(small_model, byte_tokenizer, max_batch=1) as alone:
        wanted = alone.embed(TEXTS, 600)
    for options in ({"prefill_chunk": 3}, {"prefill_chunk": 1000}, {"max_batch": 8}):
        with rn.Engine(small_model, byte_tokenizer, **options) as engine:
            streams = [engine.generate("x", rn.Sampling(max_tokens=50, seed=i)) for i in range(4)]
            found = engine.embed(TEXTS, 600)
            assert np.abs(found - wanted).max() < 1e-5
            for stream in streams:
                assert sum(len(event.token_ids) for event in stream) > 0


def test_states_that_are_kept_are_left_alone(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    """A state that a text has left need not have run in the layers above the memory."""
    sampling = rn.Sampling(max_tokens=9, temperature=0)

    def answers(engine: rn.Engine) -> list[list[int]]:
        return [[i for e in engine.generate(t, sampling) for i in e.token_ids] for t in TEXTS]

    with rn.Engine(small_model, byte_tokenizer, cache_bytes=1 << 20) as engine:
        first = engine.embed(TEXTS)
        found = answers(engine)
        assert np.array_equal(engine.embed(TEXTS), first)
    with rn.Engine(small_model, byte_tokenizer) as engine:
        assert answers(engine) == found


def test_more_texts_than_the_queue_takes(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    texts = [f"text number {i}" for i in range(50)]
    with rn.Engine(small_model, byte_tokenizer, max_batch=2, max_queue=3) as engine:
        found = engine.embed(texts, 64)
        assert engine.stats().finished == 50
    with rn.Engine(small_model, byte_tokenizer) as engine:
        assert np.abs(found - engine.embed(texts, 64)).max() < 1e-5


@pytest.mark.parametrize("value", [0, -1, 4097, True, 1.5, "8"])
def test_wrong_dimensions(engine: rn.Engine, value: object) -> None:
    with pytest.raises(ValueError, match=r"^dimensions must be"):
        engine.embed(["x"], value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^dimensions must be"):
        engine.submit_embedding("x", value)  # type: ignore[arg-type]


def test_wrong_texts(engine: rn.Engine) -> None:
    with pytest.raises(ValueError, match="texts must be a list"):
        engine.embed("one text")
    for wrong, said in (("", "empty"), ([], "empty"), ([300], "outside 0 to 256"), ([-1], "-1")):
        with pytest.raises(ValueError, match=rf"^prompt.*{said}"):
            engine.embed(["x", wrong])
    assert engine.embed(["x"]).shape == (1, 32)


def test_a_request_that_is_cancelled(engine: rn.Engine) -> None:
    id = engine.submit_embedding("many words " * 50_000)
    engine.cancel(id)
    events: list[rn.Event] = []
    while not events:
        assert select.select([engine.fileno()], [], [], 60)[0]
        events = engine.poll()
    assert events[-1].finish_reason == "cancelled" and events[-1].embedding is None
    assert engine.stats().prompt_tokens < 550_000


def test_an_engine_that_is_closed_meanwhile(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    engine = rn.Engine(small_model, byte_tokenizer)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            engine.embed(["many words " * 100_000])
        except rn.Stopped as stopped:
            caught.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    while not engine.stats().prompt_tokens and thread.is_alive():
        time.sleep(0.001)
    engine.close()
    thread.join(60)
    assert caught


def test_the_demo_model_finds_the_question_in_other_words() -> None:
    """What docs/embeddings.md says, on fewer facts, with room for kernels that round otherwise."""
    task = measure_embeddings.Task(per_kind=12)
    model = rn.Model.open(rn.demo_model())
    with rn.Engine(model, rn.Tokenizer.for_model(model)) as engine:
        reworded, answered, _ = task.scores(lambda texts: engine.embed(texts, 512))
    assert reworded[0] > 0.6 and answered[0] > 0.3
