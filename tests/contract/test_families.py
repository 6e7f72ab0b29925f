"""Servers of other families than World, with small random models: music, and Raven's names."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from serving import ROOT, Server, completion_texts, serving, wait_until

from web.midi import sound
from web.midi.writer import text_to_midi

needs_fluidsynth = pytest.mark.skipif(sound.missing(), reason=sound.MISSING)
NO_END = {"0": -100, "2": -100}
# What the browser UI of RWKV Runner sends for music (runner-api 6.8).
WEBUI = {"prompt": "<pad>", "stream": True, "model": "rwkv", "temperature": 1, "top_p": 0.8}
NOTE = re.compile(r"t([1-9]|[1-9]\d|1[01]\d|12[0-5])|[a-z]{1,2}:(0|[1-7]?[0-9a-f]):[0-9a-b]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a small random model with so many rows, of version 7 unless another is named."""
    spec = importlib.util.spec_from_file_location(
        "random_checkpoint", ROOT / "tests/golden/random_checkpoint.py"
    )
    assert spec and spec.loader
    random_checkpoint = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = random_checkpoint  # where dataclass() looks it up
    spec.loader.exec_module(random_checkpoint)
    folder = tmp_path_factory.mktemp("families")

    def write(rows: int, version: str = "7") -> Path:
        path = folder / f"random-{version}-{rows}.safetensors"
        shape = random_checkpoint.Shape(version, 2, 1, 32, 64, rows)
        random_checkpoint.write(path, shape, seed=1)
        return path

    return write


def opened(path: Path, **settings: Any) -> Any:
    return serving(model=path, threads=1, access_log=0, **settings)


@pytest.fixture(scope="module")
def midi(made: Callable[..., Path]) -> Iterator[Server]:
    with opened(made(20096)) as server:
        yield server


def pieces(server: Server, **body: Any) -> list[str]:
    events = server.stream("/v1/completions", {**WEBUI, **body})
    return [c["text"] for e in events if e != "[DONE]" for c in e["choices"] if c["text"]]


def test_a_piece_of_music(midi: Server) -> None:
    """Words with a blank before each, so that the pieces of a stream join to valid MIDI text."""
    told = pieces(midi, max_tokens=300, logit_bias=NO_END, seed=1)
    assert all(piece.startswith(" ") for piece in told)
    words = "".join(told).split(" ")[1:]
    assert len(words) == 300
    assert all(NOTE.fullmatch(word) for word in words if word), words
    assert len(set(words)) > 50


def audible(raw: bytes) -> int:
    """The frames of a WAV that holds more than silence."""
    with wave.open(io.BytesIO(raw)) as file:
        frames = file.readframes(file.getnframes())
        assert np.abs(np.frombuffer(frames, "<i2")).max() > 1000
        return file.getnframes()


@needs_fluidsynth
def test_a_piece_becomes_a_file_and_a_sound(midi: Server) -> None:
    """Streamed, then converted and rendered, as RWKV Runner's browser UI does."""
    text = "".join(pieces(midi, max_tokens=200, logit_bias=NO_END, seed=3))
    status, _, file = midi.request("POST", "/text-to-midi", {"text": text.strip()})
    assert status == 200 and file.startswith(b"MThd")
    back = midi.post("/midi-to-text", file)["text"].split()
    assert len(back) > 50
    audio = {"Accept": "audio/wav"}
    status, _, raw = midi.request("POST", "/text-to-wav", {"text": text.strip()}, audio)
    assert status == 200 and audible(raw) > 44100


@needs_fluidsynth
def test_from_a_prompt_to_a_file(midi: Server) -> None:
    """The file is that of the prompt and the text that the same request without a format gets; with
    `echo` false, of the text alone."""
    body = {"prompt": "<pad> PI:3C:A t62", "max_tokens": 60, "seed": 4, "logit_bias": NO_END}
    text = midi.post("/v1/completions", body)["choices"][0]["text"]
    for echo, piece in ((None, f"pi:3c:a t62{text} <end>"), (False, f"{text} <end>")):
        asked = {**body, "response_format": {"type": "midi"}, "echo": echo}
        status, headers, raw = midi.request("POST", "/v1/completions", asked)
        assert (status, headers["content-type"]) == (200, "audio/midi")
        assert headers["content-disposition"] == 'attachment; filename="music.mid"'
        assert raw == text_to_midi(piece)

    asked = {**body, "response_format": {"type": "wav"}}
    status, headers, raw = midi.request("POST", "/completions", asked)
    assert (status, headers["content-type"]) == (200, "audio/wav")
    assert headers["content-disposition"] == 'attachment; filename="music.wav"'
    assert int(headers["content-length"]) == len(raw)
    seconds = mido.MidiFile(file=io.BytesIO(text_to_midi(f"pi:3c:a t62{text} <end>"))).length
    assert audible(raw) > seconds * 44100
    assert midi.is_idle()


