"""States as values: arrays, files, tuned states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rwkv_native as rn
from rwkv_native import checkpoint


@pytest.fixture(scope="module")
def model(small_model: rn.Model) -> rn.Model:
    return small_model


def equal(a: rn.State, b: rn.State) -> bool:
    x, y = a.to_numpy(), b.to_numpy()
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


def test_arrays(model: rn.Model) -> None:
    arrays = model.forward([1, 2, 3])[1].to_numpy()
    assert list(arrays) == ["att_x", "ffn_x", "wkv"]
    assert arrays["att_x"].shape == arrays["ffn_x"].shape == (3, 32)
    assert arrays["wkv"].shape == (3, 2, 16, 16)
    assert all(a.dtype == np.float32 and np.isfinite(a).all() and a.any() for a in arrays.values())


def test_zero_state(model: rn.Model) -> None:
    assert not any(a.any() for a in model.zero_state().to_numpy().values())
    with_zero = model.forward([7], model.zero_state())[0]
    assert np.array_equal(with_zero, model.forward([7])[0])


def test_to_numpy_copies(model: rn.Model) -> None:
    _, state = model.forward([1])
    state.to_numpy()["wkv"][:] = 0
    assert state.to_numpy()["wkv"].any()


def test_round_trip_through_arrays(model: rn.Model) -> None:
    _, state = model.forward([1, 2, 3])
    again = rn.State.from_numpy(model, state.to_numpy())
    assert equal(state, again)
    assert np.array_equal(model.forward([4], state)[0], model.forward([4], again)[0])


def test_from_numpy_takes_any_layout(model: rn.Model) -> None:
    _, state = model.forward([1, 2, 3])
    arrays = {k: np.asfortranarray(v.astype(np.float64)) for k, v in state.to_numpy().items()}
    assert equal(state, rn.State.from_numpy(model, arrays))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("wkv"), "'wkv' of the state is missing"),
        (lambda a: a.update(aa=a["wkv"]), "no part 'aa'"),
        (lambda a: a.update(wkv=a["wkv"][:2]), r"shape \[2, 2, 16, 16\].*\[3, 2, 16, 16\]"),
        (lambda a: a.update(wkv=a["wkv"].ravel()), "shape"),
        (lambda a: a.update(att_x="text"), "'att_x'"),
    ],
)
def test_wrong_arrays(change: object, words: str, model: rn.Model) -> None:
    arrays = model.zero_state().to_numpy()
    change(arrays)
    with pytest.raises(rn.InvalidError, match=words):
        rn.State.from_numpy(model, arrays)


def test_clone(model: rn.Model) -> None:
    _, state = model.forward([1])
    assert equal(state, state.clone()) and state.clone() is not state


def test_save_and_load_continue_exactly(model: rn.Model, tmp_path: Path) -> None:
    _, state = model.forward([1, 2, 3])
    path = tmp_path / "chat.safetensors"
    state.save(path)
    found = checkpoint.read(path)
    assert found.metadata == {"rwkv.kind": "state", "rwkv.version": "7"}
    again = rn.State.load(model, path)
    assert equal(state, again)
    for token in range(5):
        a, state = model.forward([token], state)
        b, again = model.forward([token], again)
        assert np.array_equal(a, b)


def test_a_state_of_another_shape(model: rn.Model, golden: Path, tmp_path: Path) -> None:
    other = rn.Model.open(golden / "v70_L2_D64_bf16.pth")
    path = tmp_path / "other.safetensors"
    other.forward([1])[1].save(path)
    with pytest.raises(rn.CheckpointError, match=r"'att_x' has shape \[2, 64\].*\[3, 32\]"):
        rn.State.load(model, path)


def test_files_that_are_no_states(model: rn.Model, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(rn.CheckpointError, match="is not a state"):
        rn.State.load(model, golden / "v70_L4_D32_fp16.safetensors")
    path = tmp_path / "old.safetensors"
    arrays = model.zero_state().to_numpy()
    checkpoint.write_safetensors(path, arrays, {"rwkv.kind": "state", "rwkv.version": "6"})
    with pytest.raises(rn.CheckpointError, match="RWKV-6, the model is RWKV-7"):
        rn.State.load(model, path)
    meta = {"rwkv.kind": "state", "rwkv.version": "7"}
    checkpoint.write_safetensors(path, {"att_x": arrays["att_x"]}, meta)
    with pytest.raises(rn.CheckpointError, match="'ffn_x' of the state is missing"):
        rn.State.load(model, path)
    checkpoint.write_safetensors(path, arrays | {"x": arrays["att_x"]}, meta)
    with pytest.raises(rn.CheckpointError, match="no part 'x'"):
        rn.State.load(model, path)
    with pytest.raises(FileNotFoundError):
        rn.State.load(model, tmp_path / "nothing")


def test_tuned_state(golden: Path) -> None:
    model = rn.Model.open(golden / "v70_L3_D32_fp32_state.pth", strategy="cpu fp32")
    path = golden / "v70_L3_D32_fp32_state.state.pth"
    arrays = model.load_tuned_state(path).to_numpy()
    assert not arrays["att_x"].any() and not arrays["ffn_x"].any()
    tensors = checkpoint.read(path).tensors
    for i in range(3):
        stored = tensors[f"blocks.{i}.att.time_state"].to_numpy()
        assert np.array_equal(arrays["wkv"][i], stored), "RWKV-7 needs no transposition"


def test_either_kind_of_state_in_the_place_of_the_other(
    golden: Path, model: rn.Model, tmp_path: Path
) -> None:
    """Each says which call reads it."""
    model.forward([1])[1].save(tmp_path / "saved.safetensors")
    with pytest.raises(rn.CheckpointError, match=r"State\.save has written it, State\.load"):
        model.load_tuned_state(tmp_path / "saved.safetensors")
    with pytest.raises(rn.CheckpointError, match=r"which Model\.load_tuned_state reads"):
        rn.State.load(model, golden / "v70_L3_D32_fp32_state.state.pth")


def test_tuned_states_that_do_not_fit(golden: Path, model: rn.Model, tmp_path: Path) -> None:
    other = rn.Model.open(golden / "v70_L4_D32_fp16.pth")
    with pytest.raises(rn.CheckpointError, match=r"shape \[2, 16, 16\]|missing"):
        other.load_tuned_state(golden / "v70_L3_D32_fp32_state.state.pth")
    with pytest.raises(rn.CheckpointError, match="no tuned state"):
        model.load_tuned_state(golden / "v70_L3_D32_fp32.pth")
    part = np.zeros((2, 16, 16), np.float32)
    path = tmp_path / "x.safetensors"
    for names, words in [
        ([0, 1], r"blocks\.2\.att\.time_state is missing"),
        ([0, 1, 2, 3], "more than 3 layers"),
    ]:
        arrays = {f"blocks.{i}.att.time_state": part for i in names}
        checkpoint.write_safetensors(path, arrays, {})
        with pytest.raises(rn.CheckpointError, match=words):
            model.load_tuned_state(path)


CASES = ["v4_L2_D64_bf16", "v50_L2_D64_fp32", "v51_L2_D64_bf16", "v52_L3_D32_fp32",
         "v60_L3_D32_fp32", "v70_L3_D32_fp32", "v7a_L2_D32_bf16", "v8rc_L2_D64_bf16"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_version_saves_and_continues_anywhere(
    case: str, shared: Path, tmp_path: Path, byte_tokenizer: rn.Tokenizer
) -> None:
    """A state of one strategy, thread count or place in a batch goes on in any other."""
    source = shared / "golden" / f"{case}.pth"
    head, tail = [0, 3, 1, 4], [1, 5, 9, 2]
    one = rn.Model.open(source, "cpu fp32", threads=1)
    _, state = one.forward(head)
    path = tmp_path / "state.safetensors"
    state.save(path)
    exact, after = one.forward(tail, state, full=True)
    scale = np.abs(exact).max()
    for strategy, threads, bound in [
        ("cpu fp32", 1, 0),
        ("cpu fp32", 2, 0),
        ("cpu bf16", 2, 4e-2),
        ("cpu fp16", 1, 2e-2),
    ]:
        model = rn.Model.open(source, strategy, threads=threads)
        loaded = rn.State.load(model, path)
        assert equal(loaded, state)
        logits, _ = model.forward(tail, loaded, full=True)
        assert np.abs(logits - exact).max() <= bound * scale, strategy
        # And back: what the half-precision model made, the exact one takes.
        _, half = model.forward(head)
        again, _ = one.forward(tail, rn.State.from_numpy(one, half.to_numpy()), full=True)
        assert np.abs(again - exact).max() <= 3 * bound * scale, strategy
    # In a batch of four, each from the saved state, the engine draws what forward computes.
    by_hand = []
    logits, step = exact[-1], after
    for _ in range(3):
        by_hand.append(int(logits.argmax()))
        logits, step = one.forward(by_hand[-1:], step)
    sampling = rn.Sampling(max_tokens=3, temperature=0, end_token_ids=(), logprobs=0)
    with rn.Engine(one, byte_tokenizer, max_batch=4) as engine:
        start = rn.State.load(one, path)
        ids = [engine.submit(tail, sampling, state=start) for _ in range(4)]
        drawn: dict[int, list[int]] = {id: [] for id in ids}
        running = set(ids)
        while running:
            for event in engine.poll():
                drawn[event.id] += event.token_ids
                if event.finish_reason is not None:
                    running.remove(event.id)
    assert len({tuple(d) for d in drawn.values()}) == 1
    if all(byte_tokenizer.decode_bytes([t]) for t in by_hand):
        assert drawn[ids[0]] == by_hand


def test_a_growing_state_has_no_file(shared: Path, tmp_path: Path) -> None:
    model = rn.Model.open(shared / "golden" / "v7b_L2_D16_bf16.pth")
    _, state = model.forward([1, 2, 3])
    with pytest.raises(rn.UnsupportedError, match=r"7b.*grows with the text"):
        state.save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
    assert state.clone().to_numpy().keys() >= {"att_x", "wkv"}


@pytest.mark.parametrize("case", ["v52_L3_D32_fp32", "v60_L3_D32_fp32", "v70_L3_D32_fp32"])
def test_orientation_of_tuned_states(case: str, shared: Path, tmp_path: Path) -> None:
    """Files are [value][key] in all versions and containers; the recurrences of 5 and 6 are not."""
    model = rn.Model.open(shared / "golden" / f"{case}.pth")
    tuned = np.random.default_rng(1).standard_normal((3, 2, 16, 16)).astype(np.float16)
    arrays = {f"blocks.{i}.att.time_state": tuned[i].astype(np.float32) for i in range(3)}
    path = tmp_path / "tuned.safetensors"
    checkpoint.write_safetensors(path, arrays, {})
    wkv = model.load_tuned_state(path).to_numpy()["wkv"]
    assert np.array_equal(wkv, tuned if case.startswith("v7") else tuned.swapaxes(2, 3))


def test_version_4_has_no_tuned_states(shared: Path, golden: Path) -> None:
    model = rn.Model.open(shared / "golden" / "v4_L2_D64_bf16.pth")
    with pytest.raises(rn.CheckpointError, match="no tuned states for RWKV-4"):
        model.load_tuned_state(golden / "v70_L3_D32_fp32_state.state.pth")


def test_states_with_nan(model: rn.Model, tmp_path: Path) -> None:
    arrays = model.zero_state().to_numpy()
    arrays["wkv"][1, 0, 2, 3] = np.nan
    path = tmp_path / "x.safetensors"
    meta = {"rwkv.kind": "state", "rwkv.version": "7"}
    checkpoint.write_safetensors(path, arrays, meta)
    with pytest.raises(rn.CheckpointError, match="'wkv' holds a NaN"):
        rn.State.load(model, path)
    tuned = {f"blocks.{i}.att.time_state": arrays["wkv"][i] for i in range(3)}
    checkpoint.write_safetensors(path, tuned, {})
    with pytest.raises(rn.CheckpointError, match="time_state holds a NaN"):
        model.load_tuned_state(path)


def test_states_keep_their_model(golden: Path) -> None:
    model = rn.Model.open(golden / "v70_L3_D32_fp32.pth")
    _, state = model.forward([1])
    del model
    assert state.to_numpy()["wkv"].any()


def test_states_are_made_by_models() -> None:
    with pytest.raises(TypeError, match=r"model\.forward"):
        rn.State()


KEPT = {"fp16": 2**-11, "bf16": 2**-8}  # half a unit in the last place of a number near 1


def open_with(state_type: str, golden: Path) -> rn.Model:
    return rn.Model.open(
        golden / "v70_L3_D32_fp32.pth", "cpu fp32", threads=2, state_type=state_type
    )


@pytest.mark.parametrize("state_type", KEPT)
def test_states_in_16_bits(state_type: str, model: rn.Model, golden: Path, tmp_path: Path) -> None:
    """The matrices take half the room; their numbers come and go as fp32, and in files."""
    small = open_with(state_type, golden)
    wkv = model.zero_state().to_numpy()["wkv"]
    assert (model.info.state_type, small.info.state_type) == ("fp32", state_type)
    assert model.info.state_bytes - small.info.state_bytes == wkv.nbytes // 2
    exact, state = model.forward(range(20))
    found, kept = small.forward(range(20))
    assert 0 < np.abs(found - exact).max() / np.abs(exact).max() < 3 * KEPT[state_type]
    arrays = kept.to_numpy()
    assert all(a.dtype == np.float32 for a in arrays.values())
    if state_type == "fp16":
        assert np.array_equal(arrays["wkv"], arrays["wkv"].astype(np.float16))
    else:
        assert not (arrays["wkv"].view(np.uint32) & 0xFFFF).any()

    again = rn.State.from_numpy(small, arrays)
    kept.save(tmp_path / "kept")
    loaded = rn.State.load(small, tmp_path / "kept")
    wanted = small.forward([4, 5], kept)[0]
    for one in (again, loaded, kept.clone()):
        assert equal(one, kept) and np.array_equal(small.forward([4, 5], one)[0], wanted)
    assert equal(rn.State.load(model, tmp_path / "kept"), kept)  # 16 bits fit into 32

    state.save(tmp_path / "exact")
    rounded = rn.State.load(small, tmp_path / "exact").to_numpy()
    wkv = state.to_numpy()["wkv"]
    assert np.abs(rounded["wkv"] - wkv).max() <= np.abs(wkv).max() * KEPT[state_type]
    assert np.array_equal(rounded["att_x"], state.to_numpy()["att_x"])


def test_a_large_state_does_not_become_infinite(model: rn.Model, golden: Path) -> None:
    arrays = model.zero_state().to_numpy()
    arrays["wkv"][:] = 1e6
    small = open_with("fp16", golden)
    assert (rn.State.from_numpy(small, arrays).to_numpy()["wkv"] == 65504).all()
    logits, state = small.forward([1, 2, 3], rn.State.from_numpy(small, arrays))
    assert np.isfinite(logits).all() and np.abs(state.to_numpy()["wkv"]).max() <= 65504


def test_version_4_has_no_matrices(shared: Path) -> None:
    path = shared / "golden" / "v4_L2_D64_bf16.pth"
    info = rn.Model.open(path, state_type="bf16").info
    assert info.state_type == "fp32" and info.state_bytes == rn.Model.open(path).info.state_bytes


@pytest.mark.parametrize("state_type", KEPT)
def test_an_engine_with_states_in_16_bits(state_type: str, byte_tokenizer: rn.Tokenizer) -> None:
    """Batches, guesses and kept states change no token; embeddings stay near those of fp32."""
    model = rn.Model.open(rn.demo_model(), "cpu fp32", threads=2, state_type=state_type)
    sampling = rn.Sampling(temperature=1, seed=3, max_tokens=30, end_token_ids=(), logprobs=2)
    prompts = [f"User: Count to {n}.\n\nAssistant: 1, 2, 3, 4, 5, 1, 2," for n in "56789"]

    def tokens(engine: rn.Engine, speculate: int) -> list[tuple[int, list]]:
        ids = [engine.submit(p, sampling, speculate=speculate) for p in prompts]
        found: dict[int, list] = {i: [] for i in ids}
        left = set(ids)
        while left:
            for event in engine.poll():
                found[event.id] += zip(event.token_ids, event.logprobs, strict=True)
                if event.finish_reason is not None:
                    left.discard(event.id)
        return [found[i] for i in ids]

    with rn.Engine(model, byte_tokenizer, max_batch=1) as engine:
        alone = tokens(engine, 0)
    with rn.Engine(model, byte_tokenizer, cache_bytes=64 << 20) as engine:
        assert tokens(engine, 0) == alone
        assert tokens(engine, 8) == alone  # goes on from kept states
        assert engine.stats().guessed_tokens > 0 and engine.cache_stats().hits == len(prompts)
        vectors = engine.embed(["some text"])
    exact = rn.Model.open(rn.demo_model(), "cpu fp32", threads=2)
    with rn.Engine(exact, byte_tokenizer) as engine:
        assert np.abs(vectors - engine.embed(["some text"])).max() < 1e-2
