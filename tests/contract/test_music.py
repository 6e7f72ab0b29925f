"""/text-to-midi, /midi-to-text and /txt-to-midi: RWKV Runner's answers, refusals that name what is
wrong, and files that stay in their folder."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import SOAK, Server, children, serving, wait_until

from web.midi import sample
from web.midi.transcript import midi_to_text
from web.midi.writer import text_to_midi
from web.openapi.operations import GUIDE_NOTES as GUIDE

GUIDE_DIGEST = "25a39d8007c641e33fe222edaa0b8afe3e8769ae8a29754c1df54f8b555ee800"
CHORD = "p:24:a p:2a:a t14 p:24:0 p:2a:0"
CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "unit" / "data" / "midi.json").read_text()
)
LONG = " ".join([CHORD] * 1200)  # longer than a thread converts
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def studio(workspace: Path) -> Iterator[Server]:
    """A server with a workspace of its own."""
    with serving(access_log=0, workspace=workspace) as server:
        yield server


def midi_of(server: Server, text: str) -> bytes:
    status, headers, raw = server.request("POST", "/text-to-midi", {"text": text})
    assert status == 200, raw
    assert headers["content-type"] == "audio/midi"
    return raw


def text_of(server: Server, data: bytes) -> str:
    status, _, raw = server.request("POST", "/midi-to-text", data, BINARY)
    assert status == 200, raw
    return json.loads(raw)["text"]


def refusal(server: Server, path: str, body: Any, param: str) -> dict[str, Any]:
    answer = server.post(path, body, expect=400)
    assert answer["error"]["param"] == param
    assert answer["error"]["message"].startswith(param)
    return answer


# What we read and RWKV Runner does not; tests/unit/test_midi.py says as what.
READ_HERE = {"raw_smpte", "raw_unknown_meta_with_time", "raw_extra_chunk"}


def test_texts_become_files(studio: Server) -> None:
    assert hashlib.sha256(midi_of(studio, GUIDE)).hexdigest() == GUIDE_DIGEST
    for case in CASES["text_to_midi"]:
        if case["vocabulary"] == "default" and case["file"]:
            assert midi_of(studio, case["text"]).hex() == case["file"]
    assert midi_of(studio, f"\n {CHORD}\t\n") == text_to_midi(CHORD)
    assert midi_of(studio, CHORD.replace(" ", "\r\n")) == text_to_midi(CHORD)


def test_files_become_texts(studio: Server) -> None:
    for case in CASES["midi_to_text"]:
        if case["vocabulary"] != "default":
            continue
        data = bytes.fromhex(case["file"])
        if case["name"] in READ_HERE:
            assert text_of(studio, data) == midi_to_text(data)
            continue
        if case["pieces"]:
            assert text_of(studio, data) == case["pieces"][0]
            continue
        answer = refusal(studio, "/midi-to-text", data, "file_data")
        heard = case["pieces"] == []  # but nothing that lasts: RWKV Runner's own 400
        assert (answer["detail"] == "bad midi file") == heard
        assert answer["detail"].startswith("bad midi file")


@pytest.mark.parametrize("name", ['; filename="blob"', '; filename="a.exe"', '; filename=""', ""])
def test_forms(studio: Server, name: str) -> None:
    head = f'--B\r\nContent-Disposition: form-data; name="file_data"{name}\r\n\r\n'
    body = head.encode() + text_to_midi(CHORD) + b"\r\n--B--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=B"}
    status, _, raw = studio.request("POST", "/midi-to-text", body, kind)
    assert (status, json.loads(raw)) == (200, {"text": f"<start> {CHORD} <end>"})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": None}, "text"),
        ({"text": 5}, "text"),
        ({"text": "pi:3c:a zz"}, "text"),
        ({"text": LONG + " zz"}, "text"),
        ({"text": " " * (9 << 20)}, "text"),
    ],
)
def test_bad_texts(studio: Server, body: dict[str, Any], param: str) -> None:
    message = refusal(studio, "/text-to-midi", body, param)["error"]["message"]
    if str(body.get("text")).endswith("zz"):
        assert f"'zz' at character {len(body['text']) - 2}" in message


@pytest.mark.parametrize("data", [b"", b"x", b"MThd", bytes(5 << 20), b"RIFF" + bytes(100_000)])
def test_bad_files(studio: Server, data: bytes) -> None:
    refusal(studio, "/midi-to-text", data, "file_data")


def test_long_pieces_are_converted_alike_while_others_are_served(studio: Server) -> None:
    data = text_to_midi(LONG)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(midi_of, studio, LONG) for _ in range(2)]
        read = [pool.submit(text_of, studio, data) for _ in range(2)]
        for _ in range(10):
            studio.post("/completions", {"prompt": "x", "max_tokens": 2})
        assert all(one.result() == data for one in made)
        assert all(one.result() == midi_to_text(data) for one in read)


@pytest.mark.parametrize("path", ["/text-to-midi", "/midi-to-text"])
def test_a_client_that_leaves_ends_its_converter(studio: Server, path: str) -> None:
    text = " ".join([LONG] * 30)  # for a second or more
    body = json.dumps({"text": text}).encode() if path[1] == "t" else text_to_midi(text)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", studio.port), timeout=60) as sock:
        sock.sendall(head.encode() + body)
        wait_until(lambda: len(children(studio, "converter")) == 1)
        # From now on it would never end of itself.
        os.kill(children(studio, "converter")[0], signal.SIGSTOP)
    wait_until(lambda: not children(studio, "converter"), 15)


# Files of the workspace.


def test_the_sample(studio: Server, workspace: Path) -> None:
    assert (workspace / "midi/sample.txt").read_text() == sample.TEXT + "\n"
    body = {"midi_path": "midi/sample.mid", "txt_path": "midi/sample.txt"}  # the guide's
    for _ in range(2):  # the second replaces the file
        assert studio.post("/txt-to-midi", body) == "success"
    assert (workspace / "midi/sample.mid").read_bytes() == text_to_midi(sample.TEXT)
    assert text_of(studio, text_to_midi(sample.TEXT)) == f"<start> {sample.TEXT} <end>"
    assert sorted(path.name for path in (workspace / "midi").iterdir()) == [
        "sample.mid",
        "sample.txt",
    ]


def test_a_sample_that_is_there_stays(tmp_path: Path) -> None:
    sample.write(tmp_path)
    (tmp_path / "midi/sample.txt").write_text("mine")
    sample.write(tmp_path)
    assert (tmp_path / "midi/sample.txt").read_text() == "mine"
    sample.write(tmp_path / "none")  # is no folder: nothing to do
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("midi_path", ["midi/a.mid", "./midi/../midi/b", "{}/midi/ü.mid"])
def test_paths_that_may_be_written(studio: Server, workspace: Path, midi_path: str) -> None:
    path = midi_path.format(workspace)
    body = {"txt_path": str(workspace / "midi/sample.txt"), "midi_path": path}
    assert studio.post("/txt-to-midi", body) == "success"
    written = workspace / path
    assert written.read_bytes() == text_to_midi(sample.TEXT)
    written.unlink()


@pytest.mark.parametrize(
    ("txt_path", "midi_path", "param", "detail"),
    [
        *(
            ("midi/sample.txt", path, "midi_path", "bad output path")
            for path in (
                *("a.mid", "midi", "midi/", "midi/../a.mid", "midi/../../a.mid", "/tmp/a.mid"),
                *("../midi/a.mid", "midi2/a.mid", "MIDI/a.mid", "midi/out/a.mid", "midi/away.mid"),
            )
        ),
        ("midi/sample.txt", "midi/\0.mid", "midi_path", None),
        ("midi/sample.txt", "midi/" + "x" * 300, "midi_path", None),
        ("midi/sample.txt", "midi/folder", "midi_path", None),
        ("midi/sample.txt", "midi/none/none/a.mid", "midi_path", None),
        ("midi/sample.txt", "", "midi_path", None),
        ("midi/sample.txt", None, "midi_path", None),
        ("midi/none.txt", "midi/a.mid", "txt_path", None),
        ("midi", "midi/a.mid", "txt_path", None),
        ("midi/pipe", "midi/a.mid", "txt_path", None),
        ("/etc/passwd", "midi/a.mid", "txt_path", None),
        ("../secret.txt", "midi/a.mid", "txt_path", None),
        ("midi/away.txt", "midi/a.mid", "txt_path", None),
        ("midi/latin.txt", "midi/a.mid", "txt_path", None),
        ("midi/wrong.txt", "midi/a.mid", "txt_path", None),
        ("midi/large.txt", "midi/a.mid", "txt_path", None),
        ("midi/.hidden.txt", "midi/a.mid", "txt_path", None),
        ("midi/innocent.txt", "midi/a.mid", "txt_path", None),
        ("midi/plain.csv", "midi/a.mid", "txt_path", None),
        ("midi/secret.txt", "midi/a.mid", "txt_path", None),
        ("midi/secrets.txt", "midi/a.mid", "txt_path", None),
        (5, "midi/a.mid", "txt_path", None),
    ],
)
def test_paths_and_files_that_are_refused(
    studio: Server,
    workspace: Path,
    txt_path: Any,
    midi_path: Any,
    param: str,
    detail: str | None,
) -> None:
    folder = workspace / "midi"
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "latin.txt").write_bytes(b"pi:3c:a \xe9")
    (folder / "wrong.txt").write_bytes(b"pi:3c:a\nzz")
    for name in (".hidden.txt", "plain.csv", "secret.txt"):
        (folder / name).write_text("https://alice:ghp_SECRET@git.example\n")
    (folder / "secrets.txt").write_text("https://alice:ghp_SECRET@git.example " * 1500)
    with (folder / "large.txt").open("wb") as large:
        large.truncate((8 << 20) + 1)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
        (folder / "out").symlink_to(workspace.parent)
        (folder / "away.mid").symlink_to(workspace.parent / "away.mid")
        (folder / "away.txt").symlink_to("/etc/passwd")
        (folder / "innocent.txt").symlink_to(folder / ".hidden.txt")
    before = sorted(workspace.parent.rglob("*"))
    body = {"txt_path": txt_path, "midi_path": midi_path}
    answer = refusal(studio, "/txt-to-midi", body, param)
    assert detail is None or answer["detail"] == detail
    assert sorted(workspace.parent.rglob("*")) == before
    assert str(workspace) not in json.dumps(answer)
    assert "SECRET" not in json.dumps(answer) and "alice" not in json.dumps(answer)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guide_by_curl(studio: Server, workspace: Path, tmp_path: Path) -> None:
    def curl(path: str, *arguments: str) -> bytes:
        command = ["curl", "-sSf", studio.url + path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    def as_json(body: dict[str, str]) -> tuple[str, ...]:
        return "-H", "Content-Type: application/json", "-d", json.dumps(body)

    file = tmp_path / "guide.mid"
    file.write_bytes(curl("/text-to-midi", *as_json({"text": GUIDE})))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == GUIDE_DIGEST
    expected = {"text": midi_to_text(file.read_bytes())}
    assert json.loads(curl("/midi-to-text", "-F", f"file_data=@{file}")) == expected
    assert json.loads(curl("/midi-to-text", "--data-binary", f"@{file}")) == expected
    body = {"midi_path": "midi/curl.mid", "txt_path": "midi/sample.txt"}
    assert json.loads(curl("/txt-to-midi", *as_json(body))) == "success"
    assert (workspace / "midi/curl.mid").read_bytes() == text_to_midi(sample.TEXT)


# Mutations.

ROUNDS = 1000 if SOAK else 100
MOST_GROWTH = 48 << 10  # kB


def mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    """One of the pool, changed in some places; now and then long enough for a process."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        match chance.randrange(5):
            case 0 if data:
                data[at % len(data)] = chance.choice((0, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 1:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            case 2:
                del data[at : at + chance.randint(1, 8)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 64)] * chance.randint(1, 20)
            case 4:
                data[at:] = chance.choice(pool)[at:]
    if chance.random() < 0.04:
        data[len(data) // 2 :] = data[len(data) // 2 :] * 600
    return bytes(data)


def mixed(chance: random.Random, pool: list[bytes]) -> bytes:
    """Tokens of the pool in another order, which is mostly music still."""
    words = b" ".join(chance.choices(pool, k=2)).split(b" ")
    chance.shuffle(words)
    return b" ".join(words)


def memory(server: Server) -> int:
    """kB of the worker."""
    status = Path(f"/proc/{server.status()['pid']}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("path", ["/midi-to-text", "/text-to-midi"])
def test_mutations(studio: Server, path: str) -> None:
    """Each is converted or refused, and leaves nothing behind."""
    if path == "/midi-to-text":
        pool = [bytes.fromhex(case["file"]) for case in CASES["midi_to_text"]]
    else:
        pool = [case["text"].encode() for case in CASES["text_to_midi"]]
    chance = random.Random(path)
    seen = {200: 0, 400: 0}
    before = 0
    for round in range(ROUNDS):
        if round == ROUNDS // 5:
            before = memory(studio)
        mix = path == "/text-to-midi" and round % 2
        data = (mixed if mix else mutated)(chance, pool)
        body: Any = data if path == "/midi-to-text" else {"text": data.decode("utf-8", "replace")}
        status, _, raw = studio.request("POST", path, body, BINARY)
        assert status in seen, (status, raw[:200], data[:200])
        seen[status] += 1
        if status == 400:
            field = "file_data" if path == "/midi-to-text" else "text"
            assert json.loads(raw)["error"]["param"] == field
    assert min(seen.values()) >= ROUNDS // 20, seen
    assert memory(studio) - before < MOST_GROWTH
    assert "Traceback" not in studio.log()
