"""What a person at a prompt or in a notebook meets: keywords, defaults, copies, Ctrl-C, asyncio."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native.compat import PIPELINE, PIPELINE_ARGS, RWKV


@pytest.fixture(scope="module")
def engine(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> Iterator[rn.Engine]:
    with rn.Engine(small_model, byte_tokenizer) as engine:
        yield engine


def text_of(events: Iterator[rn.Event]) -> str:
    return "".join(event.text for event in events)


# -- sampling by keyword, and what is refused


def test_options_are_fields_of_sampling(engine: rn.Engine) -> None:
    whole = rn.Sampling(temperature=0, max_tokens=8)
    expected = text_of(engine.generate("abc", whole))
    assert text_of(engine.generate("abc", temperature=0, max_tokens=8)) == expected
    changed = engine.generate("abc", rn.Sampling(max_tokens=8, seed=1), temperature=0)
    assert text_of(changed) == expected
    id = engine.submit("abc", temperature=0, max_tokens=8, stream=False)
    events = []
    while not events or events[-1].finish_reason is None:
        time.sleep(0.001)
        events += [event for event in engine.poll() if event.id == id]
    assert text_of(iter(events)) == expected
    with pytest.raises(TypeError, match=r"'temprature' is neither.*temperature"):
        engine.generate("abc", temprature=0)
    with pytest.raises(ValueError, match="top_p must be 0 to 1, not 2"):
        engine.submit("abc", top_p=2)
    with pytest.raises(ValueError, match="sampling must be a Sampling, not dict"):
        engine.generate("abc", {"temperature": 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "temperature must be a finite number from 0 up, not -0.1"),
        ("temperature", float("nan"), "temperature must be a finite number from 0 up, not nan"),
        ("temperature", float("inf"), "temperature must be a finite number from 0 up, not inf"),
        ("temperature", "hot", "temperature must be a number, not 'hot'"),
        ("top_p", 2, "top_p must be 0 to 1, not 2.0"),
        ("top_p", -1, "top_p must be 0 to 1, not -1.0"),
        ("min_p", 1.5, "min_p must be 0 to 1, not 1.5"),
        ("penalty_decay", 1.01, "penalty_decay must be 0 to 1, not 1.01"),
        ("presence_penalty", float("nan"), "presence_penalty must be a finite number, not nan"),
        ("frequency_penalty", -float("inf"), "frequency_penalty must be a finite number, not -inf"),
        ("top_k", -2, "top_k must be -1 to 2147483647, not -2"),
        ("top_k", 1.5, "top_k must be a whole number, not 1.5"),
        ("logprobs", 21, "logprobs must be 0 to 20, not 21"),
        ("max_tokens", -1, "max_tokens must be 0 to"),
        ("min_tokens", 5000, "min_tokens must be at most max_tokens, 4096, not 5000"),
        ("seed", 1 << 64, "seed must be"),
        ("stop", [""], "stop must be texts that are not empty"),
    ],
)
def test_out_of_range_is_refused_where_it_is_written(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(rn.InvalidError) as refused:
        rn.Sampling(**{field: value})  # type: ignore[arg-type]
    assert message in str(refused.value)


def test_an_answer_has_a_length(engine: rn.Engine) -> None:
    """Of a model that never ends, too."""
    assert rn.Sampling().max_tokens == 4096
    events = list(engine.generate("abc", end_token_ids=(), seed=1))
    assert events[-1].finish_reason == "length"
    assert events[-1].completion_tokens == 4096


def test_several_prompts_are_several_calls(engine: rn.Engine) -> None:
    for prompts in (["a", "b"], ("a",), [[1, 2], [3]]):
        with pytest.raises(ValueError, match=r"one text or one list of token ids.*a call of its"):
            engine.generate(prompts)  # type: ignore[arg-type]


def test_an_engine_takes_the_models_tokenizer() -> None:
    with rn.Model.open(rn.demo_model(), threads=0) as model, rn.Engine(model) as engine:
        assert engine.tokenizer.name == "world-bytes"
        answer = text_of(engine.generate("User: 2 + 3?\n\nAssistant:", temperature=0, stop="\n\n"))
        assert "5" in answer
    with pytest.raises(ValueError, match="model must be a Model, not str"):
        rn.Engine("model.pth")  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [-1, 1025, True, "two"])
def test_threads(threads: object) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 1024, or 0 or None"):
        rn.Model.open(rn.demo_model(), threads=threads)  # type: ignore[arg-type]


# -- states


def test_from_numpy_says_what_is_wrong(small_model: rn.Model) -> None:
    for wrong, kind in ((np.zeros(5), "ndarray"), (None, "NoneType"), ([1], "list")):
        with pytest.raises(ValueError, match=f"as State.to_numpy.. returns them, not {kind}"):
            rn.State.from_numpy(small_model, wrong)  # type: ignore[arg-type]
    arrays: dict[object, object] = dict(small_model.zero_state().to_numpy())
    with pytest.raises(ValueError, match="no part 7"):
        rn.State.from_numpy(small_model, arrays | {7: 1})  # type: ignore[arg-type]


def test_a_state_is_pickled_and_copied(small_model: rn.Model) -> None:
    logits, state = small_model.forward([1, 2, 3])
    for same in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        again, _ = small_model.forward([4], same)
        assert np.array_equal(again, small_model.forward([4], state)[0])
    wrapped = pickle.loads(pickle.dumps({"logits": logits, "state": state}))
    assert np.array_equal(wrapped["logits"], logits)


def test_a_pickle_of_a_model_that_is_not_open() -> None:
    model = rn.Model.open(rn.demo_model())
    held = pickle.dumps(model.zero_state())
    others = [m for m in gc.get_objects() if isinstance(m, rn.Model) and m is not model]
    if any(m.info.path == model.info.path for m in others):
        pytest.skip("another test has it open")
    model.close()
    with pytest.raises(ValueError, match=r"open it with rn\.Model\.open before"):
        pickle.loads(held)


def test_what_cannot_be_pickled_says_what_to_do(
    small_model: rn.Model, byte_tokenizer: rn.Tokenizer, engine: rn.Engine
) -> None:
    assert copy.deepcopy(small_model) is small_model
    assert copy.deepcopy(byte_tokenizer) is byte_tokenizer
    with engine.generate("a", max_tokens=1) as generation:
        for thing, hint in (
            (small_model, "rn.Model.open"),
            (byte_tokenizer, "rn.Tokenizer.for_model"),
            (engine, "make one in each process"),
            (generation, "pass its events on"),
        ):
            with pytest.raises(TypeError, match=hint):
                pickle.dumps(thing)


# -- the end of a model


def test_a_model_is_closed() -> None:
    with rn.Model.open(rn.demo_model()) as model:
        _, state = model.forward([1])
        engine = rn.Engine(model)
    for call in (lambda: model.forward([1]), model.zero_state, lambda: rn.Engine(model)):
        with pytest.raises(rn.Stopped, match="the model has been closed"):
            call()
    assert "closed" in repr(model)
    model.close()
    with engine:  # has what it needs, and so has the state
        assert text_of(engine.generate("User: 1 + 1?\n\nAssistant:", max_tokens=3))
        assert list(engine.generate("a", state=state, max_tokens=2))[-1].completion_tokens == 2
    assert state.to_numpy()["wkv"].any()


def test_close_beside_a_forward() -> None:
    model = rn.Model.open(rn.demo_model())
    answers: list[object] = []

    def work() -> None:
        try:
            answers.append(model.forward(np.ones(3000, np.int32))[0])
        except rn.Stopped as stopped:
            answers.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.01)
    model.close()
    thread.join()
    assert len(answers) == 1


def test_they_show_what_they_are(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    name = small_model.info.path.rsplit("/", 1)[-1]
    assert name in repr(small_model) and "closed" not in repr(small_model)
    assert repr(small_model.zero_state()).startswith("<rwkv_native.State of RWKV-7")
    with rn.Engine(small_model, byte_tokenizer) as engine:
        assert repr(engine) == f"<rwkv_native.Engine on {name}: 0 at work, 0 waiting>"
        generation = engine.generate("a", max_tokens=2)
        assert repr(generation) == f"<rwkv_native.Generation {generation.id}: at work>"
        list(generation)
        assert repr(generation).endswith("ended>")
    assert repr(engine) == f"<rwkv_native.Engine on {name}: closed>"


# -- Ctrl-C


def test_ctrl_c_in_a_long_forward() -> None:
    """It is heard between two parts of the prompt, of which there are hundreds here."""
    script = textwrap.dedent(
        """
        import sys, time
        import numpy as np
        import rwkv_native as rn
        model = rn.Model.open(rn.demo_model(), threads=1)
        print("ready", flush=True)
        start = time.monotonic()
        try:
            model.forward(np.ones(1_000_000, np.int32))
        except KeyboardInterrupt:
            logits, _ = model.forward([1])  # and it can be used again
            print("heard", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60)[0] == "heard\n"
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("full", [False, True])
def test_a_forward_in_parts_is_the_same(small_model: rn.Model, full: bool) -> None:
    ids = np.random.default_rng(1).integers(0, small_model.info.vocab, 700, np.int32)
    logits, state = small_model.forward(ids, full=full)
    rows, after = [], None
    for at in range(0, 700, 100):
        row, after = small_model.forward(ids[at : at + 100], after, full=full)
        rows.append(row)
    assert np.array_equal(logits, np.concatenate(rows) if full else rows[-1])
    assert after is not None
    for name, part in state.to_numpy().items():
        assert np.array_equal(part, after.to_numpy()[name])


