"""The engine as its callers see it: events, routing, stops, cancelling, limits, closing."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_events import wait

import rwkv_native as rn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def engine(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> Iterator[rn.Engine]:
    with rn.Engine(small_model, byte_tokenizer) as engine:
        yield engine


def saying(text: str | bytes, **options: object) -> rn.Sampling:
    """Makes any model say these bytes, each of which may occur once: bias and a presence penalty
    that puts what was said behind the rest. Then comes the end of document."""
    raw = text.encode() if isinstance(text, str) else text
    assert len(set(raw)) == len(raw) <= 100
    bias = {byte + 1: 4000.0 - 10 * i for i, byte in enumerate(raw)}
    bias[0] = 4000.0 - 10 * len(raw)
    options = {"temperature": 0, "presence_penalty": 2000, "logit_bias": bias} | options
    return rn.Sampling(**options)


def text_of(events: Iterable[rn.Event]) -> str:
    return "".join(e.text for e in events)


def quiet(engine: rn.Engine, seconds: float = 30) -> rn.EngineStats:
    """The counts once nothing waits and nothing runs."""
    end = time.monotonic() + seconds
    while True:
        stats = engine.stats()
        if not stats.waiting + stats.prefilling + stats.running:
            return stats
        assert time.monotonic() < end, stats
        time.sleep(0.002)


# -- answers


def test_an_answer_told_at_its_end(engine: rn.Engine) -> None:
    sampling = rn.Sampling(max_tokens=40, seed=3, logprobs=1, end_token_ids=())
    streamed, whole = (engine.submit("User: hi", sampling, stream=on) for on in (True, False))
    found = wait(engine, (streamed, whole))
    assert len(found[whole]) <= 2, "the first token, and the rest"
    assert text_of(found[whole]) == text_of(found[streamed])
    for name in ("token_ids", "logprobs"):
        said, told = ([x for e in found[id] for x in getattr(e, name)] for id in (whole, streamed))
        assert said == told
    assert found[whole][-1].completion_tokens == 40


def test_an_answer(engine: rn.Engine) -> None:
    events = list(engine.generate("User: hi", saying("Hello wrd!".replace("l", "", 1))))
    assert text_of(events) == "Helo wrd!"
    assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
    last = events[-1]
    assert last.finish_reason == "stop" and last.error is None and last.logprobs is None
    assert last.prompt_tokens == 8 and last.completion_tokens == 9, "the end is not counted"
    assert {e.id for e in events} == {last.id}


def test_max_tokens(engine: rn.Engine) -> None:
    for n in (1, 2, 5):
        events = list(engine.generate("x", saying("abcdefgh", max_tokens=n)))
        assert text_of(events) == "abcdefgh"[:n]
        assert events[-1].finish_reason == "length" and events[-1].completion_tokens == n
        assert sum(len(e.token_ids) for e in events) == n


def test_no_tokens(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    with rn.Engine(small_model, byte_tokenizer, cache_bytes=1 << 20) as engine:
        (event,) = engine.generate("abcdef", saying("abc", max_tokens=0))
        assert (event.text, event.token_ids, event.finish_reason) == ("", [], "length")
        assert (event.prompt_tokens, event.completion_tokens) == (6, 0)
        event = list(engine.generate("abcdef", saying("abc")))[-1]
        assert event.cached_tokens == 6, "the prompt was read, and kept"


def test_min_tokens(engine: rn.Engine) -> None:
    for least in (0, 1, 3, 4, 7):
        events = list(engine.generate("x", saying("abcdefgh", min_tokens=least, stop=["cd"])))
        # "cd" ends it with its 4th token, and only with that one.
        assert text_of(events) == ("ab" if least <= 4 else "abcdefgh")
    for ends in ({"end_token_ids": [1 + ord("a")]}, {"stop_token_ids": [1 + ord("a")]}):
        bias = {1 + ord("a"): 1000}
        sampling = rn.Sampling(max_tokens=9, min_tokens=5, logit_bias=bias, **ends)
        events = list(engine.generate("x", sampling))
        counted = 5 + ("stop_token_ids" in ends)
        assert events[-1].completion_tokens == counted and events[-1].finish_reason == "stop"
        assert "a" not in text_of(events)


def test_ends_that_are_ignored(engine: rn.Engine) -> None:
    for more in ({}, {"end_token_ids": [0, 5]}):
        sampling = rn.Sampling(max_tokens=300, ignore_eos=True, seed=1, **more)
        events = list(engine.generate("x", sampling))
        assert (events[-1].completion_tokens, events[-1].finish_reason) == (300, "length")
        assert not {0, *more.get("end_token_ids", ())} & {i for e in events for i in e.token_ids}


def test_unlimited_answers_end_by_themselves(engine: rn.Engine) -> None:
    events = list(engine.generate("x", saying("abc", max_tokens=None)))
    assert (text_of(events), events[-1].finish_reason) == ("abc", "stop")


@pytest.mark.parametrize(
    ("said", "stop", "shown"),
    [
        ("abcdef", ["cd"], "ab"),
        ("abcdef", "cd", "ab"),
        ("abcdef", ["zz", "f", "de"], "abc"),
        ("abcdef", ["abcdef"], ""),
        ("abcdef", ["bcx", "cdx", "dex"], "abcdef"),
        ("abcdef", ["efg"], "abcdef"),
        ("abcdef", ["cde", "c"], "ab"),
        ("a\n\tbUsr", ["\n\tb"], "a"),
        ("aéb", ["éb"], "a"),
        ("xy日z", ["日"], "xy"),
    ],
)
def test_stop_texts_never_leak(engine: rn.Engine, said: str, stop: object, shown: str) -> None:
    events = list(engine.generate("x", saying(said, stop=stop)))
    assert text_of(events) == shown
    assert events[-1].finish_reason == "stop"
    shown_so_far = ""
    for event in events:
        shown_so_far += event.text
        assert shown.startswith(shown_so_far)


def test_stop_token_ids_are_counted_but_have_no_text(engine: rn.Engine) -> None:
    sampling = saying("abcd", stop_token_ids=[ord("c") + 1])
    events = list(engine.generate("x", sampling))
    assert text_of(events) == "ab" and events[-1].finish_reason == "stop"
    assert events[-1].completion_tokens == 3


def test_own_end_ids(engine: rn.Engine) -> None:
    sampling = saying("abcd", end_token_ids=[ord("c") + 1])
    events = list(engine.generate("x", sampling))
    assert text_of(events) == "ab" and events[-1].completion_tokens == 2
    endless = saying("abcd", end_token_ids=(), max_tokens=9)
    events = list(engine.generate("x", endless))
    assert text_of(events)[:4] == "abcd" and events[-1].finish_reason == "length"


def test_characters_come_whole(engine: rn.Engine) -> None:
    for said in ("é", "日", "😀", "aéz"):
        events = list(engine.generate("x", saying(said)))
        assert text_of(events) == said and all("\ufffd" not in e.text for e in events)


@pytest.mark.parametrize(
    ("said", "shown"),
    [(b"a\xc3", "a\ufffd"), (b"\xffa", "\ufffda"), (b"\xe6\x97a", "\ufffda"), (b"\x97", "\ufffd")],
)
def test_bytes_that_are_no_characters(engine: rn.Engine, said: bytes, shown: str) -> None:
    assert text_of(engine.generate("x", saying(said))) == shown


def test_logprobs(engine: rn.Engine, small_model: rn.Model) -> None:
    prompt = [5, 6, 7]
    sampling = rn.Sampling(max_tokens=4, temperature=0, logprobs=3, end_token_ids=())
    events = list(engine.generate(prompt, sampling))
    rows = [row for e in events for row in e.logprobs]
    tokens = [t for e in events for t in e.token_ids]
    assert len(rows) == len(tokens) == 4 and all(len(r) == 4 for r in rows)
    logits, state = small_model.forward(prompt)
    for token, row in zip(tokens, rows, strict=True):
        shifted = logits - logits.max()
        expected = shifted - np.log(np.exp(shifted).sum())
        assert row[0][0] == token
        values = [v for _, v in row[1:]]
        assert values == sorted(values, reverse=True)
        for id, value in row:
            assert abs(value - expected[id]) < 1e-4
        logits, state = small_model.forward([token], state)
    (event,) = engine.generate(prompt, rn.Sampling(max_tokens=1, logprobs=0))
    assert len(event.logprobs) == 1 and len(event.logprobs[0]) == 1


class Biases(dict[int, float]):
    """Counts how often its numbers are read."""

    reads = 0

    def values(self) -> Any:
        self.reads += 1
        return super().values()


def test_a_prepared_sampling_is_translated_once(engine: rn.Engine) -> None:
    bias = Biases({id: 0.1 * id for id in range(257)})
    options = {"max_tokens": 6, "stop": "~", "stop_token_ids": [5], "end_token_ids": [0]}
    plain = rn.Sampling(logit_bias=bias, seed=7, **options)
    expected = text_of(wait(engine, [id := engine.submit("x", plain)])[id])
    bias.reads = 0
    prepared = engine.prepare(plain)
    gone = wait(engine, [engine.submit("x", prepared) for _ in range(20)])
    assert bias.reads == 1
    assert {text_of(events) for events in gone.values()} == {expected}
    # Without a seed every request has its own.
    prepared = engine.prepare(rn.Sampling(max_tokens=8, end_token_ids=()))
    gone = wait(engine, [engine.submit("x", prepared) for _ in range(20)])
    assert len({tuple(t for e in events for t in e.token_ids) for events in gone.values()}) > 5


def test_a_prepared_sampling_fits_its_vocabulary(engine: rn.Engine) -> None:
    with pytest.raises(ValueError, match="logit_bias"):
        engine.prepare(rn.Sampling(logit_bias={300: 1}))
    foreign = rn.PreparedSampling(rn.Sampling(), engine.model.info.vocab + 1)
    with pytest.raises(ValueError, match="another model"):
        engine.submit([1], foreign)


def test_seeds(engine: rn.Engine) -> None:
    def ids(seed: int | None) -> list[int]:
        sampling = rn.Sampling(max_tokens=30, seed=seed, end_token_ids=())
        return [t for e in engine.generate("hello", sampling) for t in e.token_ids]

    assert ids(3) == ids(3) != ids(4)
    assert ids(None) != ids(None)


def test_a_state_continues(engine: rn.Engine, small_model: rn.Model) -> None:
    prompt = list(range(10, 40))
    sampling = rn.Sampling(max_tokens=20, seed=1, end_token_ids=())

    def ids(tokens: list[int], state: rn.State | None = None) -> list[int]:
        return [t for e in engine.generate(tokens, sampling, state=state) for t in e.token_ids]

    _, state = small_model.forward(prompt[:20])
    before = state.to_numpy()
    assert ids(prompt[20:], state) == ids(prompt)
    assert ids(prompt[20:]) != ids(prompt)
    after = state.to_numpy()
    assert all((before[k] == after[k]).all() for k in before), "the start state is copied"


def test_prompts_of_text_and_ids_are_one(engine: rn.Engine, byte_tokenizer: rn.Tokenizer) -> None:
    sampling = rn.Sampling(max_tokens=10, seed=1)
    a = text_of(engine.generate("hello", sampling))
    assert a == text_of(engine.generate(byte_tokenizer.encode("hello"), sampling))
    assert a == text_of(engine.generate(tuple(byte_tokenizer.encode("hello")), sampling))


# -- many at once


def test_each_gets_its_own_text(engine: rn.Engine) -> None:
    words = [f"{i % 10}{'abcdefghij'[i // 10 % 10]}{'KLMNOPQRST'[i // 100]}" for i in range(300)]
    ids = [engine.submit("x" * (1 + i % 50), saying(w)) for i, w in enumerate(words)]
    assert len(set(ids)) == 300 and 0 not in ids
    found = wait(engine, ids)
    assert [text_of(found[id]) for id in ids] == words
    stats = quiet(engine)
    assert stats.submitted == stats.finished == 300 and stats.cancelled == 0
    assert stats.completion_tokens >= 3 * 300 and stats.prompt_tokens == sum(
        1 + i % 50 for i in range(300)
    )


def test_iterators_and_poll_side_by_side(engine: rn.Engine) -> None:
    """Each reader gets exactly its own events, whoever drains the engine."""
    wrong: list[str] = []

    def iterate(word: str) -> None:
        for _ in range(15):
            if (found := text_of(engine.generate("x", saying(word)))) != word:
                wrong.append(f"{word}: {found}")

    threads = [threading.Thread(target=iterate, args=(w,)) for w in ("abc", "defgh", "ij", "k")]
    for t in threads:
        t.start()
    for _ in range(10):
        ids = [engine.submit("y", saying(w)) for w in ("lmn", "opq", "rst")]
        found = wait(engine, ids)
        assert [text_of(found[id]) for id in ids] == ["lmn", "opq", "rst"]
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "an iterator waits for an event that is not coming"
    assert not wrong


def test_two_iterators_in_one_thread(engine: rn.Engine) -> None:
    a, b = engine.generate("x", saying("abc")), engine.generate("x", saying("def"))
    assert text_of(b) == "def" and text_of(a) == "abc"


def test_events_for_poll_survive_an_iterator(engine: rn.Engine) -> None:
    """generate() drains the engine; whoever watches fileno() must still be told."""
    id = engine.submit("x", saying("abc"))
    assert text_of(engine.generate("x", saying("def"))) == "def"
    quiet(engine)
    assert text_of(engine.generate("x", saying("ghi"))) == "ghi"
    ready, _, _ = select.select([engine.fileno()], [], [], 5)
    assert ready
    events = engine.poll()
    assert {e.id for e in events} == {id} and text_of(events) == "abc"
    assert engine.poll() == []
    assert select.select([engine.fileno()], [], [], 0)[0] == [], "poll clears the descriptor"


def test_poll_without_requests(engine: rn.Engine) -> None:
    assert engine.poll() == []
    assert select.select([engine.fileno()], [], [], 0)[0] == []


def test_submit_does_not_wait(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    with rn.Engine(small_model, byte_tokenizer, max_batch=1) as engine:
        start = time.monotonic()
        ids = [engine.submit([1] * 5000, rn.Sampling(max_tokens=1)) for _ in range(50)]
        assert time.monotonic() - start < 5
        assert engine.stats().waiting + engine.stats().prefilling > 0
        for id in ids:
            engine.cancel(id)
        assert all(e[-1].finish_reason is not None for e in wait(engine, ids).values())


# -- cancelling


ENDLESS = rn.Sampling(max_tokens=None, end_token_ids=(), seed=1)


def test_cancel(engine: rn.Engine) -> None:
    id = engine.submit("x", ENDLESS)
    while not engine.stats().running:
        time.sleep(0.001)
    engine.cancel(id)
    events = wait(engine, [id])[id]
    assert events[-1].finish_reason == "cancelled"
    stats = quiet(engine)
    assert (stats.cancelled, stats.submitted) == (1, 1)
    engine.cancel(id)
    engine.cancel(987654321)
    assert engine.poll() == []


def test_cancel_in_every_phase(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    with rn.Engine(small_model, byte_tokenizer, max_batch=1, prefill_chunk=1) as engine:
        prefilling = engine.submit([1] * 200_000, ENDLESS)
        queued = engine.submit("x", ENDLESS)
        while not engine.stats().prefilling:
            time.sleep(0.001)
        for id in (queued, prefilling):
            engine.cancel(id)
            assert [e.finish_reason for e in wait(engine, [id])[id]][-1] == "cancelled"
        stats = quiet(engine)
        assert stats.prompt_tokens < 200_000, "the prompt was computed to its end"
        assert stats.cancelled == 2


def test_leaving_an_iterator_cancels(engine: rn.Engine) -> None:
    for event in engine.generate("x", ENDLESS):
        assert event.finish_reason is None
        break
    gc.collect()
    assert quiet(engine).cancelled == 1
    with engine.generate("x", ENDLESS) as events:
        next(events)
    assert quiet(engine).cancelled == 2
    events = engine.generate("x", ENDLESS)
    events.close()  # before its first event
    events.close()
    assert list(events) == []
    assert quiet(engine).cancelled == 3
    with pytest.raises(KeyError), engine.generate("x", ENDLESS) as events:
        for _ in events:
            raise KeyError
    assert quiet(engine).cancelled == 4
    assert engine.poll() == [], "events of abandoned iterators go to nobody"


def test_a_finished_iterator_cancels_nothing(engine: rn.Engine) -> None:
    events = engine.generate("x", saying("abc"))
    assert text_of(events) == "abc"
    events.close()
    assert list(events) == [] and quiet(engine).cancelled == 0


def test_an_iterator_in_a_cycle(engine: rn.Engine) -> None:
    """The garbage collector may drop one at any moment, also inside the engine's own lock."""
    for _ in range(200):
        events = engine.generate("x", ENDLESS)
        holder = [events]
        holder.append(holder)
        del events, holder
    gc.collect()
    assert quiet(engine).cancelled == 200


