"""What an engine does beyond one answer to one prompt: states handed out and taken in, several
answers from one prefill, scores of a prompt, and masks."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_events import wait

import rwkv_native as rn

ENDLESS = rn.Sampling(max_tokens=None, end_token_ids=())
PROMPT = "User: Count to five.\n\nAssistant:"
NEXT = "\n\nUser: What is 2 plus 3?\n\nAssistant:"


@pytest.fixture(scope="module")
def demo() -> rn.Model:
    return rn.Model.open(rn.demo_model(), "cpu fp32", threads=2)


@pytest.fixture
def engine(demo: rn.Model) -> Iterator[rn.Engine]:
    with rn.Engine(demo) as engine:
        yield engine


def read(events: rn.Generation) -> tuple[str, list[int], rn.Event]:
    """The text, the ids, and the last event."""
    found = list(events)
    ids = [id for event in found for id in event.token_ids]
    return "".join(event.text for event in found), ids, found[-1]


# -- states handed out

# How an answer may end; each has some 20 bytes before.
ENDS = {
    "length": rn.Sampling(temperature=0, max_tokens=12),
    "stop text": rn.Sampling(temperature=0, stop="\n\n"),
    "stop text of a token": rn.Sampling(temperature=0, stop=","),
    "stop text held back": rn.Sampling(temperature=0, max_tokens=7, stop="e, twX"),
    "stop id": rn.Sampling(temperature=0, stop_token_ids=[ord(",") + 1]),
    "end id": rn.Sampling(temperature=0, end_token_ids=[ord(",") + 1]),
    "nothing drawn": rn.Sampling(max_tokens=0),
}


@pytest.mark.parametrize("cache_bytes", [0, 64 << 20])
@pytest.mark.parametrize("speculate", [0, 8])
@pytest.mark.parametrize("end", ENDS)
def test_a_state_goes_on_in_another_engine(
    demo: rn.Model, end: str, speculate: int, cache_bytes: int
) -> None:
    """Token for token as one text that was never cut."""
    with (
        rn.Engine(demo, cache_bytes=cache_bytes, speculate=speculate) as first,
        rn.Engine(demo, max_batch=1) as second,
    ):
        for _ in range(2):  # the second time from what the cache has
            answer = first.generate(PROMPT, ENDS[end], keep_state=True)
            text, _, last = read(answer)
            assert last.state is not None and last.finish_reason in ("stop", "length")
            greedy = rn.Sampling(temperature=0, max_tokens=40, stop="\n\n", logprobs=0)
            whole = read(second.generate(PROMPT + text + NEXT, greedy))
            assert "2 + 3 = 5" in whole[0]
            prompt = first.tokenizer.encode(NEXT)
            for state, ids in ((answer.state, prompt), (last.state, last.unread + prompt)):
                found = read(second.generate(ids, greedy, state=state))
                assert found[:2] == whole[:2]
                assert found[2].prompt_tokens == len(ids)
        ids = first.tokenizer.encode(PROMPT + text)
        _, state = demo.forward(ids)
        for name, array in answer.state.to_numpy().items():
            assert np.abs(array - state.to_numpy()[name]).max() < 1e-3, name


def test_states_are_kept_where_they_are_wanted_only(engine: rn.Engine) -> None:
    answer = engine.generate(PROMPT, max_tokens=2)
    with pytest.raises(ValueError, match="read the answer to its end"):
        _ = answer.state
    assert [event.state for event in answer] == [None, None] or len(list(answer)) < 2
    with pytest.raises(ValueError, match="keep_state"):
        _ = answer.state
    with engine.generate(PROMPT, ENDLESS, keep_state=True) as cut:
        next(cut)
    with pytest.raises(ValueError, match="keep_state"):
        _ = cut.state
    id = engine.submit(PROMPT, ENDLESS, keep_state=True)
    engine.cancel(id)
    (*_, last) = wait(engine, [id])[id]
    assert last.finish_reason == "cancelled" and last.state is None


def test_a_handed_out_state_is_a_state(demo: rn.Model, engine: rn.Engine, tmp_path: Path) -> None:
    """It saves, pickles, copies, and outlives its engine."""
    with rn.Engine(demo) as other:
        answer = other.generate(PROMPT, temperature=0, max_tokens=5, keep_state=True)
        read(answer)
    state = answer.state
    state.save(tmp_path / "kept.safetensors")
    greedy = {"temperature": 0, "max_tokens": 10}
    expected = read(engine.generate(NEXT, state=state, **greedy))[:2]
    for copy in (
        rn.State.load(demo, tmp_path / "kept.safetensors"),
        pickle.loads(pickle.dumps(state)),
        state.clone(),
    ):
        assert read(engine.generate(NEXT, state=copy, **greedy))[:2] == expected


def test_a_state_of_another_model(demo: rn.Model, engine: rn.Engine, small_model: rn.Model) -> None:
    other = small_model.zero_state()
    same_file = rn.Model.open(rn.demo_model(), "cpu fp32", threads=1)
    for state in (other, same_file.zero_state()):
        for call in (engine.submit, engine.generate, engine.submit_score, engine.score):
            with pytest.raises(ValueError, match="state belongs to another model"):
                call("x", state=state)
    copied = rn.State.from_numpy(demo, same_file.zero_state().to_numpy())
    assert engine.score("xy", state=copied).shape == (2,)


# -- several answers


@pytest.mark.parametrize("max_batch", [2, 16])
@pytest.mark.parametrize("cache_bytes", [0, 64 << 20])
def test_answers_from_one_prefill(demo: rn.Model, max_batch: int, cache_bytes: int) -> None:
    """Each is what a request with its seed alone is told; the prompt is read once."""
    n = 7
    options = rn.Sampling(temperature=4, max_tokens=20, seed=5, logprobs=1, stop="\n\n")
    with rn.Engine(demo, max_batch=max_batch, cache_bytes=cache_bytes) as engine:
        alone = [read(engine.generate(PROMPT, options, seed=5 + i)) for i in range(n)]
        engine.clear_cache()
        before = engine.stats()
        first = engine.submit(PROMPT, options, n=n, keep_state=True)
        found = wait(engine, range(first, first + n))
        after = engine.stats()
        assert after.forked - before.forked == n - 1
        assert after.prompt_tokens - before.prompt_tokens == len(PROMPT)
        assert after.submitted - before.submitted == after.finished - before.finished == n
        assert engine.submit("x", max_tokens=0) == first + n
        assert len({text for text, _, _ in alone}) > 1
        for i, (text, ids, last) in enumerate(alone):
            events = found[first + i]
            assert "".join(event.text for event in events) == text
            assert [id for event in events for id in event.token_ids] == ids
            assert events[-1].finish_reason == last.finish_reason
            assert events[-1].completion_tokens == last.completion_tokens
            assert events[-1].state is not None
            assert events[-1].cached_tokens == (len(PROMPT) if i else 0)


def test_answers_whose_first_one_is_cancelled(demo: rn.Model) -> None:
    """While its prompt is read, or before: the next one reads it for the rest."""
    prompt = [1 + i % 250 for i in range(3000)]
    with rn.Engine(demo, prefill_chunk=64) as engine:
        first = engine.submit(prompt, n=4, max_tokens=3, end_token_ids=())
        for id in (first, first + 2):
            while engine.stats().prefilling == 0:
                pass
            engine.cancel(id)
        found = wait(engine, range(first, first + 4))
        reasons = [found[id][-1].finish_reason for id in range(first, first + 4)]
        assert reasons == ["cancelled", "length", "cancelled", "length"]
        first = engine.submit(prompt, n=3, max_tokens=3)
        for id in range(first, first + 3):
            engine.cancel(id)
        found = wait(engine, range(first, first + 3))
        assert all(events[-1].finish_reason == "cancelled" for events in found.values())
        stats = engine.stats()
        assert (stats.waiting, stats.prefilling, stats.running) == (0, 0, 0)


def test_answers_that_find_no_room_in_the_queue(engine: rn.Engine) -> None:
    with rn.Engine(engine.model, max_batch=1, max_queue=3) as small:
        ids = [small.submit("x", ENDLESS)]
        with pytest.raises(rn.QueueFull):
            small.submit("x", ENDLESS, n=5)
        assert small.stats().submitted == 1, "all of them or none"
        first = small.submit("x", max_tokens=1, n=3)
        for id in ids:
            small.cancel(id)
        wait(small, [*ids, *range(first, first + 3)])
    for wrong in (0, -1, 1025, 1.5, True, None):
        with pytest.raises(ValueError, match=r"^n "):
            engine.submit("x", n=wrong)


# -- scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("size", [1, 2, 16, 63, 64, 65, 300])
def test_scores_are_those_of_the_model(demo: rn.Model, engine: rn.Engine, size: int) -> None:
    ids = [1 + (7 * i * i) % 250 for i in range(size)]
    _, start = demo.forward([5, 6, 7])
    for state in (None, start):
        logits, _ = demo.forward(ids, state, full=True)
        expected = log_softmax(logits)
        scores = engine.score(ids, state=state)
        assert scores.dtype == np.float32 and scores.shape == (size,)
        assert np.isnan(scores[0]) and np.isfinite(scores[1:]).all()
        wanted = expected[np.arange(size - 1), ids[1:]]
        assert np.abs(scores[1:] - wanted).max(initial=0) < 1e-4
        id = engine.submit_score(ids, state=state, top=3)
        (event,) = wait(engine, [id])[id]
        assert event.finish_reason == "stop" and event.completion_tokens == 0
        assert event.token_ids == ids[1:] and event.text == ""
        for i, ((own, score), *best) in enumerate(event.logprobs or ()):
            assert own == ids[i + 1] and score == scores[i + 1]
            assert [score for _, score in best] == pytest.approx(
                sorted(expected[i], reverse=True)[:3], abs=1e-4
            )


def test_scores_beside_answers(demo: rn.Model) -> None:
    with rn.Engine(demo, max_batch=4) as engine:
        ids = [1 + i % 250 for i in range(500)]
        alone = engine.score(ids)
        stream = engine.submit("x", ENDLESS)
        found: list[np.ndarray] = []
        threads = [
            threading.Thread(target=lambda: found.append(engine.score(ids))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert all(np.abs(scores - alone)[1:].max() < 1e-4 for scores in found)
        gone = engine.submit_score([1] * 20000)
        engine.cancel(gone)
        engine.cancel(stream)
        assert wait(engine, [gone, stream])[gone][-1].finish_reason == "cancelled"
    with pytest.raises(ValueError, match="empty"):
        engine.score([])
    with pytest.raises(ValueError, match=r"^top "):
        rn.Engine(demo).submit_score("x", top=21)


def test_the_sum_of_scores_is_how_likely_a_text_is(engine: rn.Engine) -> None:
    right, wrong = (
        engine.score(f"User: What is 2 plus 3?\n\nAssistant: 2 + 3 = {n}") for n in "57"
    )
    assert math.isclose(right[-2], wrong[-2], abs_tol=1e-4) and right[-1] > wrong[-1] + 3


# -- masks

VOCAB = 257
DIGITS = [ord(digit) + 1 for digit in "0123456789"]


def allowing(ids: list[int]) -> np.ndarray:
    allowed = np.zeros(VOCAB, bool)
    allowed[ids] = True
    return allowed


def words(allowed: np.ndarray) -> np.ndarray:
    return np.packbits(np.append(allowed, [False] * 63), bitorder="little")[:40].view(np.uint64)


FORMS = {
    "bool": lambda allowed: allowed,
    "uint8": lambda allowed: np.packbits(allowed, bitorder="little"),
    "uint64": words,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_forbids(demo: rn.Model, form: str) -> None:
    seen: list[list[int]] = []

    def mask(tokens: list[int]) -> np.ndarray | None:
        seen.append(tokens)
        return None if len(tokens) >= 20 else FORMS[form](allowing(DIGITS))

    with rn.Engine(demo, speculate=8) as engine:
        options = rn.Sampling(max_tokens=30, temperature=2, seed=1, logprobs=0, end_token_ids=())
        ids = []
        for event in engine.generate(PROMPT, options, mask=mask):
            ids += event.token_ids
        assert seen == [ids[:i] for i in range(30)]
        assert set(ids[:20]) <= set(DIGITS) and len(set(ids[:20])) > 3
        assert not set(ids[20:]) <= set(DIGITS)
        free = read(engine.generate(PROMPT, options))
        assert not set(free[1]) <= set(DIGITS), "a mask is its request's own"
        assert engine.stats().guessed_tokens == 0 or free[2].completion_tokens == 30


def test_masks_of_many(demo: rn.Model) -> None:
    """Each has its own, beside requests without; the log-probabilities are the model's own."""
    with rn.Engine(demo, cache_bytes=16 << 20) as engine:
        for _ in range(2):  # the second time the whole prompt is known
            first = engine.submit(
                PROMPT, max_tokens=9, logprobs=0, n=5, mask=lambda tokens: allowing(DIGITS[:5])
            )
            other = engine.submit(
                PROMPT, max_tokens=9, mask=lambda tokens: allowing([DIGITS[len(tokens)]])
            )
            plain = engine.submit(PROMPT, max_tokens=9, temperature=0)
            found = wait(engine, [*range(first, first + 5), other, plain])
            text = {id: "".join(event.text for event in events) for id, events in found.items()}
            assert text[other] == "012345678"
            assert text[plain].startswith(" 1, 2")
            for id in range(first, first + 5):
                assert set(text[id]) <= set("01234") and len(text[id]) == 9
                assert found[id][0].logprobs[0][0][1] < -3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: np.zeros(VOCAB, bool), "the mask allows no token"),
        (lambda: np.ones(VOCAB - 1, bool), r"a mask must be bool \[257\]"),
        (lambda: np.ones(VOCAB, np.int64), "not int64"),
        (lambda: [1, 2], "a mask must be"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_masks_that_fail(engine: rn.Engine, given: object, words: str) -> None:
    """The request ends with the error, after the text before it; others go on."""

    def mask(tokens: list[int]) -> object:
        return allowing(DIGITS) if len(tokens) < 3 else given()

    failed = engine.submit(PROMPT, max_tokens=9, mask=mask)
    good = engine.submit(PROMPT, max_tokens=9, mask=lambda tokens: allowing(DIGITS))
    found = wait(engine, [failed, good])
    *before, last = found[failed]
    assert last.finish_reason == "error" and last.completion_tokens == 3
    assert pytest.approx(len("".join(event.text for event in before))) == 3
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(last.error)
    assert found[good][-1].finish_reason == "length"
    assert engine.stats().running == 0


def test_a_mask_that_is_none(engine: rn.Engine) -> None:
    for call in (engine.submit, engine.generate):
        with pytest.raises(ValueError, match="mask must be a function"):
            call("x", mask=[True])


def test_an_engine_closed_while_masks_are_asked(demo: rn.Model) -> None:
    asked = threading.Event()
    engine = rn.Engine(demo)
    engine.submit("x", ENDLESS, mask=lambda tokens: asked.set())
    assert asked.wait(30)
    engine.close()
