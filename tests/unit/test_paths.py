"""Paths of requests stay in the folders that were given, links resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from web.config import Config
from web.errors import Refusal
from web.paths import Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("work/models", "more", "start", "secret"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("work/models/a.pth", "more/b.pth", "start/c.pth", "secret/key.pth"):
        (tmp_path / name).write_text("x")
    (tmp_path / "work/out").symlink_to(tmp_path / "secret")
    (tmp_path / "work/link.pth").symlink_to(tmp_path / "more/b.pth")
    (tmp_path / "work/loop").symlink_to(tmp_path / "work/loop")
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
            "out/key.pth",
            "out/none.pth",
            "out",
            "/etc/passwd",
            "/",
        ),
        *("models/../../secret/key.pth", "../workshop/x.pth", "../work2/x.pth"),
    ],
)
def test_outside(roots: Roots, given: str) -> None:
    with pytest.raises(Refusal, match=r"^state must name a file in the server's workspace"):
        roots.find("state", given, ".pth")


@pytest.mark.parametrize("given", ["a\0b", "x" * 4000, "loop"])
def test_no_paths(roots: Roots, given: str) -> None:
    with pytest.raises(Refusal) as refusal:
        roots.find("state", given)
    assert refusal.value.status_code == 400 and refusal.value.param == "state"


def test_the_demo_models_folder_is_one(tmp_path: Path) -> None:
    found = Roots(Config(workspace=str(tmp_path))).find("model", "demo.safetensors")
    assert found.is_file()
    nothing = Roots(Config(workspace=str(tmp_path), model="none"))
    assert nothing.find("model", "demo.safetensors") == tmp_path / "demo.safetensors"
