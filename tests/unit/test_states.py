"""States by reference: kept within a number of bytes, read again, and never another one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import rwkv_native as rn
from rwkv_native import checkpoint
from web.engine import fingerprint as module
from web.engine.fingerprint import fingerprint
from web.engine.states import LocalStates
from web.errors import Kind, Refusal

NAME = "v70_L3_D32_fp32"


@pytest.fixture
def model(golden: Path) -> rn.Model:
    return rn.Model.open(golden / f"{NAME}.pth", strategy="cpu fp32")


@pytest.fixture
def files(golden: Path, tmp_path: Path) -> list[Path]:
    """Three tuned states that differ."""
    tensors = checkpoint.read(golden / f"{NAME}_state.state.pth").tensors
    paths = [tmp_path / f"{letter}.safetensors" for letter in "abc"]
    for factor, path in enumerate(paths, 1):
        arrays = {name: tensor.to_numpy() * factor for name, tensor in tensors.items()}
        checkpoint.write_safetensors(path, arrays, {})
    return paths


def test_bounded_by_bytes(model: rn.Model, files: list[Path]) -> None:
    """The least recently used goes first, and what fits alone in no case is read every time."""
    states = LocalStates(model, "m", 2 * model.info.state_bytes + 1)
    refs = [states.open(path) for path in files[:2]]
    a, b = map(states.resolve, refs)
    assert states.open(files[0]) == refs[0]
    states.open(files[2])
    assert states.resolve(refs[0]) is a
    assert states.resolve(refs[1]) is not b
    states.forget()
    assert states.resolve(refs[0]) is not a
    none = LocalStates(model, "m", model.info.state_bytes - 1)
    ref = none.open(files[0])
    assert none.resolve(ref) is not none.resolve(ref)


def test_a_reference_is_of_what_a_state_holds(model: rn.Model, files: list[Path]) -> None:
    states = LocalStates(model, "m")
    refs = [states.open(path) for path in files]
    assert len(set(refs)) == 3
    copy = files[0].with_name("copy.safetensors")
    shutil.copy(files[0], copy)
    assert states.open(copy) == refs[0] == LocalStates(model, "m").open(files[0])
    assert LocalStates(model, "other").open(files[0]) != refs[0]


def test_a_file_that_has_changed_is_another_state(model: rn.Model, files: list[Path]) -> None:
    """An answer never starts from other numbers than those that the request named."""
    states = LocalStates(model, "m")
    first = states.open(files[0])
    shutil.copy(files[1], files[0])
    assert states.open(files[0]) == states.open(files[1]) != first
    assert states.resolve(first).to_numpy().keys() == {"att_x", "ffn_x", "wkv"}  # still kept
    states.forget()
    with pytest.raises(Refusal, match=r"^state file has changed") as caught:
        states.resolve(first)
    assert caught.value.kind is Kind.INVALID and caught.value.param == "state"
    second = states.open(files[1])
    states.forget()
    files[1].unlink()
    files[0].unlink()
    with pytest.raises(Refusal, match=r"^state file not found"):
        states.resolve(second)


def test_an_engine_of_the_same_model_goes_on_from_it(
    golden: Path, model: rn.Model, files: list[Path]
) -> None:
    again = rn.Model.open(golden / f"{NAME}.pth", strategy="cpu fp32")
    one, two = (LocalStates(each, fingerprint(each.info.path)) for each in (model, again))
    ref = one.open(files[1])
    assert two.open(files[1]) == ref
    ids = [5, 6, 7]
    here, _ = model.forward(ids, one.resolve(ref))
    there, _ = again.forward(ids, two.resolve(ref))
    assert here.tolist() == there.tolist() != model.forward(ids)[0].tolist()


def written(path: Path, tensors: dict[str, checkpoint.Tensor], changed: str | None = None) -> str:
    arrays = {name: tensor.to_numpy() for name, tensor in tensors.items()}
    if changed is not None:
        arrays[changed] = arrays[changed] + 1
    checkpoint.write_safetensors(path, arrays, {})
    return os.fspath(path)


def test_a_model_is_known_by_its_weights(golden: Path, tmp_path: Path) -> None:
    """By those of every tensor; not by its name."""
    tensors = checkpoint.read(golden / f"{NAME}.pth").tensors
    whole = fingerprint(written(tmp_path / "a.safetensors", tensors))
    assert whole == fingerprint(written(tmp_path / "b.st", tensors)) and len(whole) == 32
    every = {fingerprint(written(tmp_path / "c.safetensors", tensors, name)) for name in tensors}
    assert len(every) == len(tensors) and whole not in every
    half = os.fspath(golden / "v70_L2_D64_bf16.pth")
    assert fingerprint(half) not in every | {whole}


def test_an_adapter_makes_another_model(golden: Path, tmp_path: Path) -> None:
    path = os.fspath(golden / f"{NAME}.pth")
    (tmp_path / "peft").mkdir()
    file = tmp_path / "peft" / "adapter_model.safetensors"
    file.write_bytes(b"1")
    adapters = [None, rn.Adapter(file, 4), rn.Adapter(file, 8), rn.Adapter(tmp_path / "peft", 8)]
    first = [fingerprint(path, one) for one in adapters]
    assert first[2] == first[3] and len(set(first)) == 3
    file.write_bytes(b"2")
    assert fingerprint(path, adapters[1]) not in first


def test_files_are_read_once(golden: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    shutil.copy(golden / f"{NAME}.pth", path)
    read: list[int] = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda *given: read.append(1) or digest(*given))
    assert fingerprint(os.fspath(path)) == fingerprint(os.fspath(path)) and len(read) == 1
    os.utime(path, (1, 1))
    fingerprint(os.fspath(path))
    assert len(read) == 2
