"""What the files beside a checkpoint say of it, and what they cannot make it say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import rwkv_native as rn
from rwkv_native import checkpoint, convert
from rwkv_native.formats import companions

SOURCE = "v70_L3_D32_fp32.pth"


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    place = tmp_path / "RWKV7-G1k-0.1B"
    place.mkdir()
    convert.to_safetensors(golden / SOURCE, place / "model.safetensors")
    return place


def say(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if type(value) is str else json.dumps(value))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("RWKV-x070-World-0.1B-v2.8-20241210-ctx4096", 4096),
        ("rwkv7-g1k-1.5b-20260930-ctx25600", 25600),
        ("RWKV7-CTX8192-x", 8192),
        ("rwkv-ctx16k", 16384),
        ("RWKV-4-Pile-169M", None),
        ("actx4096", None),
        ("ctx0", None),
        ("ctx999999999999999999999", None),
    ],
)
def test_the_name_tells_a_context_length(
    name: str, length: int | None, golden: Path, tmp_path: Path
) -> None:
    assert companions.context_in(name) == length
    path = tmp_path / f"{name}.pth"
    shutil.copy(golden / SOURCE, path)
    assert checkpoint.read(path).context_length == length
    assert rn.Model.open(path, "cpu fp32", threads=1).info.context_length == length


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "rwkv7", "context_length": 25600}, 25600),
        ({"context_length": 25600, "max_position_embeddings": 4096}, 25600),
        ({"max_position_embeddings": 2048}, 2048),
        *(({"context_length": wrong}, None) for wrong in (0, -1, True, "4096", 1e3, 1 << 31, None)),
        ("[]", None),
        ("{", None),
        ("[" * 100_000, None),
        ("\udcff", None),
    ],
    ids=lambda value: f"{value!s:.40}",
)
def test_the_config_tells_a_context_length(config: Any, length: int | None, folder: Path) -> None:
    if config == "\udcff":
        (folder / "config.json").write_bytes(b'{"context_length": 1\xff}')
    else:
        say(folder, "config.json", config)
    for path in (folder, folder / "model.safetensors"):
        assert checkpoint.read(path).context_length == length


def test_the_config_goes_before_the_folders_name(folder: Path) -> None:
    named = folder.rename(folder.with_name("RWKV7-G1k-0.1B-ctx8192"))
    assert checkpoint.read(named).context_length == 8192
    say(named, "config.json", {"context_length": 25600})
    assert checkpoint.read(named).context_length == 25600


def test_a_stray_config_says_nothing_of_other_files(golden: Path, tmp_path: Path) -> None:
    """A folder of downloads: only the names that HuggingFace gives weights belong to it."""
    say(tmp_path, "config.json", {"model_type": "rwkv7", "context_length": 123})
    shutil.copy(golden / SOURCE, tmp_path / "mine.pth")
    found = checkpoint.read(tmp_path / "mine.pth")
    assert found.context_length is None and found.metadata == {}
    assert checkpoint.read(tmp_path).context_length == 123  # the folder, on the other hand


def test_a_copy_keeps_the_context_length(folder: Path, tmp_path: Path) -> None:
    say(folder, "config.json", {"context_length": 25600})
    say(folder, "chat_template.jinja", "{{ '<think' }}")
    target = tmp_path / "copy.safetensors"
    convert.to_safetensors(folder, target)
    found = checkpoint.read(target)
    assert found.context_length == 25600
    assert found.metadata["rwkv.context_length"] == "25600"
    assert found.metadata["rwkv.thinks"] == "yes"
