"""/midi-to-wav and /text-to-wav: files in the workspace, sound as an answer, and refusals."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import ROOT, Server, serving, wait_until

from web.midi import sound
from web.midi.writer import text_to_midi

needs_fluidsynth = pytest.mark.skipif(sound.missing(), reason=sound.MISSING)

# The guide's bodies; what RWKV Runner makes of the second is known to the byte.
RENDER = {
    "midi_path": "midi/sample.mid",
    "sound_font_path": "assets/default_sound_font.sf2",
    "wav_path": "midi/sample.wav",
}
SOUND = {
    "sound_font_path": "assets/default_sound_font.sf2",
    "text": "p:24:a p:2a:a p:31:a",
    "wav_name": "sample",
}
DIGEST = "11f5b120ca32119d2855de798c49339d91aad7d945d38879690cbd059c93985d"
AUDIO = {"Accept": "audio/wav"}
LONG = "pi:3c:a " + "t125 " * 1100 + "pi:3c:0"  # seconds of CPU


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def studio(workspace: Path) -> Iterator[Server]:
    with serving(ready=False, access_log=0, model="none", workspace=workspace) as server:
        wait_until(lambda: is_up(server), 60)
        yield server


def is_up(server: Server) -> bool:
    try:
        return server.status()["status"] == 0
    except OSError:
        return False


def frames_of(raw: bytes) -> int:
    with wave.open(io.BytesIO(raw)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 2, 2)
        assert max(file.readframes(44100)) > 0
        return file.getnframes()


@needs_fluidsynth
def test_the_sound_of_a_text_as_files(studio: Server, workspace: Path) -> None:
    assert studio.post("/text-to-wav", SOUND) == "success"
    folder = workspace / "midi"
    assert (folder / "sample.txt").read_text() == "<start> p:24:a p:2a:a p:31:a <end>"
    assert hashlib.sha256((folder / "sample.mid").read_bytes()).hexdigest() == DIGEST
    assert frames_of((folder / "sample.wav").read_bytes()) > 5 * 44100  # <end> waits 3 s, then 2


@needs_fluidsynth
@pytest.mark.parametrize("name", ["tune.wav", "tune.WAV", "tune"])
def test_a_name_may_have_its_end(studio: Server, workspace: Path, name: str) -> None:
    before = set(workspace.rglob("*"))
    assert studio.post("/text-to-wav", {**SOUND, "wav_name": name}) == "success"
    made = set(workspace.rglob("*")) - before
    assert {path.name for path in made} == {"tune.wav", "tune.mid", "tune.txt"}
    for path in made:
        path.unlink()


@needs_fluidsynth
def test_the_sound_of_a_file(studio: Server, workspace: Path) -> None:
    (workspace / "midi").mkdir(exist_ok=True)
    (workspace / "midi" / "sample.mid").write_bytes(text_to_midi("pi:3c:a t125 pi:3c:0"))
    shutil.copy(sound.default_font(), workspace / "another font.sf2")
    sizes = []
    for font in (RENDER, {}, {"sound_font_path": None}, {"sound_font_path": "another font.sf2"}):
        body = {**RENDER, "sound_font_path": "", **font}
        assert studio.post("/midi-to-wav", body) == "success"
        sizes.append(frames_of((workspace / "midi" / "sample.wav").read_bytes()))
    assert len(set(sizes)) == 1 and sizes[0] > 44100
    assert not list((workspace / "midi").glob(".*"))


@needs_fluidsynth
def test_files_are_read_as_for_their_text(studio: Server, workspace: Path) -> None:
    """Both routes take the same, and refuse the same with the same reason."""
    plain = text_to_midi("pi:3c:a t125 pi:3c:0")
    (workspace / "midi").mkdir(exist_ok=True)
    sizes = []
    for data in (plain, bytes(128) + plain, plain[:10] + b"\0\3" + plain[12:]):
        (workspace / "midi" / "sample.mid").write_bytes(data)
        text = studio.post("/midi-to-text", data)["text"]
        assert text == "<start> pi:3c:a t125 pi:3c:0 <end>"
        assert studio.post("/midi-to-wav", {**RENDER, "sound_font_path": ""}) == "success"
        sizes.append(frames_of((workspace / "midi" / "sample.wav").read_bytes()))
    assert len(set(sizes)) == 1
    for data in (b"", b"no MIDI", plain[:-3]):
        (workspace / "midi" / "sample.mid").write_bytes(data)
        said = studio.post("/midi-to-text", data, expect=400)["error"]["message"]
        body = {**RENDER, "sound_font_path": ""}
        told = studio.post("/midi-to-wav", body, expect=400)["error"]["message"]
        assert said.removeprefix("file_data: bad midi file: ") == told.removeprefix("midi_path: ")


@needs_fluidsynth
@pytest.mark.parametrize("accept", ["audio/wav", "audio/*", "audio/wav, application/json;q=0.5"])
def test_the_sound_itself(studio: Server, workspace: Path, accept: str) -> None:
    before = sorted(workspace.rglob("*"))
    body = {"text": "pi:3c:a t62 pi:3c:0 pi:43:a"}
    status, headers, raw = studio.request("POST", "/text-to-wav", body, {"Accept": accept})
    assert (status, headers["content-type"]) == (200, "audio/wav"), raw
    assert int(headers["content-length"]) == len(raw)
    assert frames_of(raw) > 44100
    assert sorted(workspace.rglob("*")) == before


@needs_fluidsynth
@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, audio/wav;q=0.5"])
def test_the_answer_that_runner_gives(studio: Server, accept: str) -> None:
    body = {**SOUND, "wav_name": "b"}
    status, _, raw = studio.request("POST", "/text-to-wav", body, {"Accept": accept})
    assert (status, raw) == (200, b'"success"')


@needs_fluidsynth
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/text-to-wav", {"text": None}, "text"),
        ("/text-to-wav", {"wav_name": None}, "wav_name"),
        ("/text-to-wav", {"wav_name": ""}, "wav_name"),
        ("/text-to-wav", {"wav_name": "x" * 201}, "wav_name"),
        ("/text-to-wav", {"wav_name": "ü" * 200}, "wav_name"),
        ("/text-to-wav", {"wav_name": "a\0b"}, "wav_name"),
        ("/text-to-wav", {"wav_name": ".wav"}, "wav_name"),
        ("/text-to-wav", {"text": "pi:3c:a zz"}, "text"),
        ("/text-to-wav", {"text": "t125 " * 1300 + "pi:3c:a"}, "text"),
        ("/text-to-wav", {"sound_font_path": "../font.sf2"}, "sound_font_path"),
        ("/text-to-wav", {"sound_font_path": "/etc/passwd"}, "sound_font_path"),
        ("/text-to-wav", {"sound_font_path": "midi"}, "sound_font_path"),
        ("/text-to-wav", {"sound_font_path": "midi/sample.txt"}, "sound_font_path"),
        ("/text-to-wav", {"sound_font_path": "-h"}, "sound_font_path"),
        ("/text-to-wav", {"sound_font_path": 5}, "sound_font_path"),
        ("/midi-to-wav", {"midi_path": None}, "midi_path"),
        ("/midi-to-wav", {"midi_path": "/etc/passwd"}, "midi_path"),
        ("/midi-to-wav", {"midi_path": "nowhere.mid"}, "midi_path"),
        ("/midi-to-wav", {"midi_path": "midi/sample.txt"}, "midi_path"),
        ("/midi-to-wav", {"wav_path": None}, "wav_path"),
        ("/midi-to-wav", {"wav_path": "sample.wav"}, "wav_path"),
        ("/midi-to-wav", {"wav_path": "midi"}, "wav_path"),
        ("/midi-to-wav", {"wav_path": "midi/../../x.wav"}, "wav_path"),
        ("/midi-to-wav", {"wav_path": "midi/link/x.wav"}, "wav_path"),
        ("/midi-to-wav", {"wav_path": "midi/a/b/x.wav"}, "wav_path"),
        *(("/text-to-wav", {"wav_name": name}, "wav_name") for name in ("../x", "/etc/x", "a/b")),
    ],
)
def test_bad_requests(
    studio: Server, workspace: Path, path: str, body: dict[str, Any], param: str
) -> None:
    folder = workspace / "midi"
    folder.mkdir(exist_ok=True)
    (folder / "sample.txt").write_text("no music")
    (folder / "sample.mid").write_bytes(text_to_midi("pi:3c:a t125 pi:3c:0"))
    if not (folder / "link").exists():
        (folder / "link").symlink_to(ROOT)
    before = sorted(workspace.rglob("*"))
    whole = {**(SOUND if path == "/text-to-wav" else RENDER), **body}
    answer = studio.post(path, whole, expect=400)
    assert answer["error"]["param"] == param, answer
    assert answer["error"]["message"].startswith(param)
    if param == "wav_path" and body[param]:
        assert answer["detail"] == "bad output path" or "cannot be written" in answer["detail"]
    assert os.fspath(workspace) not in str(answer)
    assert sorted(workspace.rglob("*")) == before


@needs_fluidsynth
def test_deploy_mode(tmp_path: Path) -> None:
    """The sound itself is for everybody; files, and other SoundFonts, are not."""
    with serving(access_log=0, deploy=1, workspace=tmp_path) as server:
        for path, body in (("/midi-to-wav", RENDER), ("/text-to-wav", SOUND), ("/text-to-wav", {})):
            assert server.post(path, body, expect=403)["detail"] == "Forbidden"
        status, _, raw = server.request("POST", "/text-to-wav", SOUND, AUDIO)
        assert status == 200 and frames_of(raw) > 44100
        body = {**SOUND, "sound_font_path": "font.sf2"}
        status, _, raw = server.request("POST", "/text-to-wav", body, AUDIO)
        assert status == 403 and b"sound_font_path" in raw
        assert not list(tmp_path.rglob("*.wav"))


def children(server: Server) -> list[int]:
    """Renderers of this server's worker."""
    (worker,) = subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    found = subprocess.run(["pgrep", "-P", worker], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@needs_fluidsynth
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is not installed")
def test_a_client_that_leaves_ends_its_renderer(studio: Server, workspace: Path) -> None:
    sock = studio.open("POST", "/text-to-wav", {**SOUND, "text": LONG, "wav_name": "gone"})
    wait_until(lambda: children(studio), 60)
    assert studio.status()["status"] == 0  # others are served meanwhile
    sock.close()
    wait_until(lambda: not children(studio))
    assert not [path for path in (workspace / "midi").iterdir() if path.name.startswith(".")]
    assert not (workspace / "midi" / "gone.wav").exists()


def nameless_files(server: Server) -> list[str]:
    folder = Path(f"/proc/{server.status()['pid']}/fd")
    links = []
    for one in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.fspath(one.readlink()))
    return [link for link in links if link.endswith("(deleted)") and "memfd" not in link]


