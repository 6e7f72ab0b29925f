"""RWKV Runner's own strategies, and that the engine takes what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

import rwkv_native as rn
from web.schemas.strategies import meant


@pytest.mark.parametrize(
    ("given", "path", "strategy"),
    [
        ("cpu 8192", "m/a.gguf", "auto"),
        ("vulkan 8192", "m/A.GGUF", "auto"),
        ("vulkan", "a.gguf", "auto"),
        ("fp16", "a.st", "cpu fp16"),
        ("fp32", "a.st", "cpu fp32"),
        ("fp16 chunk128", "a.st", "cpu fp16"),
        ("fp16i8", "a.st", "cpu fp16i8 *31 -> cpu fp16"),
        ("fp16i8 layer20 chunk128", "a.st", "cpu fp16i8 *20 -> cpu fp16"),
        ("fp16i4 layer0", "a.st", "cpu fp16"),
        ("fp16i4", "a.st", "cpu fp16i4 *26 -> cpu fp16"),
        ("webgpu fp16i4 layer26 chunk32", "a.st", "cpu fp16i4 *26 -> cpu fp16"),
        ("albatross workers=1 batch=16", "a.pth", "auto"),
        ("Albatross", "a.pth", "auto"),
        ("chirrup worker_num=2 batch_size=x", "a.pth", "auto"),
    ],
)
def test_other_backends(given: str, path: str, strategy: str) -> None:
    found = meant(given, path)
    assert found.strategy == strategy
    assert found.note is not None and given in found.note and strategy in found.note


@pytest.mark.parametrize(
    "given",
    [
        *("auto", "cpu fp32", "cuda fp16 *20+", "cpu fp16i8 *20 -> cpu fp16", "cpu 8192", ""),
        *("vulkan 8192", "webgpu nf4", "fp16i3", "fp16 layers20", "albatross fast", "fp16 layer"),
    ],
)
def test_all_else_is_left_to_the_engine(given: str) -> None:
    found = meant(given, "a.pth")
    assert (found.strategy, found.note) == (given, None)


@pytest.mark.parametrize("given", ["fp16", "fp16i8 layer1 chunk128", "fp16i8", "fp16i4"])
def test_the_engine_takes_them(given: str, golden: Path) -> None:
    """With more layers named than the model has, too."""
    path = golden / "v70_L3_D32_fp32.pth"
    rn.Model.load(path, meant(given, str(path)).strategy).cancel()
