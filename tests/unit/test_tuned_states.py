"""Tuned states are kept within a number of bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import rwkv_native as rn
from web.engine.tuned_states import TunedStates

NAME = "v70_L3_D32_fp32"


def test_bounded_by_bytes(golden: Path, tmp_path: Path) -> None:
    """The least recently used goes first, and what fits alone in no case is read every time."""
    model = rn.Model.open(golden / f"{NAME}.pth", strategy="cpu fp32")
    paths = [tmp_path / f"{letter}.pth" for letter in "abc"]
    for path in paths:
        shutil.copy(golden / f"{NAME}_state.state.pth", path)
    states = TunedStates(model, 2 * model.info.state_bytes + 1)
    a, b = states.get(paths[0]), states.get(paths[1])
    assert states.get(paths[0]) is a
    states.get(paths[2])
    assert states.get(paths[0]) is a
    assert states.get(paths[1]) is not b
    states.forget()
    assert states.get(paths[0]) is not a
    none = TunedStates(model, model.info.state_bytes - 1)
    assert none.get(paths[0]) is not none.get(paths[0])
