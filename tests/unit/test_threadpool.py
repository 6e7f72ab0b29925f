"""Work in pieces lets everybody else run between two of them: sockets, timers, the engine."""

from __future__ import annotations

import ast
import socket
import time
from pathlib import Path

import gevent
import pytest
from gevent import monkey
from gevent import socket as green

from web import threadpool
from web.threadpool import at_disk, breathe, in_thread

ROOT = Path(__file__).resolve().parents[2]
SLICE = 0.003  # seconds of work without a switch


def looks_while_working(rest: object) -> int:
    """How many bytes a reader gets, one at a time, beside 40 slices of work."""
    ours, theirs = (green.socket(fileno=one.detach()) for one in socket.socketpair())
    got = 0

    def answer() -> None:
        nonlocal got
        while ours.recv(1):
            got += 1
            ours.sendall(b"x")

    def ask() -> None:
        while True:
            theirs.sendall(b"x")
            theirs.recv(1)

    greenlets = [gevent.spawn(answer), gevent.spawn(ask)]
    for _ in range(40):
        until = time.perf_counter() + SLICE
        while time.perf_counter() < until:
            pass
        rest()  # type: ignore[operator]
    gevent.killall(greenlets)
    ours.close()
    theirs.close()
    return got


def test_sockets_are_served_between_two_pieces() -> None:
    assert looks_while_working(breathe) >= 10  # 20: one way in each of 40 breaths
    assert looks_while_working(lambda: gevent.sleep(0)) < 5  # why there is breathe()


def bare_sleeps(source: str) -> list[int]:
    """Lines of calls that let no socket in: sleep(), sleep(0), idle()."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        given = [*node.args, *(key.value for key in node.keywords if key.arg == "seconds")]
        nothing = not given or (isinstance(given[0], ast.Constant) and not given[0].value)
        if name == "idle" or (name == "sleep" and nothing):
            lines.append(node.lineno)
    return lines


def test_what_a_bare_sleep_is() -> None:
    assert bare_sleeps("gevent.sleep(0)\nsleep()\nsleep(0.0)\nhub.sleep(seconds=0)\n") == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert bare_sleeps("gevent.sleep(0.1)\nsleep(seconds)\nidle()\n") == [3]


@pytest.mark.parametrize("package", ["web", "rwkv_native"])
def test_nobody_yields_by_a_bare_sleep(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := bare_sleeps(path.read_text()))
    }
    assert not found, f"{found}: use web.threadpool.breathe()"


def test_disks_that_hang_hold_up_only_who_asks_for_them() -> None:
    hangs = monkey.get_original("_thread", "allocate_lock")()
    hangs.acquire()

    def hang() -> None:
        with hangs:
            pass

    count = 3 * threadpool._DISK_THREADS
    waiting = [gevent.spawn(at_disk, hang) for _ in range(count)]
    gevent.sleep(0.05)
    assert not any(one.ready() for one in waiting)
    with gevent.Timeout(20):
        assert in_thread(lambda: 5) == 5
        hangs.release()
        gevent.joinall(waiting, raise_error=True)


def test_what_a_thread_raises_is_raised_here() -> None:
    for where in (at_disk, in_thread):
        with pytest.raises(ValueError, match="invalid literal"):
            where(int, "x")
