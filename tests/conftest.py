"""What every test may ask for: the golden files, ../shared where it lies beside the checkout,
models that are opened once per run, and native tests, compiled while other tests run."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import durations
import pytest
from hypothesis import HealthCheck, settings
from native_builds import SOAK, Kind, build, reason_to_skip

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


# -- what belongs to `make soak`, and how long the rest may take


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not SOAK and item.get_closest_marker("soak"):
        pytest.skip("`make soak` runs it")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not SOAK:
        durations.note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if durations.too_slow() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := durations.too_slow():
        terminalreporter.section("too slow for `make test`: see tests/durations.py", red=True)
        for line in lines:
            terminalreporter.line(line)


# -- native tests: compiled one kind after the other, with the least claim on the processor, while
# the other tests mostly wait. Those that need them come last.

_compiled: dict[str, Future[None]] = {}


def _kinds(item: pytest.Item) -> list[Kind]:
    marker = item.get_closest_marker("compiled")
    if marker is None or (item.get_closest_marker("soak") and not SOAK):
        return []
    return list(marker.args)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: bool(_kinds(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    kinds = {kind.name: kind for item in session.items for kind in _kinds(item)}
    if session.config.option.collectonly or not kinds:
        return
    _compiled.update((name, Future()) for name in kinds)
    threading.Thread(target=_compile, args=(list(kinds.values()),), daemon=True).start()


def _compile(kinds: list[Kind]) -> None:
    nice = shutil.which("nice")
    for kind in kinds:
        try:
            if reason_to_skip(kind) is None:
                build(kind, *((nice, "-n", "19") if nice else ()))
        except BaseException as problem:
            _compiled[kind.name].set_exception(problem)
        else:
            _compiled[kind.name].set_result(None)


@pytest.fixture(scope="session")
def compiled() -> Callable[[Kind], None]:
    """Waits until a kind has been compiled; raises what its compiler said. The test names the kind
    by a marker of the same name."""
    return lambda kind: _compiled[kind.name].result()