@needs_fluidsynth
def test_a_stop_string_cuts_no_note_in_two(midi: Server) -> None:
    body = {"prompt": "pi:3c:a", "seed": 4, "logit_bias": NO_END, "stop": [":"]}
    asked = {**body, "response_format": {"type": "midi"}}
    status, _, raw = midi.request("POST", "/v1/completions", asked)
    assert status == 200 and raw.startswith(b"MThd")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": True}, "stream"),
        ({"prompt": ["<pad>", "<pad>"]}, "prompt"),
        ({"response_format": {"type": "mp3"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "wav"}, "response_format"),
    ],
)
def test_files_that_cannot_be_made(midi: Server, more: dict[str, Any], param: str) -> None:
    body = {"prompt": "<pad>", "response_format": {"type": "midi"}, **more}
    assert midi.post("/completions", body, expect=400)["error"]["param"] == param


@needs_fluidsynth
def test_a_piece_that_is_too_long(midi: Server) -> None:
    """A wait of a second, 1300 times, and then a note."""
    body = {"prompt": "pi:3c:a" + " t125" * 1300 + " pi:3c:0", "max_tokens": 1}
    answer = midi.post("/completions", {**body, "response_format": {"type": "wav"}}, expect=400)
    assert answer["error"]["param"] == "max_tokens" and "at most 1200 s" in answer["detail"]


@pytest.mark.parametrize("form", ["midi", "wav"])
def test_other_models_make_no_files(server: Server, form: str) -> None:
    body = {"prompt": "x", "response_format": {"type": form}}
    answer = server.post("/completions", body, expect=400)
    assert answer["error"]["param"] == "response_format.type"
    assert "models that write MIDI tokens" in answer["error"]["message"]


@needs_fluidsynth
def test_the_music_command(made: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "a.wav"
    command = [Path(sys.executable).with_name("rwkv-native"), "music", "--prompt", "pi:3c:a t62"]
    options = ["--model", made(20096), "--seed", "1", "--max-tokens", "50", "--output", out]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert audible(out.read_bytes()) > 44100

    for prompt, said in (
        ("pi:3c:a what", "--prompt: token 2, 'what' at character 8, is none of the model's"),
        ("t1", "--prompt: there is no note in it, and the model has written none"),
    ):
        command[3] = prompt
        options[-3:] = ["0" if prompt == "t1" else "9", "--output", tmp_path / "b.mid"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert not (tmp_path / "b.mid").exists()


def test_a_piece_ends(midi: Server) -> None:
    for end in ("0", "2"):
        answer = midi.post(
            "/v1/completions", {**WEBUI, "stream": False, "logit_bias": {end: 100}, "top_k": 1}
        )
        assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("", "stop")
        assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("<pad>", 1), ("", 1), (" \n", 1), (None, 1), ("<start> PI:3C:A t125\n<pad>", 4), ([0, 1], 2)],
)
def test_prompts_of_music(prompt: Any, tokens: int, midi: Server) -> None:
    answer = midi.post("/completions", {"prompt": prompt, "max_tokens": 2, "frequency_penalty": 2})
    assert answer["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("hello", "token 1, 'hello' at character 0, is none of the model's"),
        ("pi:3c:a hello t24", "token 2, 'hello' at character 8"),
        ("pi:zz:a", "token 1, 'pi:zz:a' at character 0"),
        ("pi:3c:a\nt126", "token 2, 't126' at character 8"),
        ("<unk>", "token 1, '<unk>' at character 0"),
        (["<pad>", "t1 \x1b[31m"], "text 2: token 2, '\\x1b[31m' at character 3"),
        ("t1 " * 10_000 + "x", "token 10001, 'x' at character 30000"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"response_format": {"type": "midi"}}, {"stream": True}])
def test_what_is_no_note_is_refused(
    midi: Server, prompt: Any, said: str, more: dict[str, Any]
) -> None:
    """It would be read as <pad>, which ends a piece."""
    if more and not isinstance(prompt, str):
        more = {}
    answer = midi.post("/completions", {"prompt": prompt, "max_tokens": 2, **more}, expect=400)
    assert answer["error"]["param"] == "prompt" and said in answer["error"]["message"]


