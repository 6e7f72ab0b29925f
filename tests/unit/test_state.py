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


def test_transposed_state_files_are_refused(model: rn.Model, shared: Path) -> None:
    path = shared / "golden" / "formats" / "v70_L3_D32_fp32_state.state.st"
    with pytest.raises(rn.CheckpointError, match="transposed"):
        model.load_tuned_state(path)


def test_states_keep_their_model(golden: Path) -> None:
    model = rn.Model.open(golden / "v70_L3_D32_fp32.pth")
    _, state = model.forward([1])
    del model
    assert state.to_numpy()["wkv"].any()


def test_states_are_made_by_models() -> None:
    with pytest.raises(TypeError, match=r"model\.forward"):
        rn.State()