# -- limits and errors


def test_a_full_queue(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    with rn.Engine(small_model, byte_tokenizer, max_batch=1, max_queue=2) as engine:
        first = engine.submit("x", ENDLESS)
        while not engine.stats().running:
            time.sleep(0.001)
        ids = [first, engine.submit("x", ENDLESS), engine.submit("x", ENDLESS)]
        with pytest.raises(rn.QueueFull) as caught:
            engine.submit("x", ENDLESS)
        assert not isinstance(caught.value, ValueError)
        with pytest.raises(rn.QueueFull):
            engine.generate("x", ENDLESS)
        engine.cancel(ids[1])
        while engine.stats().waiting > 1:
            time.sleep(0.001)
        ids.append(engine.submit("x", ENDLESS))
        for id in ids:
            engine.cancel(id)
        wait(engine, ids)


def test_turns(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    """Answers that never end hold both slots; another group or client is answered beside them."""
    with rn.Engine(small_model, byte_tokenizer, max_batch=2) as engine:
        ids = [engine.submit("x", ENDLESS, client=1, group=7) for _ in range(5)]
        for turn in ({"client": 1}, {"client": 1, "group": 8}, {"client": 2**64 - 1, "group": 7}):
            events = list(engine.generate("x", rn.Sampling(max_tokens=3), **turn))
            assert events[-1].completion_tokens == 3
        assert engine.embed(["x", "y"]).shape[0] == 2
        assert engine.stats().finished == 5
        for id in ids:
            engine.cancel(id)
        wait(engine, ids)


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.5, "1", None, True])
def test_wrong_turns(engine: rn.Engine, wrong: object) -> None:
    for name in ("client", "group"):
        for call in (engine.submit, engine.generate, engine.submit_embedding):
            with pytest.raises(ValueError, match=f"^{name} "):
                call("x", **{name: wrong})
    assert engine.stats().submitted == 0


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "prompt is empty"),
        ([257], {}, "prompt: 257"),
        ([-1], {}, "prompt: -1"),
        (["a"], {}, "prompt"),
        (None, {}, "prompt"),
        (b"abc", {}, "prompt"),
        ("\ud800", {}, "surrogate"),
        ("x", {"min_tokens": -1}, "min_tokens"),
        ("x", {"min_tokens": 2}, "min_tokens must be at most max_tokens, 1, not 2"),
        ("x", {"min_tokens": "1"}, "min_tokens"),
        ("x", {"max_tokens": -5}, "max_tokens"),
        ("x", {"max_tokens": 1.5}, "max_tokens"),
        ("x", {"stop": [""]}, "stop"),
        ("x", {"stop": ""}, None),
        ("x", {"stop": [3]}, "stop"),
        ("x", {"stop": ["\ud800"]}, "stop"),
        ("x", {"stop_token_ids": [257]}, "stop_token_ids"),
        ("x", {"end_token_ids": [-1]}, "end_token_ids"),
        ("x", {"temperature": -1}, "temperature"),
        ("x", {"logit_bias": {300: 1}}, "logit_bias"),
        ("x", {"forbidden_token_ids": [300]}, "forbidden_token_ids"),
        ("x", {"forbidden_token_ids": 5}, "forbidden_token_ids"),
        ("x", {"no_repeat_token_ids": np.array([300])}, "no_repeat_token_ids"),
        ("x", {"stop": 5}, "stop"),
    ],
    ids=str,
)
def test_wrong_requests(
    engine: rn.Engine, prompt: object, options: dict, words: str | None
) -> None:
    options = {"max_tokens": 1} | options
    if words is None:  # an empty text is no stop at all
        assert list(engine.generate(prompt, **options))
        return
    for call in (engine.submit, engine.generate):
        with pytest.raises(ValueError, match=words) as caught:
            call(prompt, **options)
        assert isinstance(caught.value, rn.Error)
    assert engine.stats().submitted == 0