def test_what_music_is_fed(midi: Server) -> None:
    answer = midi.post("/tokenize", {"prompt": " "})
    assert answer == {"prompt": "<pad>", "tokens": [0], "count": 1}
    assert midi.post("/tokenize", {"prompt": "<start> PI:3C:A t125"})["count"] == 3
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert midi.post("/tokenize", body, expect=400)["error"]["code"] == "model_cannot_chat"


def test_music_does_not_chat(midi: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        answer = midi.post("/v1/chat/completions", {**body, "stream": stream}, expect=400)
        assert answer["error"]["code"] == "model_cannot_chat"
        assert "makes music (midi)" in answer["detail"] and "/v1/completions" in answer["detail"]
    assert midi.is_idle()


def test_piano(made: Callable[..., Path]) -> None:
    with opened(made(2176)) as server:
        words = "".join(pieces(server, max_tokens=60, logit_bias=NO_END)).split()
        # The routes of music then speak of one instrument, with 16 velocities.
        file = server.request("POST", "/text-to-midi", {"text": "p:3c:f t10 p:3c:0"})[2]
        told = json.loads(server.request("POST", "/midi-to-text", file)[2])
        assert told == {"text": "<start> p:3c:f t10 p:3c:0 <end>"}
        assert (
            "a velocity above f" in server.post("/text-to-midi", {"text": "p:3c:10"}, 400)["detail"]
        )
    assert all(re.fullmatch(r"t\d+|p:[0-7]?[0-9a-f]:[0-9a-f]", word) for word in words)


def test_abc(made: Callable[..., Path]) -> None:
    with opened(made(128)) as server:
        body = {"prompt": "", "max_tokens": 100, "logit_bias": {"3": -100}}
        text = server.post("/v1/completions", body)["choices"][0]["text"]
        assert len(text) == 100 and text.isascii() and min(map(ord, text)) > 3
        ended = server.post("/v1/completions", {**body, "logit_bias": {"3": 100}, "top_k": 1})
        assert (ended["choices"][0]["text"], ended["choices"][0]["finish_reason"]) == ("", "stop")
        wrong = server.post("/v1/completions", {"prompt": "é"}, expect=400)
        assert "ASCII" in wrong["detail"]


def test_remi(made: Callable[..., Path], tmp_path: Path) -> None:
    words = ["PAD_None", "BOS_None", "EOS_None", *(f"word_{n}" for n in range(297))]
    file = tmp_path / "remi.json"
    file.write_text(
        json.dumps({"tokenization": "REMI", "_vocab_base": {w: id for id, w in enumerate(words)}})
    )
    with opened(made(300), tokenizer=file) as server:
        body = {"prompt": "", "max_tokens": 50, "logit_bias": {"2": -100}}
        events = server.stream("/v1/completions", body)
        assert re.fullmatch(r"(, \d{1,3}){50}", completion_texts(events)[0])
        answer = server.post("/v1/completions", {**body, "prompt": "5, 17,299"})
        assert answer["usage"]["prompt_tokens"] == 3
        wrong = server.post("/v1/completions", {"prompt": "5, x"}, expect=400)
        assert "ids from 0 to 299" in wrong["detail"]


@pytest.mark.parametrize(
    "version",
    ["6.0", "4"],
)
def test_raven(version: str, made: Callable[..., Path], tmp_path: Path) -> None:
    """A text vocabulary of fewer than 65536 rows: the conversation is between Bob and Alice. One
    token per byte, so that the length of the prompt shows."""
    file = tmp_path / "ascii.txt"
    file.write_text("".join(f"{b + 1} {chr(b)!a} 1\n" for b in range(128)))
    with opened(made(300, version), tokenizer=file) as server:
        body = {"messages": [{"role": "user", "content": "a\r\n\r\nb "}], "max_tokens": 1}
        answer = server.post("/v1/chat/completions", body)
        assert answer["usage"]["prompt_tokens"] == len("Bob: a\nb\n\nAlice:")
        body["messages"][0]["raw"] = True
        answer = server.post("/v1/chat/completions", body)
        assert answer["usage"]["prompt_tokens"] == len("Bob: a\r\n\r\nb \n\nAlice:")


def test_a_tokenizer_that_needs_a_file(made: Callable[..., Path]) -> None:
    server = Server(ready=False, model=made(300), threads=1)
    try:
        wait_until(lambda: "the tokenizer REMI" in server.log(), 60)
        server.logged("--tokenizer")
        assert server.status()["status"] == 0
    finally:
        server.stop()
