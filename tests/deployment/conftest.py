"""What the tests of the files in deploy/ share."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import ROOT


@pytest.fixture(scope="session")
def deploy() -> Path:
    return ROOT / "deploy"
