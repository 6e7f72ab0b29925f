"""What RWKV Runner answered, word for word as far as its words go, and what docs/compatibility.md
says that we answer instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import bigrams
import pytest
from serving import Server, serving, wait_until

import rwkv_native as rn
from web.midi import sound

Answer = tuple[int, dict[str, str], bytes]

DATA = Path(__file__).parent / "data" / "runner-exchanges.json"
EXCHANGES = json.loads(DATA.read_text())["exchanges"]
MODELS = {one["name"]: one for one in EXCHANGES if one["server"] == "models"}

# Status, and a part of `detail`; {} for an answer that is right here.
NO_MODEL = (400, "model not loaded")
DIFFERENT = {
    "9 chat content list": NO_MODEL,  # read as text, so there is nothing else wrong with it
    "11 wrong content type": NO_MODEL,
    "15 prompt token ids": NO_MODEL,
    "17 unknown fields ignored": (400, "logprobs is not supported yet"),
    "19 trailing slash": NO_MODEL,  # answered at once
    "22 update config error": (200, "success"),  # a top_k of 101 is one
    "25 switch fail": (400, "[Errno 2] No such file or directory: 'models/missing.pth'"),
    "28 switch raven": (400, "20B, whose file is not part of this package"),
    "34 chat on midi model": (400, "makes music"),
    "38 midi-to-text no filename": (200, "pi:3c:"),
    "39 midi-to-text garbage": (400, "bad midi file"),  # a 500 there
    "43 txt-to-midi missing input": (400, "does not exist"),  # the same
    "44 midi-to-wav no fluidsynth": (
        (501, "apt install") if sound.missing() else (400, "midi_path names a file")
    ),
    "49 file PDF uppercase": (200, "hello"),
    "52 multipart filename wins over query": (200, "x"),
    "66 deploy /switch-model": (403, "Forbidden"),
    "67 deploy /albatross/profile": (404, "Not Found"),
    "73 state bad ext": (200, ""),  # a folder means none
}


def instead(text: str, prompt: int, completion: int, reason: str = "stop") -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [{"text": text, "finish_reason": reason}], "usage": usage}


# A chat's answer without the blank that it begins with.
OK = [{"message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]

# What of an answer is otherwise.
OTHERWISE: dict[str, dict[str, Any]] = {
    # The prompt has the words of the messages.
    "26 v4 chat": {"choices": OK, "usage": {"prompt_tokens": 14}},
    "27 v4 chat presystem": {"choices": OK, "usage": {"prompt_tokens": 21}},
    "29 raven chat": {"choices": OK, "usage": {"prompt_tokens": len("Bob: hello\n\nAlice:")}},
    # <end> ends a piece; <pad> is fed for nothing.
    "32 midi completion nonstream": instead(" p:24:a p:2a:a t14 p:24:0", 2, 4),
    "33 midi empty prompt": instead(" p:24:a p:2a:a t14", 1, 3, "length"),
    # A token without text is never drawn.
    "57 token without vocabulary entry -> undecodable forever": instead(" ok", 1, 1),
}
# What has to be there before an exchange.
BEFORE = {
    "26 v4 chat": {"model": "models/RWKV-world4.pth"},
    "29 raven chat": {"model": "models/raven.pth", "tokenizer": "models/raven.txt"},
}


@pytest.fixture(scope="module")
def servers(server: Server) -> Iterator[dict[str, Server]]:
    quiet = {"access_log": 0, "model": "none", "ready": False}
    with serving(**quiet) as without, serving(access_log=0, deploy=1) as deployed:
        wait_until(lambda: _answers(without))
        yield {"none": without, "deploy": deployed, "loaded": server}


def _answers(server: Server) -> bool:
    try:
        return server.request("GET", "/")[0] == 200
    except OSError:
        return False


def holds(answer: Any, recorded: Any) -> None:
    """Whether all that was recorded is there, pids aside."""
    if isinstance(recorded, dict):
        assert isinstance(answer, dict)
        for key, value in recorded.items():
            if key != "pid":
                holds(answer[key], value)
    elif isinstance(recorded, list):
        assert isinstance(answer, list) and len(answer) == len(recorded)
        for one, other in zip(answer, recorded, strict=True):
            holds(one, other)
    else:
        assert answer == recorded


def send(server: Server, exchange: dict[str, Any]) -> Answer:
    """Sends it as it was recorded, but for the device: those models are small and said what they
    were told, wherever they ran."""
    body, method, path = exchange["body"], exchange["method"], exchange["path"]
    if method == "POST" and body and exchange["server"] == "models":
        body = body.replace("cuda fp16", "cpu fp32")
    raw = None if body is None else body.encode(errors="surrogateescape")
    return server.request(method, path, raw, exchange["headers"])


def write_models(folder: Path) -> None:
    """Checkpoints that say what was recorded."""
    world, midi = rn.Tokenizer.named("world"), rn.Tokenizer.named("midi")
    music = midi.encode("<start> p:24:a p:2a:a t14 p:24:0 <end> p:30:b <pad>")
    (err, colon, ok) = (id for word in ("err", ":", " ok") for id in world.encode(word))
    # One token per byte, and one for the answer.
    words = [chr(byte) for byte in range(128)] + [" ok"]
    lines = (f"{id} {word!a} {len(word)}\n" for id, word in enumerate(words, 1))
    (folder / "raven.txt").write_text("".join(lines))

    bigrams.write(folder / "RWKV-world4.pth", {colon: ok, ok: 0}, version="4")
    bigrams.write(folder / "raven.pth", {ord(":") + 1: 129}, 50277, "4")
    for name in ("RWKV-5-MIDI-fake.pth", "midi-fake.pth"):
        bigrams.write(folder / name, {**dict(pairwise(music)), 0: music[1]}, 20096)
    for name in ("w.pth", "w2.pth"):
        bigrams.write(folder / name, {err: 65531, 65531: ok, ok: 0}, second={err: ok})
    bigrams.write(folder / "RWKV-x070-World-0.1B-fake.pth", {})


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """The answers of one server that goes from model to model, in the order of the recording."""
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "models").mkdir()
    write_models(workspace / "models")
    answers: dict[str, Answer] = {}
    quiet = {"access_log": 0, "runner_models": 1}
    with serving(**quiet, model="none", ready=False, workspace=workspace) as server:
        wait_until(lambda: _answers(server))
        for name, exchange in MODELS.items():
            if name in BEFORE:
                server.post("/switch-model", {"strategy": "cpu fp32", **BEFORE[name]})
            if name.startswith("54 "):
                answers |= wait_until(lambda: during_a_load(server), 120)
            elif name not in answers:
                answers[name] = send(server, exchange)
    shutil.rmtree(workspace)  # 90 MB
    return answers


def during_a_load(server: Server) -> dict[str, Answer]:
    """What is answered while models/w.pth is loaded; nothing if that was too quick."""
    asked = {name: one for name, one in MODELS.items() if name.startswith(("54 ", "55 "))}
    body = {"model": "models/w.pth", "strategy": "cpu fp32"}
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(server.post, "/switch-model", body)
        while server.status()["status"] != 2 and not load.done():
            pass
        answers = {name: send(server, one) for name, one in asked.items()}
    caught = {status for status, _, _ in answers.values()} == {200, 304}
    return answers if caught and b'"status":2' in answers["54 status while loading"][2] else {}


def test_every_recording_is_replayed() -> None:
    assert [int(one["name"].split()[0]) for one in EXCHANGES] == list(range(80))


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"] for one in EXCHANGES])
def test_exchange(request: pytest.FixtureRequest, exchange: dict[str, Any]) -> None:
    if exchange["server"] == "models":
        status, headers, raw = request.getfixturevalue("played")[exchange["name"]]
    else:
        servers = request.getfixturevalue("servers")
        status, headers, raw = send(servers[exchange["server"]], exchange)
    wanted, part = DIFFERENT.get(exchange["name"], (exchange["status"], ""))
    # 400 for all that is wrong with a request, and a text where Runner has a list.
    assert status == (400 if wanted == 422 else wanted), raw
    if status == 304:
        assert raw == b""
        return
    if headers["content-type"] == "audio/midi":
        assert exchange["answer"] is None  # tests/contract/test_midi.py compares the bytes
        return
    answer = json.loads(raw)
    if status >= 400:
        assert headers["content-type"] == "application/json"
        assert answer["error"]["message"] and answer["detail"]
    if exchange["name"] in DIFFERENT:
        assert part in str(answer)
    elif exchange["answer"] is not None:
        other = OTHERWISE.get(exchange["name"])
        holds(answer, {**exchange["answer"], **other} if other else exchange["answer"])
