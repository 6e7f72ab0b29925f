"""The engine's cache of states as its callers see it: counts, limits, marks in a text, and the
answers of a real conversation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import rwkv_native as rn

PLENTY = 64 << 20


@pytest.fixture(scope="module")
def demo() -> rn.Model:
    return rn.Model.open(rn.demo_model(), threads=2)


@pytest.fixture
def engine(demo: rn.Model, byte_tokenizer: rn.Tokenizer) -> Iterator[rn.Engine]:
    with rn.Engine(demo, byte_tokenizer, cache_bytes=PLENTY) as engine:
        yield engine


def answer(engine: rn.Engine, prompt: str, **options: object) -> tuple[str, rn.Event]:
    """The text, greedy, and the last event."""
    sampling = rn.Sampling(temperature=0, max_tokens=40, stop=["\n\n"])
    events = list(engine.generate(prompt, sampling, **options))
    return "".join(event.text for event in events), events[-1]


def test_a_follow_up_reads_its_new_tokens_only(
    engine: rn.Engine, demo: rn.Model, byte_tokenizer: rn.Tokenizer
) -> None:
    with rn.Engine(demo, byte_tokenizer) as plain:
        prompt = "User: What is 2 plus 3?\n\nAssistant:"
        new, read = len(prompt), 0
        for question in ("What is 4 plus 4?", "Count to five.", "Spell cat.", "Hello"):
            text, last = answer(engine, prompt)
            assert text and text == answer(plain, prompt)[0]
            assert last.finish_reason == "stop" and last.prompt_tokens == len(prompt)
            assert engine.stats().prompt_tokens - read == new == len(prompt) - last.cached_tokens
            read = engine.stats().prompt_tokens
            follow_up = f"\n\nUser: {question}\n\nAssistant:"
            prompt += text + follow_up
            new = len(follow_up)
        assert plain.stats().prompt_tokens > 2 * read
        assert plain.cache_stats().hits + plain.cache_stats().misses == 0


def test_counts(engine: rn.Engine) -> None:
    _, first = answer(engine, "abcdefghijklmnopqrstuvwxyz", save_at=[20])
    _, second = answer(engine, "abcdefghijklmnopqrst, and so on")
    assert (first.cached_tokens, second.cached_tokens) == (0, 20)
    stats = engine.cache_stats()
    assert (stats.hits, stats.misses, stats.cached_tokens, stats.asked_tokens) == (1, 1, 20, 57)
    assert stats.saved == stats.entries == 5 and stats.evicted == stats.reworded == 0
    assert 0 < stats.bytes <= stats.limit == PLENTY


def test_control(engine: rn.Engine) -> None:
    def cached() -> int:
        return answer(engine, "some text")[1].cached_tokens

    assert (cached(), cached()) == (0, 9)
    engine.clear_cache()
    assert (cached(), cached()) == (0, 9)
    engine.resize_cache(0)
    assert (cached(), cached()) == (0, 0)
    assert engine.cache_stats().bytes == 0
    engine.resize_cache(np.int64(PLENTY))
    assert (cached(), cached()) == (0, 9)


def test_start_states_stay_apart(engine: rn.Engine, demo: rn.Model) -> None:
    arrays = demo.forward([1, 2, 3])[1].to_numpy()
    states = [
        None,
        rn.State.from_numpy(demo, arrays),
        rn.State.from_numpy(demo, {name: -a for name, a in arrays.items()}),
    ]
    first = [answer(engine, "User: Hello\n\nAssistant:", state=state) for state in states]
    again = [answer(engine, "User: Hello\n\nAssistant:", state=state) for state in states]
    assert [last.cached_tokens for _, last in first] == [0, 0, 0]
    assert [last.cached_tokens for _, last in again] == [23, 23, 23]
    assert [text for text, _ in first] == [text for text, _ in again]
    equal = states[1].clone()
    assert answer(engine, "User: Hello\n\nAssistant:", state=equal)[1].cached_tokens == 0


@pytest.mark.parametrize("value", [-1, 1 << 63, 1.5, True, None, "1"])
def test_wrong_sizes(engine: rn.Engine, value: object) -> None:
    with pytest.raises(ValueError, match="cache_bytes"):
        engine.resize_cache(value)
    with pytest.raises(ValueError, match="cache_bytes"):
        rn.Engine(engine.model, engine.tokenizer, cache_bytes=value)


@pytest.mark.parametrize("marks", [[0], [-1], [3, 2], [2, 2], [5], [1.5], "12", [1 << 31]])
def test_wrong_marks(engine: rn.Engine, marks: object) -> None:
    with pytest.raises(ValueError, match="save_at"):
        engine.submit("abcd", save_at=marks)


def test_a_closed_engine_keeps_nothing(demo: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    engine = rn.Engine(demo, byte_tokenizer, cache_bytes=PLENTY)
    engine.close()
    for use in (engine.clear_cache, engine.cache_stats, lambda: engine.resize_cache(1)):
        with pytest.raises(rn.Stopped):
            use()


# -- marks


def test_marks_of_bytes(byte_tokenizer: rn.Tokenizer) -> None:
    ids, counts = byte_tokenizer.encode_marked("aé日b", [0, 1, 2, 2, 3, 4])
    assert ids.tolist() == byte_tokenizer.encode("aé日b")
    assert counts == [1, 3, 6, 7]
    assert byte_tokenizer.encode_marked("", [0])[1] == []


def test_marks_of_world() -> None:
    world = rn.Tokenizer.world()
    text = "User: hello\n\nAssistant: Hello! How can I help?\n\nUser: bye\n\nAssistant:"
    marks = range(len(text) + 1)
    ids, counts = world.encode_marked(text, marks)
    assert ids.tolist() == world.encode(text)
    assert counts == list(range(1, len(ids) + 1))
    ends = np.cumsum([len(world.decode_bytes([id])) for id in ids])
    for mark in marks:
        whole = int(np.searchsorted(ends, mark, "right"))
        assert world.encode_marked(text, [mark])[1] == ([whole] if whole else [])


def test_music_has_no_marks() -> None:
    ids, counts = rn.Tokenizer.named("midi").encode_marked("<pad> pi:3c:a t24", [5, 9])
    assert len(ids) == 3 and counts == []


def test_an_answer_becomes_the_same_tokens_in_the_next_prompt() -> None:
    """What the cache relies on, for World."""
    world = rn.Tokenizer.world()
    prompt = "User: hello\n\nAssistant:"
    said = prompt + " Hello! How can I help"
    follow_up = world.encode(said + "?\n\nUser: bye\n\nAssistant:")
    for text in (prompt, said):
        ids = world.encode(text)
        assert follow_up[: len(ids)] == ids