def test_arrays_in_a_sampling(engine: rn.Engine) -> None:
    ids = np.array([1, 2])
    options = {"forbidden_token_ids": ids, "no_repeat_token_ids": ids, "exempt_token_ids": ids}
    for more in ({"stop": np.array(["a", "b"])}, {"stop_token_ids": ids, "end_token_ids": ids}):
        assert list(engine.generate("x", rn.Sampling(max_tokens=1, **options, **more)))


def test_ids_that_no_request_has(engine: rn.Engine) -> None:
    for id in (-1, 0, 1 << 64, 1 << 80):
        engine.cancel(id)
    with pytest.raises(rn.InvalidError, match="id"):
        engine.cancel("1")


def test_options_of_numpy(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    with rn.Engine(small_model, byte_tokenizer, max_batch=np.int64(4)) as engine:
        assert list(engine.generate("x", rn.Sampling(max_tokens=1)))


def test_wrong_sampling_and_state(engine: rn.Engine, golden: Path) -> None:
    with pytest.raises(ValueError, match="sampling"):
        engine.submit("x", {"temperature": 1})
    with pytest.raises(ValueError, match="state"):
        engine.submit("x", state={"wkv": 0})
    other = rn.Model.open(golden / "v70_L2_D64_bf16.pth")
    with pytest.raises(ValueError, match="another model"):
        engine.submit("x", state=other.zero_state())


@pytest.mark.parametrize(
    "options",
    [{"max_batch": v} for v in (0, 10**9, True)]
    + [{"prefill_chunk": -1}, {"max_queue": 1.5}]
    + [{"step_ms": v} for v in (0, -1, float("nan"), "20", None, True, 1e300)]
    + [{"speculate": v} for v in (-1, 65, 1.5, "4", True)],
)
def test_wrong_engine_options(
    options: dict, small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        rn.Engine(small_model, byte_tokenizer, **options)


def test_an_engine_needs_a_model_and_a_tokenizer(small_model: rn.Model) -> None:
    with pytest.raises(ValueError, match="Tokenizer"):
        rn.Engine(small_model, "world")


def test_ids_without_text_are_never_drawn(engine: rn.Engine) -> None:
    """The end of document is ordinary where it does not end the answer: it has no text."""
    sampling = rn.Sampling(max_tokens=5, temperature=0, logit_bias={0: 1000}, end_token_ids=())
    tokens = [t for e in engine.generate("x", sampling) for t in e.token_ids]
    assert len(tokens) == 5 and 0 not in tokens


# -- closing


def test_close(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    engine = rn.Engine(small_model, byte_tokenizer)
    fd = engine.fileno()
    events = engine.generate("x", ENDLESS)
    next(events)
    engine.close()
    engine.close()
    for call in (engine.poll, engine.fileno, engine.stats, lambda: engine.submit("x")):
        with pytest.raises(rn.Stopped):
            call()
    engine.cancel(1)
    with pytest.raises(rn.Stopped):
        next(events)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_close_wakes_whoever_waits(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    engine = rn.Engine(small_model, byte_tokenizer, max_batch=1)
    engine.submit("x", ENDLESS)
    ended: list[str] = []

    def iterate() -> None:
        try:
            for _ in engine.generate("y", ENDLESS):
                pass
        except rn.Stopped:
            ended.append("stopped")

    threads = [threading.Thread(target=iterate) for _ in range(3)]
    for t in threads:
        t.start()
    time.sleep(0.05)
    engine.close()
    for t in threads:
        t.join(10)
        assert not t.is_alive()
    assert ended == ["stopped"] * 3


def test_dropping_an_engine_ends_its_thread(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    gc.collect()
    before = threads(), descriptors()
    for _ in range(5):
        engine = rn.Engine(small_model, byte_tokenizer)
        engine.submit("x", ENDLESS)
        del engine
    gc.collect()
    assert (threads(), descriptors()) == before


def test_a_process_may_end_with_an_open_engine() -> None:
    code = """
import rwkv_native as rn
from pathlib import Path
GOLDEN = Path("tests/golden/data")
model = rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth")
engine = rn.Engine(model, rn.Tokenizer.world_bytes())
ids = [engine.submit("x", rn.Sampling(max_tokens=None, end_token_ids=())) for _ in range(5)]
events = engine.generate("x", rn.Sampling(max_tokens=None, end_token_ids=()))
next(events)
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def runs(code: str) -> subprocess.CompletedProcess[str]:
    """`code` in a process of its own, with an engine."""
    start = """
import gc, os, select, signal, sys, threading, time
import rwkv_native as rn
from pathlib import Path
GOLDEN = Path("tests/golden/data")
model = rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth")
engine = rn.Engine(model, rn.Tokenizer.world_bytes())
ENDLESS = rn.Sampling(max_tokens=None, end_token_ids=())
"""
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


SUBMIT = """
    while True:
        try:
            engine.submit("Hello", rn.Sampling(max_tokens=5))
        except rn.QueueFull:
            pass
        engine.poll()
        engine.stats()
"""
ITERATE = """
    while True:
        list(engine.generate("Hello", rn.Sampling(max_tokens=5, end_token_ids=())))
"""


@pytest.mark.parametrize("work", [SUBMIT, ITERATE], ids=["submit", "generate"])
def test_a_process_may_end_while_daemon_threads_work(work: str) -> None:
    code = f"""
def spin():
  try:{work}  except rn.Stopped:
    pass
for _ in range(4):
    threading.Thread(target=spin, daemon=True).start()
time.sleep(0.1)
print("end")
"""
    for _ in range(3):
        done = runs(code)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_signal_handler_may_close_what_its_thread_iterates() -> None:
    done = runs("""
fd = engine.fileno()
signal.signal(signal.SIGALRM, lambda *_: engine.close())
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    for _ in engine.generate("x", ENDLESS):
        pass
except rn.Stopped as error:
    print(error)
try:
    os.fstat(fd)
except OSError:
    print("descriptors closed")
""")
    assert done.stdout == "the engine has been closed\ndescriptors closed\n", done.stderr


def test_a_signal_handler_may_interrupt_every_use() -> None:
    """Wherever it comes, also between the C poll and the reading of its events."""
    done = runs("""
def handler(*_):
    engine.poll(), engine.stats(), engine.cancel(1 << 60)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
end = time.monotonic() + 1
while time.monotonic() < end:
    assert sum(len(e.token_ids) for e in engine.generate("x", rn.Sampling(
        max_tokens=20, end_token_ids=()))) == 20
    engine.submit("x", rn.Sampling(max_tokens=20))
    engine.poll()
signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, lambda *_: engine.close())
for i in range(50):
    engine = rn.Engine(model, rn.Tokenizer.world_bytes())
    signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0001 * i)
    try:
        while True:
            engine.submit("x", rn.Sampling(max_tokens=1)), engine.poll(), engine.stats()
    except rn.Stopped:
        pass
print("end")
""")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


@pytest.mark.parametrize(
    "use",
    [
        "engine.stats()",
        "engine.submit('x')",
        "engine.poll()",
        "engine.fileno()",
        "next(events)",
        "list(engine.generate('x'))",
    ],
)
def test_a_child_has_no_use_of_its_parents_engine(use: str) -> None:
    done = runs(f"""
events = engine.generate("x", ENDLESS)
next(events)
if not (child := os.fork()):
    try:
        {use}
    except rn.Stopped as error:
        print(error, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], len(next(events).token_ids) > 0)
""")
    says = "the engine was made before a fork; make one in this process"
    assert done.stdout == f"{says}\n0 True\n", done.stderr


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit()",
        "engine.close(); engine.close(); os._exit(0)",
        "engine.cancel(1); events.close(); os._exit(0)",
        "del engine, events; gc.collect(); os._exit(0)",
    ],
)
def test_a_child_lets_go_of_its_parents_engine(end: str) -> None:
    done = runs(f"""
events = engine.generate("x", ENDLESS)
next(events)
if not (child := os.fork()):
    {end}
print(os.waitpid(child, 0)[1], len(next(events).token_ids) > 0)
""")
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_ctrl_c_reaches_a_waiting_iterator() -> None:
    code = """
import os, signal, threading, time
import rwkv_native as rn
from pathlib import Path
GOLDEN = Path("tests/golden/data")
model = rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth")
engine = rn.Engine(model, rn.Tokenizer.world_bytes(), max_batch=1)
engine.submit("x", max_tokens=None, end_token_ids=())  # holds the only slot: nothing else will come
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    next(engine.generate("x"))
except KeyboardInterrupt:
    time.sleep(0.1)
    print("interrupted", engine.stats().waiting)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "interrupted 0\n", done.stderr


def test_long_prompts_pass_through_no_list(engine: rn.Engine) -> None:
    """A list of a million ids would hold the GIL, and with it every greenlet, for 30 ms."""
    ids = np.full(1_000_000, 5, np.int32)
    took = []
    for _ in range(5):
        start = time.thread_time()
        engine.cancel(engine.submit(ids, rn.Sampling(max_tokens=1)))
        took.append(time.thread_time() - start)
    assert min(took) < 0.02, took


def test_it_works_under_gevent() -> None:
    """rwkv_native knows nothing of gevent, but its waiting must yield to other greenlets."""
    code = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent
import rwkv_native as rn
from pathlib import Path
GOLDEN = Path("tests/golden/data")
model = rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth")
engine = rn.Engine(model, rn.Tokenizer.world_bytes())
def run(seed):
    s = rn.Sampling(max_tokens=200, seed=seed, end_token_ids=())
    return sum(len(e.token_ids) for e in engine.generate("x", s))
jobs = [gevent.spawn(run, i) for i in range(5)]
gevent.joinall(jobs, timeout=30, raise_error=True)
print([j.value for j in jobs])
engine.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{[200] * 5}\n", done.stderr


def test_speculation_changes_no_answer(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    options = rn.Sampling(max_tokens=60, temperature=0.2, seed=3)
    prompt = "again and again and again and "
    with rn.Engine(small_model, byte_tokenizer) as engine:
        plain = [t for event in engine.generate(prompt, options) for t in event.token_ids]
        assert engine.stats().guessed_tokens == 0
        guessed = engine.generate(prompt, options, speculate=8)
        assert [t for event in guessed for t in event.token_ids] == plain
        assert engine.stats().guessed_tokens > 0
        with pytest.raises(ValueError, match="speculate"):
            engine.submit(prompt, options, speculate=65)
    with rn.Engine(small_model, byte_tokenizer, speculate=4) as engine:
        engine.submit(prompt, options, speculate=0)
        default = engine.generate(prompt, options)
        assert [t for event in default for t in event.token_ids] == plain
        assert engine.stats().accepted_tokens <= engine.stats().guessed_tokens
