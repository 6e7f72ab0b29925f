"""Logs whose readers have stopped: nobody waits for them, and what is lost is counted."""

from __future__ import annotations

import os
import time

from web.transport import log_writer
from web.transport.log_writer import Outlet, Spout


def pipe() -> tuple[int, Outlet]:
    read, write = os.pipe()
    return read, Outlet(os.fdopen(write, "w"))


def test_what_is_written_arrives_in_order() -> None:
    read, outlet = pipe()
    for number in range(1000):
        outlet.write(f"{number} é\udcff\n")  # a lone surrogate is no reason to lose a line
    outlet.drain(10)
    got = os.read(read, 1 << 16).decode()
    assert got == "".join(f"{number} é\\udcff\n" for number in range(1000))
    assert outlet.dropped == 0


def test_a_reader_that_has_stopped_holds_nobody_up() -> None:
    read, outlet = pipe()
    line = "x" * 99 + "\n"
    begun = time.monotonic()
    for _ in range(40_000):  # 4 MB into a pipe of 64 KiB
        outlet.write(line)
    assert time.monotonic() - begun < 10
    kept = 40_000 - outlet.dropped
    assert 10_000 < kept < 15_000  # 1 MiB that waits, and what the pipe and the thread hold
    got = b""
    while len(got) < kept * len(line):  # it reads again
        got += os.read(read, 1 << 20)
    assert got == line.encode() * kept
    outlet.drain(10)
    outlet.write("more\n")
    assert os.read(read, 100) == b"more\n"


def test_a_line_larger_than_the_room_is_no_reason_to_lose_it() -> None:
    read, outlet = pipe()
    text = "y" * (3 * log_writer._ROOM)
    outlet.write(text)
    got = b""
    while len(got) < len(text):
        got += os.read(read, 1 << 20)
    assert outlet.dropped == 0


def test_a_reader_that_has_gone() -> None:
    read, outlet = pipe()
    os.close(read)
    outlet.write("x\n")
    outlet.drain(10)
    assert outlet.dropped == 1


def test_a_master_does_not_wait_for_a_reader_that_has_stopped() -> None:
    read, write = os.pipe()
    spout = Spout(os.fdopen(write, "w"))
    spout.write("é\udcff\n")
    for _ in range(7):
        spout.write("x" * 9_999 + "\n")  # the last ones find no room
    got = os.read(read, 1 << 20).decode()
    assert got.startswith("é\\udcff\nxxx") and 50_000 < len(got) < 70_000
    spout.write("more\n")
    assert os.read(read, 1 << 20) == b"more\n"
    os.close(read)
    spout.write("x\n")
