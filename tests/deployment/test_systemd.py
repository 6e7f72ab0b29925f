"""deploy/rwkv-native.service and what a server tells systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ROOT, Server, serving, wait_until

from web.cli import _parser
from web.config import PREFIX, Config


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_valid(deploy: Path, tmp_path: Path) -> None:
    unit = (deploy / "rwkv-native.service").read_text()
    command = str(Path(sys.executable).with_name("rwkv-native"))
    unit, times = re.subn("/opt/rwkv-native/bin/rwkv-native", command, unit)
    assert times == 1
    copy = tmp_path / "rwkv-native.service"
    copy.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", copy], capture_output=True, text=True
    )
    assert done.returncode == 0 and copy.name not in done.stderr, done.stderr


def test_the_order_of_patience(deploy: Path) -> None:
    """The master's with a worker before systemd's with the server; the answers' before the kill."""
    unit = (deploy / "rwkv-native.service").read_text()
    conf = (ROOT / "web" / "gunicorn.conf.py").read_text()

    def of(name: str, text: str) -> int:
        found = re.search(rf"^{name} ?= ?(\d+)$", text, re.M)
        assert found
        return int(found[1])

    assert of("WatchdogSec", unit) > 1.25 * of("timeout", conf)
    assert of("TimeoutStopSec", unit) > 1.25 * of("graceful_timeout", conf)


def test_the_settings_are_known(deploy: Path) -> None:
    lines = (deploy / "rwkv-native.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    config = Config.from_environment(settings)
    known = config.to_environment()
    assert settings.keys() <= known.keys() and all(name.startswith(PREFIX) for name in settings)
    assert config.host == "unix:/run/rwkv-native/http.sock" == config.gunicorn()["bind"]
    unit = (deploy / "rwkv-native.service").read_text()
    assert "EnvironmentFile=/etc/rwkv-native.env\n" in unit
    assert "RuntimeDirectory=rwkv-native\n" in unit
    (command,) = re.findall(r"^ExecStart=\S+/rwkv-native (.*)$", unit, re.M)
    assert _parser().parse_args(command.split()).run


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """What listens at NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def test_the_watchdog_is_fed_while_the_worker_lives(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with serving() as server:
        told = [systemd.recv(4096).decode() for _ in range(5)]
        assert "READY=1" in told[0] and told[1:] == ["WATCHDOG=1"] * 4
        worker = server.status()["pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            assert is_silent(systemd)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert systemd.recv(4096) == b"WATCHDOG=1"


def is_silent(listener: socket.socket) -> bool:
    """What was on its way has come, and nothing follows for ten times as long as it should."""
    listener.settimeout(1)
    try:
        for _ in range(1000):
            listener.recv(4096)
    except TimeoutError:
        return True
    finally:
        listener.settimeout(60)
    return False


def test_a_socket_in_use_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    command = [Path(sys.executable).with_name("rwkv-native"), "serve", "--model", "none"]

    def refused(host: str) -> str:
        done = subprocess.run(
            [*command, "--host", host], capture_output=True, text=True, timeout=120, cwd=ROOT
        )
        assert done.returncode == 1
        return done.stderr

    assert "its folder does not exist" in refused(f"unix:{tmp_path}/no/http.sock")
    with serving(host=f"unix:{path}", model="none", ready=False) as server:
        wait_until(lambda: listens(server, path))
        assert "another server does" in refused(f"unix:{path}")


def listens(server: Server, path: Path) -> bool:
    assert server.process.poll() is None, server.log()
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
