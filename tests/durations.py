"""The gate on durations: `make test` fails where a test takes over 5 s and is not listed here with
its reason. Such a test belongs to `make soak`: mark it `soak`, or give it fewer counts there.

Used by `conftest.py`. Waiting for native tests to be compiled counts; fixtures count by themselves.
"""

from __future__ import annotations

import time

import pytest

LIMIT = 5.0  # seconds for one phase of a test: its fixtures, itself, their ends
_NEIGHBOURS = 3  # times as much on machines that others use, too: what is slow there still passes

LISTED = {
    "tests/native/test_native.py::test_native": "waits for its compilation, and is them all",
    "tests/fuzz/test_replay.py::test_parsers_in_cpp": "waits for the fuzz targets to be compiled",
    "tests/clients/test_schemathesis.py": "sends requests of every kind to every route",
}

_slow: list[tuple[str, str, float, float]] = []  # test, phase, seconds, seconds that were allowed


def note(report: pytest.TestReport) -> None:
    """Hears of each phase of each test."""
    if report.duration <= LIMIT or any(report.nodeid.startswith(name) for name in LISTED):
        return
    allowed = LIMIT * _NEIGHBOURS * _contention()
    _slow.append((report.nodeid, report.when or "", report.duration, allowed))


def too_slow() -> list[str]:
    """A line for each test that is over its limit."""
    return [
        f"{name} ({when}): {seconds:.1f} s, {allowed:.1f} s are allowed"
        for name, when, seconds, allowed in _slow
        if seconds > allowed
    ]


def _contention() -> float:
    """How many times as long as its own time a thread takes here just now."""
    wall, own = time.perf_counter(), time.thread_time()
    while time.perf_counter() - wall < 0.05:
        pass
    return max(1.0, (time.perf_counter() - wall) / max(time.thread_time() - own, 1e-3))
