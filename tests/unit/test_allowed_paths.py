"""Paths of requests stay in the folders that were given, links resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from web.config import Config
from web.errors import Kind, Refusal
from web.files.allowed_paths import CHECKPOINTS, Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("work/models", "more", "start", "secret"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("work/models/a.pth", "more/b.pth", "start/c.pth", "secret/key.pth"):
        (tmp_path / name).write_text("x")
    (tmp_path / "work/out").symlink_to(tmp_path / "secret")
    (tmp_path / "work/link.pth").symlink_to(tmp_path / "more/b.pth")
    (tmp_path / "work/loop").symlink_to(tmp_path / "work/loop")
    for name in ("work/.git-credentials", "work/.ssh/id.txt", "more/.b.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("token")
    (tmp_path / "work/innocent.txt").symlink_to(tmp_path / "work/.ssh/id.txt")
    config = Config(
        workspace=str(tmp_path / "work"),
        model_dir=(str(tmp_path / "more"),),
        model=str(tmp_path / "start/c.pth"),
    )
    return Roots(config)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("models/a.pth", "work/models/a.pth"),
        ("models/a", "work/models/a.pth"),  # as RWKV Runner adds it
        ("models/../models/a.pth", "work/models/a.pth"),
        ("b.pth", "more/b.pth"),
        ("c.pth", "start/c.pth"),
        ("link.pth", "more/b.pth"),  # a link from one folder into another
        ("new.pth", "work/new.pth"),  # it need not exist
        ("models", "work/models"),
        ("../more/b.pth", "more/b.pth"),  # where it ends is what counts
    ],
)
def test_found(roots: Roots, tmp_path: Path, given: str, found: str) -> None:
    assert roots.find("model", given, ".pth") == tmp_path / found
    absolute = tmp_path / found
    assert roots.find("model", str(absolute), ".pth") == absolute


@pytest.mark.parametrize(
    "given",
    [
        *(
            "../secret/key.pth",
            "../secret/none.pth",
            "/etc/passwd",
            "/",
        ),
        *("models/../../secret/key.pth", "../workshop/x.pth", "../work2/x.pth"),
    ],
)
def test_outside(roots: Roots, given: str) -> None:
    with pytest.raises(Refusal, match=r"^state must name a file in the server's workspace"):
        roots.find("state", given, ".pth")


@pytest.mark.parametrize("given", ["out", "out/key.pth", "out/none.pth", "./out/a/../b"])
def test_links_that_lead_out(roots: Roots, given: str) -> None:
    """Whether or not there is something behind them."""
    with pytest.raises(Refusal, match=r"^state names a link that leads out of the server's"):
        roots.find("state", given, ".pth")


@pytest.mark.parametrize(
    "given", [".git-credentials", ".ssh/id.txt", ".none", ".b.pth", ".ssh", "innocent.txt"]
)
def test_hidden_files(roots: Roots, given: str) -> None:
    with pytest.raises(Refusal, match=r"^txt_path names a hidden file"):
        roots.find("txt_path", given)


def test_a_model_may_leave_out_how_its_name_ends(roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "more/m.safetensors").touch()
    assert roots.find("model", "m", *CHECKPOINTS) == tmp_path / "more/m.safetensors"
    assert roots.find("model", "b", *CHECKPOINTS) == tmp_path / "more/b.pth"
    assert roots.find("model", "b.pth", *CHECKPOINTS) == tmp_path / "more/b.pth"


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        *(("m", "model.safetensors"), ("m", "shard-1.safetensors"), ("m", "config.json")),
        *(("m/index.json", "shard-2.bin"), ("m/a.pth", "tokenizer.json")),
    ],
)
def test_links_in_a_checkpoints_folder(
    roots: Roots, tmp_path: Path, name: str, linked: str
) -> None:
    folder = tmp_path / "work/m"
    folder.mkdir()
    for file in ("index.json", "a.pth"):
        (folder / file).touch()
    (folder / "notes.md").symlink_to(tmp_path / "secret/key.pth")  # nobody reads it
    inside = folder / "inside.safetensors"
    inside.symlink_to(tmp_path / "more/b.pth")
    path = roots.find("model", name)
    roots.check_checkpoint("model", path)
    (folder / linked).symlink_to(tmp_path / "secret/key.pth")
    with pytest.raises(Refusal, match=f"^model names a checkpoint whose file {linked} is a link"):
        roots.check_checkpoint("model", path)


@pytest.mark.parametrize("given", ["a\0b", "x" * 4000, "loop"])
def test_no_paths(roots: Roots, given: str) -> None:
    with pytest.raises(Refusal) as refusal:
        roots.find("state", given)
    assert refusal.value.kind is Kind.INVALID and refusal.value.param == "state"


def test_the_demo_models_folder_is_one(tmp_path: Path) -> None:
    found = Roots(Config(workspace=str(tmp_path))).find("model", "demo.safetensors")
    assert found.is_file()
    nothing = Roots(Config(workspace=str(tmp_path), model="none"))
    assert nothing.find("model", "demo.safetensors") == tmp_path / "demo.safetensors"