@needs_fluidsynth
def test_a_sound_that_nobody_takes_is_closed(studio: Server) -> None:
    before = len(nameless_files(studio))
    body = json.dumps({"text": "pi:3c:a t125 t125 t125 t125 t125 pi:3c:0"}).encode()
    head = "POST /text-to-wav HTTP/1.1\r\nHost: x\r\nAccept: audio/wav\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", studio.port), timeout=60) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    wait_until(lambda: len(nameless_files(studio)) == before)


def without_the_library(command: list[str]) -> list[str]:
    """A command that runs where nobody finds libfluidsynth."""
    hide = 'mount --bind /dev/null /etc/ld.so.cache && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hide, "sh", *command]


def can_hide_it() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(without_the_library(["true"]), capture_output=True).returncode == 0


@pytest.mark.skipif(not can_hide_it(), reason="hiding a library takes root and namespaces")
def test_without_fluidsynth(tmp_path: Path) -> None:
    """The server runs, says at its start what to install, and so do the routes."""
    with serving(
        wrapped=without_the_library, ready=False, access_log=0, model="none", workspace=tmp_path
    ) as server:
        wait_until(lambda: is_up(server), 60)
        for headers in ({}, AUDIO):
            status, _, raw = server.request("POST", "/text-to-wav", SOUND, headers)
            assert status == 501 and b"apt install libfluidsynth3" in raw
        assert server.request("POST", "/text-to-midi", SOUND)[0] == 200
        wait_until(lambda: sound.MISSING in server.log())
        assert not list(tmp_path.rglob("*.wav"))