# -- asyncio


async def answer(
    engine: rn.Engine, seed: int, tokens: int = 20, **options: object
) -> tuple[str, int]:
    events = [e async for e in engine.generate("abc", seed=seed, max_tokens=tokens, **options)]
    return text_of(iter(events)), events[-1].completion_tokens


def test_async_for(engine: rn.Engine) -> None:
    expected = [text_of(engine.generate("abc", seed=i, max_tokens=20)) for i in range(30)]

    async def together() -> list[tuple[str, int]]:
        return await asyncio.gather(*(answer(engine, seed) for seed in range(30)))

    for _ in range(3):  # a loop of its own each
        answers = asyncio.run(together())
        assert [text for text, _ in answers] == expected


def test_async_beside_iterators_and_poll(engine: rn.Engine) -> None:
    expected = text_of(engine.generate("abc", seed=5, max_tokens=300))
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(text_of(engine.generate("abc", seed=5, max_tokens=300)))
        )
        for _ in range(3)
    ]
    id = engine.submit("abc", seed=5, max_tokens=300)

    async def run() -> list[tuple[str, int]]:
        return await asyncio.gather(*(answer(engine, 5, 300) for _ in range(3)))

    for thread in threads:
        thread.start()
    found += [text for text, _ in asyncio.run(run())]
    events: list[rn.Event] = []
    while not events or events[-1].finish_reason is None:
        time.sleep(0.001)
        events += [event for event in engine.poll() if event.id == id]
    for thread in threads:
        thread.join(60)
    assert [*found, text_of(iter(events))] == [expected] * 7


