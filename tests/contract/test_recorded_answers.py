"""What RWKV Runner answered to a model that says what it is told, and what we answer to one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import bigrams
import pytest
from serving import Server, chat_text, completion_texts, serving, wait_until

CASES = json.loads((Path(__file__).parent / "data" / "chat-answers.json").read_text())["cases"]

# Played elsewhere: what a model that goes by the last token cannot say, and another vocabulary.
ELSEWHERE = {
    "tools_call": "tests/unit/test_tool_calls.py",  # each _ is followed by something else
    "v4_raven_chat_content_lost": "test_runner_exchanges.py, 29",
}

# What we answer instead; docs/compatibility.md says why. Besides, no chat's answer has white space
# around it, and no part of a stop leaks into a stream.
DIFFERENT: dict[str, dict[str, Any]] = {
    # A label ends an answer with its colon.
    "chat_plain": {"usage": {"prompt_tokens": 7, "completion_tokens": 10}},
    "chat_stop_null": {"usage": {"prompt_tokens": 7, "completion_tokens": 4}},
    # A paragraph that begins with A, or with Assume, does not.
    "chat_default_stop_A": {"text": "First.\n\nA", "usage": {"completion_tokens": 4}},
    "chat_default_stop_Ass": {"text": "First.\n\nAssume", "usage": {"completion_tokens": 4}},
    "chat_system": {"usage": {"prompt_tokens": 27}},  # no white space around what is said
    "tools_followup_known_id": {
        "usage": {"prompt_tokens": 43, "completion_tokens": 6}  # the request has no tools
    },
    "completion_max_tokens": {"finish_reason": "length"},
    "completion_stop_partial_leak": {"text": " a b "},
    "completion_prompt_list": {"usage": {"prompt_tokens": 4}},  # of both prompts
    "completion_empty_stop_string": {
        "text": " a b STOP",  # an empty stop is none
        "usage": {},
    },
    "midi_stream": {"text": " p:24:a p:2a:a t14 p:24:0"},  # <end> ends the piece
}


_COLON = 59
_LABELS = {24281, 5641}  # User, Bob: the recorded answers end with them


def script(case: dict[str, Any]) -> list[int]:
    """What the model says: a label has a colon, which RWKV Runner did not wait for."""
    tokens = case["tokens"]
    return [*tokens, _COLON] if tokens[-1] in _LABELS else tokens


def scripts() -> Iterator[tuple[int, dict[int, int], list[dict[str, Any]]]]:
    """Cases that one model can play, how many tokens it knows and what it has to say."""
    left = CASES
    while left:
        rows = left[0].get("rows", 65536)
        after: dict[int, int] = {}
        played, others = [], []
        for case in left:
            pairs = dict(pairwise(script(case)))
            fits = all(after.get(token, then) == then for token, then in pairs.items())
            fits = fits and case.get("rows", 65536) == rows
            (played if fits else others).append(case)
            after |= pairs if fits else {}
        yield rows, after, played
        left = others


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By the name of the case: text, finish reason and usage."""
    folder = tmp_path_factory.mktemp("models")
    told: dict[str, Any] = {}
    with serving(access_log=0, model="none", ready=False, model_dir=folder) as server:
        wait_until(lambda: _answers(server))
        for number, (rows, after, cases) in enumerate(scripts()):
            path = folder / f"says-{number}.safetensors"
            bigrams.write(path, after, rows)
            server.post("/switch-model", {"model": str(path), "strategy": "cpu fp32"})
            told |= {case["name"]: answer_of(server, case) for case in cases}
            path.unlink()
    return told


def _answers(server: Server) -> bool:
    try:
        return server.request("GET", "/")[0] == 200
    except OSError:
        return False


def answer_of(server: Server, case: dict[str, Any]) -> dict[str, Any]:
    if case["request"].get("stream"):
        events = server.stream(case["path"], case["request"])
        text = chat_text(events) if "chat" in case["path"] else completion_texts(events)[0]
        return {"text": text, "finish_reason": events[-2]["choices"][0]["finish_reason"]}
    status, _, raw = server.request("POST", case["path"], case["request"])
    answer = json.loads(raw)
    if status != 200:
        return {"text": answer["detail"], "finish_reason": None}
    (choice, *_) = answer["choices"]
    text = choice["message"]["content"] if "chat" in case["path"] else choice["text"]
    return {"text": text, "finish_reason": choice["finish_reason"], "usage": answer["usage"]}


def test_every_recording_is_played() -> None:
    assert len({case["name"] for case in CASES} | set(ELSEWHERE)) == 26


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_answer(answers: dict[str, Any], case: dict[str, Any]) -> None:
    answer = answers[case["name"]]
    wanted = {**case, **DIFFERENT.get(case["name"], {})}
    if "chat" in case["path"] and case["name"] != "chat_prefix":  # a continuation begins as it does
        wanted["text"] = wanted["text"].strip()
    assert (answer["text"], answer["finish_reason"]) == (wanted["text"], wanted["finish_reason"])
    for name, count in wanted.get("usage", {}).items():
        assert answer["usage"][name] == count
