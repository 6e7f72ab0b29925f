"""Models and their forward: the public behaviour, errors included. Numbers are in tests/golden."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint

SOURCE = "v70_L3_D32_fp32.pth"


@pytest.fixture(scope="module")
def model(small_model: rn.Model) -> rn.Model:
    return small_model


def test_info(model: rn.Model, golden: Path) -> None:
    info = model.info
    assert (info.version, info.layers, info.width, info.vocab) == ("7", 3, 32, 257)
    assert (info.heads, info.head_size, info.ffn) == (2, 16, 128)
    assert (info.strategy, info.file_dtype, info.threads) == ("cpu fp32", "fp32", 2)
    assert info.path == str(golden / SOURCE) and dict(info.metadata) == {}
    x86 = {"baseline", "avx2", "avx2vnni", "avx512", "avx512bf16"}
    assert info.isa in x86 | {"neon", "neondot", "neonbf16"}
    assert 50_000 < info.parameters < 100_000
    assert info.weight_bytes >= 4 * info.parameters * 0.9
    assert 0 < info.token_bytes <= info.weight_bytes and info.token_flops > info.parameters
    with pytest.raises(AttributeError):
        info.layers = 4


def test_forward(model: rn.Model) -> None:
    logits, state = model.forward([1, 2, 3])
    assert logits.shape == (257,) and logits.dtype == np.float32
    before = state.to_numpy()
    more, after = model.forward([4], state)
    assert after is not state
    assert all(np.array_equal(before[k], v) for k, v in state.to_numpy().items())
    again, _ = model.forward([4], state)
    assert np.array_equal(more, again)
    everything, _ = model.forward([5, 6], state, full=True)
    assert everything.shape == (2, 257)
    last, _ = model.forward([5, 6], state)
    assert np.allclose(everything[-1], last, atol=1e-5)
    one, _ = model.forward([5], state, full=True)
    assert one.shape == (1, 257) and np.allclose(one[0], everything[0], atol=1e-5)


@pytest.mark.parametrize(
    "tokens",
    [
        (1, 2, 3),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.uint8),
        np.array([0, 1, 2, 3])[1:],
        np.array([1, 0, 2, 0, 3], np.int32)[::2],
        [np.int64(1), 2, np.int32(3)],
        range(1, 4),
        iter([1, 2, 3]),
    ],
    ids=lambda tokens: type(tokens).__name__,
)
def test_token_containers(tokens: object, model: rn.Model) -> None:
    assert np.array_equal(model.forward(tokens)[0], model.forward([1, 2, 3])[0])


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "empty"),
        (np.array([], np.int32), "empty"),
        ([257], "257 is outside 0 to 256"),
        ([1, -1], "-1 is outside"),
        ([2**40], "not a token id"),
        ([1.0], "integers"),
        (np.array([1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array([[1, 2]]), "list of integers"),
        (np.array([2**40]), "1099511627776 is outside"),
        ("abc", "str"),
        (b"abcd", "bytes"),
        ([None], "integers"),
        (5, "integers"),
        (None, "integers"),
        ([[1]], "integers"),
    ],
)
def test_wrong_tokens(tokens: object, words: str, model: rn.Model) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        model.forward(tokens)
    assert isinstance(caught.value, rn.Error) and "tokens" in str(caught.value)


def test_wrong_state(model: rn.Model, golden: Path) -> None:
    other = rn.Model.open(golden / SOURCE, strategy="cpu fp32", threads=1)
    _, state = other.forward([1])
    with pytest.raises(ValueError, match="another model"):
        model.forward([1], state)
    with pytest.raises(ValueError, match="must be a State"):
        model.forward([1], {"att_x": 0})


def test_auto_is_the_files_own_type(golden: Path) -> None:
    for name, strategy in [
        ("v70_L2_D64_bf16", "cpu bf16"),
        ("v70_L4_D32_fp16", "cpu fp16"),
        ("v70_L3_D32_fp32", "cpu fp32"),
    ]:
        for given in ({}, {"strategy": "auto"}):
            info = rn.Model.open(golden / f"{name}.pth", **given).info
            assert info.strategy == strategy and info.file_dtype == strategy.removeprefix("cpu ")
            assert info.threads >= 1


def test_a_strategy_sets_the_memory(golden: Path) -> None:
    sizes = {
        s: rn.Model.open(golden / "v70_L3_D32_fp32.pth", strategy=f"cpu {s}").info.weight_bytes
        for s in ("fp32", "fp16", "bf16")
    }
    assert sizes["fp16"] == sizes["bf16"] < sizes["fp32"]


@pytest.mark.parametrize("strategy", ["cuda fp16", "cpu fp32i3", "cuda fp16i8 *10 -> cpu fp32"])
def test_strategies_for_later(strategy: str, golden: Path) -> None:
    with pytest.raises(rn.UnsupportedError, match="cpu fp32") as caught:
        rn.Model.open(golden / SOURCE, strategy=strategy)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("strategy", ["gpu", "cpu", "fp32", "cpu fp32;", "cpu fp64", "x" * 999])
def test_wrong_strategies(strategy: str, golden: Path) -> None:
    with pytest.raises(ValueError, match="strategy"):
        rn.Model.open(golden / SOURCE, strategy=strategy)


@pytest.mark.parametrize("strategy", [None, 3, "cpu\0fp32"])
def test_strategies_that_are_no_text(strategy: object, golden: Path) -> None:
    with pytest.raises(ValueError, match="strategy"):
        rn.Model.open(golden / SOURCE, strategy=strategy)


@pytest.mark.parametrize("state_type", [None, 16, "", "fp8", "bf16\0", "\ud800"])
def test_wrong_state_types(state_type: object, golden: Path) -> None:
    with pytest.raises(rn.InvalidError, match="state_type"):
        rn.Model.open(golden / SOURCE, state_type=state_type)


@pytest.mark.parametrize("threads", [-1, 1.5, "2", 5000])
def test_wrong_threads(threads: object, golden: Path) -> None:
    with pytest.raises(ValueError, match="threads"):
        rn.Model.open(golden / SOURCE, threads=threads)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        rn.Model.open(tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("att.time_mix", "RWKV-2"),
        ("rosa.x_q", "ROSA"),
        ("qkv.kk.weight", "RWKV-8 hybrid"),
        ("att.gate_w1", r"RWKV-6 \(experimental\)"),
    ],
)
def test_research_forms_are_refused_by_name(
    name: str, words: str, golden: Path, tmp_path: Path
) -> None:
    found = checkpoint.read(golden / "v70_L3_D32_fp32.pth").tensors
    arrays = {n: t.to_numpy() for n, t in found.items()}
    path = tmp_path / "x.safetensors"
    extra = {f"blocks.0.{name}": np.ones((2, 2), np.float32)}
    checkpoint.write_safetensors(path, arrays | extra, {})
    with pytest.raises(rn.UnsupportedError, match=words):
        rn.Model.open(path)


def test_a_file_that_is_no_model(golden: Path) -> None:
    with pytest.raises(rn.CheckpointError):
        rn.Model.open(golden / "v70_L3_D32_fp32_state.state.pth")


def test_progress(golden: Path) -> None:
    seen: list[tuple[int, int]] = []
    rn.Model.open(golden / SOURCE, progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1][0] == seen[-1][1] > 0
    assert all(0 <= done <= max(total, done) for done, total in seen)


def test_an_exception_in_progress_ends_the_load(golden: Path) -> None:
    class Enough(Exception):
        pass

    def progress(done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        rn.Model.open(golden / SOURCE, progress=progress)


def test_loading(golden: Path) -> None:
    loading = rn.Model.load(golden / SOURCE, strategy="cpu fp32")
    model = loading.result()
    assert loading.finished and loading.result() is model
    done, total = loading.progress
    assert done == total
    loading.cancel()  # without effect now
    assert loading.result() is model


def test_a_cancelled_load(golden: Path) -> None:
    loading = rn.Model.load(golden / SOURCE)
    loading.cancel()
    loading.cancel()
    assert loading.finished
    with pytest.raises(rn.Stopped):
        loading.result()


def test_a_dropped_load(golden: Path) -> None:
    for _ in range(20):
        rn.Model.load(golden / SOURCE)


def test_models_are_made_by_open() -> None:
    with pytest.raises(TypeError, match=r"rn\.Model\.open"):
        rn.Model()


def test_forward_from_many_threads(model: rn.Model) -> None:
    """Calls take turns and none disturbs another."""
    prompts = [[i, i + 1, i + 2] for i in range(8)]
    expected = [model.forward(p)[0] for p in prompts]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(model.forward(prompts[i])[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_gil_is_free_during_forward(model: rn.Model) -> None:
    tokens = np.arange(20_000) % 257
    thread = threading.Thread(target=model.forward, args=(tokens,))
    ticks = 0
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 5


def test_barriers_are_counted(model: rn.Model) -> None:
    """At most five per layer: what keeps small steps cheap on many cores."""
    before = model.barriers()
    model.forward([1])
    used = model.barriers() - before
    assert 0 < used <= 5 * model.info.layers + 2


def test_repr(model: rn.Model) -> None:
    assert repr(model) == "<rwkv_native.Model v70_L3_D32_fp32.pth: RWKV-7 L3 D32, cpu fp32>"


def test_a_strategy_that_is_no_text(golden: Path) -> None:
    with pytest.raises(rn.InvalidError, match="strategy"):
        rn.Model.open(golden / "v70_L3_D32_fp32.pth", "\ud800")