def test_the_loop_goes_on_beside_it(engine: rn.Engine) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def run() -> int:
        clock = asyncio.create_task(tick())
        _, count = await answer(engine, 1, 50, end_token_ids=())
        clock.cancel()
        return count

    assert asyncio.run(run()) == 50
    assert ticks > 0


def test_a_cancelled_task_cancels_its_request(engine: rn.Engine) -> None:
    before = engine.stats().cancelled

    async def run() -> None:
        task = asyncio.create_task(answer(engine, 1, 1_000_000, end_token_ids=()))
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    end = time.monotonic() + 30
    while engine.stats().cancelled == before and time.monotonic() < end:
        time.sleep(0.001)
    assert engine.stats().cancelled == before + 1
    assert asyncio.run(answer(engine, 1, 5, end_token_ids=()))[1] == 5


def test_closing_wakes_tasks(small_model: rn.Model, byte_tokenizer: rn.Tokenizer) -> None:
    engine = rn.Engine(small_model, byte_tokenizer)

    async def run() -> None:
        tasks = [
            asyncio.create_task(answer(engine, i, 1_000_000, end_token_ids=())) for i in range(3)
        ]
        while engine.stats().running < 3:
            await asyncio.sleep(0.001)
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        for task in tasks:
            with pytest.raises(rn.Stopped):
                await asyncio.wait_for(task, 30)

    asyncio.run(run())


# -- scripts of the official package


def test_the_demo_model_in_a_script_of_the_official_package() -> None:
    model = RWKV(model=str(rn.demo_model()), strategy="cpu fp32")
    pipeline = PIPELINE(model, "world-bytes")
    prompt, args = "User: 2 + 3?\n\nAssistant:", PIPELINE_ARGS(temperature=0, token_stop=[0])
    assert "5" in pipeline.generate(prompt, token_count=12, args=args)
    wrong = PIPELINE(model, "rwkv_vocab_v20230424")
    with pytest.raises(
        ValueError, match=r"has the id \d{5} and the model only 257 rows.*world-bytes"
    ):
        wrong.generate("中文", token_count=1)
