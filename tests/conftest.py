"""What every test may ask for: the golden files, ../shared where it lies beside the checkout, and
models that are opened once per run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import rwkv_native as rn

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "data"

# What a shell starts by `&` ignores it, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of specifications and vectors beside the checkout; tests of it skip without."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("../shared is not there")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the golden cases that this repository carries."""
    return GOLDEN


@pytest.fixture(scope="session")
def small_model() -> rn.Model:
    """L3 D32 V257, random weights: fast, and byte-level, so that it goes with a tokenizer."""
    return rn.Model.open(GOLDEN / "v70_L3_D32_fp32.pth", strategy="cpu fp32", threads=2)


@pytest.fixture(scope="session")
def byte_tokenizer() -> rn.Tokenizer:
    return rn.Tokenizer.world_bytes()
