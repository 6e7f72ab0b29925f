"""Memory that a model will take, and the words that tell why it could not be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rwkv_native as rn
from web.engine import model_loading
from web.engine.model_loading import Choice

CUDA = (
    "the strategy 'cuda fp16' needs the device cuda, which this build lacks; "
    "use 'cpu fp16' or 'cpu fp32'"
)


def chosen(path: Path, strategy: str = "auto", tokenizer: str | None = None) -> Choice:
    return Choice(str(path), f"models/{path.name}", strategy, tokenizer)


@pytest.mark.parametrize("strategy", ["auto", "cpu fp32", "cpu bf16", "cpu fp32 *1 -> cpu bf16"])
@pytest.mark.parametrize("name", ["v70_L2_D64_bf16.pth", "v70_L3_D32_fp32.pth"])
def test_as_much_as_the_weights_take(golden: Path, name: str, strategy: str) -> None:
    model = rn.Model.open(golden / name, strategy=strategy)
    besides = model_loading._BESIDES
    wanted = model_loading.needed(chosen(golden / name, strategy)) - besides
    assert 0.75 * model.info.weight_bytes <= wanted <= 2.2 * model.info.weight_bytes


def test_quantised_models_take_less(golden: Path) -> None:
    path = golden / "v70_L2_D64_bf16.pth"
    sizes = [model_loading.needed(chosen(path, f"cpu fp16{q}")) for q in ("i4", "i8", "")]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]


def test_what_is_free() -> None:
    assert 0 < model_loading.available() < 1 << 50


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 7\n{names[2]} {inactive}\n")


def test_what_cgroups_leave(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "root"
    assert model_loading.left_by_cgroups(own, root) == []
    own.write_text("0::/slice/unit\n")
    assert model_loading.left_by_cgroups(own, root) == []
    group(root / "slice/unit", model_loading._UNIFIED, "1000", 700, 50)
    group(root / "slice", model_loading._UNIFIED, "max", 700, 50)
    assert model_loading.left_by_cgroups(own, root) == [350]


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_what_cgroups_of_version_1_leave(tmp_path: Path, path: str) -> None:
    """In a container its own group is the root of what it sees, whatever it is called outside."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text(f"12:pids:{path}\n5:cpu,cpuacct:{path}\n4:memory:{path}\n0::/x\n")
    group(root / "memory", model_loading._VERSION_1, "1000", 700, 50)
    assert model_loading.left_by_cgroups(own, root) == [350]
    group(root / "memory", model_loading._VERSION_1, str(2**63 - 4096), 700, 50)  # no limit
    assert min(model_loading.left_by_cgroups(own, root)) > 1 << 60
    if path != "/":
        group(root / "memory/docker/abc", model_loading._VERSION_1, "900", 700, 0)
        assert min(model_loading.left_by_cgroups(own, root)) == 200


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("models/RWKV-x070-0.1B.pth", "RWKV-x070-0.1B"),
        ("models/RWKV-x070-0.1B", "RWKV-x070-0.1B"),  # no extension: none is cut
        ("folder.of.one/", "folder.of.one"),
        ("x.gguf", "x"),
        (os.fsdecode(b"rwkv-\xe9.safetensors"), r"rwkv-\xe9"),
        ("a\x1b[31m\nb.pth", r"a\x1b[31m\nb"),
    ],
)
def test_names(said: str, name: str) -> None:
    assert Choice("/resolved/blob", said).name == name


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            rn.errors.MissingFileError("/w/models/m.pth: no such file"),
            "[Errno 2] No such file or directory: 'models/m.pth'",
        ),
        (model_loading.too_little(5 << 30, 1 << 30), "not enough memory: the model needs 5.4 GB"),
        (rn.errors.OutOfMemoryError("cannot map 5 GB"), "not enough memory: cannot map"),
        (rn.errors.UnsupportedError(CUDA), "not compiled with CUDA: the strategy"),
        (
            rn.errors.CheckpointError("/w/models/m.pth: is a damaged or incomplete zip"),
            "invalid header or archive is corrupted: models/m.pth: is a damaged",
        ),
        (rn.errors.InvalidError("/w/tok/secret.txt: bad"), "secret.txt: bad"),
        (rn.errors.CheckpointError("/w/models/m.pth: is a folder with no"), "models/m.pth: is a f"),
        (rn.errors.MissingFileError("/w/tok/secret.txt: no"), "secret.txt: no"),
        (rn.errors.InvalidError("a\n[CRITICAL] b"), r"a\n[CRITICAL] b"),
        (RuntimeError("a secret"), "unexpected RuntimeError"),
    ],
)
def test_reasons(problem: Exception, said: str) -> None:
    choice = Choice("/w/models/m.pth", "models/m.pth", tokenizer="/w/tok/secret.txt")
    failure = model_loading.failure(problem, choice)
    assert failure.detail.startswith(said)
    for text in (failure.detail, failure.message):
        assert "/w/" not in text and "a secret" not in text


def test_a_tuned_state_is_no_model(golden: Path) -> None:
    choice = chosen(golden / "v70_L3_D32_fp32_state.state.pth")
    with pytest.raises(rn.errors.CheckpointError, match="is a tuned state, not a model"):
        model_loading.needed(choice)
