"""What RWKV Runner answered, word for word as far as its words go, and what docs/compatibility.md
says that we answer instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, serving, wait_until

DATA = Path(__file__).parent / "data" / "runner-exchanges.json"
EXCHANGES = json.loads(DATA.read_text())["exchanges"]

# Status, and a part of `detail`; {} for an answer that is right here.
NO_MODEL = (400, "model not loaded")
DIFFERENT = {
    "9 chat content list": NO_MODEL,  # read as text, so there is nothing else wrong with it
    "11 wrong content type": NO_MODEL,
    "15 prompt token ids": NO_MODEL,
    "17 unknown fields ignored": (400, "logprobs is not supported yet"),
    "19 trailing slash": NO_MODEL,  # answered at once
    "39 midi-to-text garbage": (400, "bad midi file"),  # a 500 there
    "43 txt-to-midi missing input": (400, "does not exist"),  # the same
    "66 deploy /switch-model": (403, "Forbidden"),
    "73 state bad ext": (200, ""),  # a folder means none
}


@pytest.fixture(scope="module")
def servers(server: Server) -> Iterator[dict[str, Server]]:
    quiet = {"access_log": 0, "model": "none", "ready": False}
    with serving(**quiet) as without, serving(**quiet, deploy=1) as deployed:
        for one in (without, deployed):
            wait_until(lambda one=one: _answers(one))
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


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[one["name"] for one in EXCHANGES])
def test_exchange(servers: dict[str, Server], exchange: dict[str, Any]) -> None:
    body = exchange["body"]
    status, headers, raw = servers[exchange["server"]].request(
        exchange["method"],
        exchange["path"],
        None if body is None else body.encode(),
        exchange["headers"],
    )
    wanted, part = DIFFERENT.get(exchange["name"], (exchange["status"], ""))
    # 400 for all that is wrong with a request, and a text where Runner has a list.
    assert status == (400 if wanted == 422 else wanted), raw
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
        holds(answer, exchange["answer"])
