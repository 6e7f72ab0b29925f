"""Every byte of an answer: order of keys, blanks, escapes, the end of a stream.

What the model says is scripted. data/answer-bytes.json has the answers as they were recorded, with
* for what is another one each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from player import CALL, SECOND, TOOLS, Script, Step, application

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED: list[Any] = [{"role": "user", "content": "What is the weather like in Paris?"}]
NASTY = 'a"b\\c\n\n\r\n\x00\x7f\u2028\u00e9\U0001f600</script>data: x'
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
THOUGHT = {"role": "assistant", "content": "<think", "prefix": True}

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "answer-bytes.json").read_text()
)


def letters(text: str, reason: str = "stop", step: int = 3) -> list[list[Step]]:
    """A text, some letters at a time."""
    parts = [text[i : i + step] for i in range(0, len(text), step)]
    return [*([(0, part, None)] for part in parts), [(0, "", reason)]]


def both(name: str, request: dict[str, Any], *steps: list[Step]) -> dict[str, Any]:
    """A case as a whole answer, and as a stream."""
    return {name: (request, steps), f"{name}, streamed": ({**request, "stream": True}, steps)}


# Name -> what is asked, and what the model says.
CHATS: dict[str, Any] = {
    **both("plain", {}, *letters(" Hello, it is fine.\n\n")),
    **both("escapes", {}, *letters(f" {NASTY}", "length")),
    **both("nothing", {}, [(0, "", "stop")]),
    **both("blanks only", {}, *letters(" \n\n ")),
    **both("at once", {}, [(0, " All", None), (0, " of it.", None), (0, "", "stop")]),
    "usage": (USAGE, letters(" Hello.")),
    **both("a call", {"tools": TOOLS}, *letters(CALL)),
    **both("text and calls", {"tools": TOOLS}, *letters(f" Let me look.{CALL}{SECOND}\n\nDone.")),
    "calls, usage": ({"tools": TOOLS, **USAGE}, letters(f"{CALL}{SECOND}")),
    **both(
        "calls, not parallel",
        {"tools": TOOLS, "parallel_tool_calls": False},
        *letters(CALL + SECOND),
    ),
    **both(
        "calls at once", {"tools": TOOLS}, [(0, f" Look: {CALL}{SECOND}", None), (0, "", "stop")]
    ),
    **both("no call after all", {"tools": TOOLS}, *letters(CALL[:-20], "length")),
    **both(
        "thoughts",
        {"messages": [*ASKED, THOUGHT]},
        *letters("> The sun,\n\nI guess.\n</think>\nSunny.\n"),
    ),
    **both("no engine", {}, [(0, "out of memory", "error")]),
    **both(
        "an error amid", {"tools": TOOLS}, *letters(" Let me")[:-1], [(0, "no numbers", "error")]
    ),
    **both("a stop amid", {}, [(0, " Let me", None)], [(0, "", "cancelled")]),
    "no messages": ({"messages": []}, ()),
}
TEXTS: dict[str, Any] = {
    **both("plain", {}, *letters(" Hello, it is fine.\n\n")),
    **both("escapes", {}, *letters(f" {NASTY}", "length")),
    **both("echo", {"echo": True}, *letters(" x")),
    **both("echo of ids", {"echo": True, "prompt": [73, 74]}, *letters(" x")),
    **both(
        "two",
        {"prompt": ["A", "B"], "echo": True},
        [(1, "b", None), (0, "a", None)],
        [(0, "", None), (1, "b", "length")],
        [(0, "a", None), (0, "a", "stop")],
    ),
    "two, usage": ({"prompt": ["A", "B"], **USAGE}, ([(0, "a", "stop")], [(1, "", "stop")])),
    **both("an error amid", {"prompt": ["A", "B"]}, [(0, "a", None)], [(1, "no numbers", "error")]),
}
CASES = {
    f"{path} {name}": (path, *case)
    for path, cases in ((CHAT, CHATS), (TEXT, TEXTS))
    for name, case in cases.items()
}
CASES["/tokenize a chat"] = ("/tokenize", {"messages": ASKED, "tools": TOOLS}, ())
CASES["/tokenize a text"] = ("/tokenize", {"prompt": NASTY}, ())

# What is another one each time.
_FRESH = re.compile(
    r'(?<="id":"chatcmpl-)\w{32}(?=")|(?<="id":"cmpl-)\w{32}(?=")|(?<="id":"call_)\w{24}(?=")'
    r'|(?<="created":)\d{10}(?=,)|(?<="fp_)\w{10}(?=")'
)


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def client(script: Script) -> Iterator[falcon.testing.TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        app = application(script, patch)
        yield falcon.testing.TestClient(app, headers={"Host": "localhost"})


def answered(client: falcon.testing.TestClient, script: Script, name: str) -> dict[str, Any]:
    """Status, content type and body."""
    path, asked, steps = CASES[name]
    given = {"messages": ASKED} if path == CHAT else {"prompt": "Paris"} if path == TEXT else {}
    request = {**given, **asked}
    prompts = request.get("prompt", "")
    count = len(prompts) if isinstance(prompts, list) and isinstance(prompts[0], str) else 1
    script.plays(count, *steps)
    answer = client.simulate_post(path, json=request)
    return {
        "status": answer.status_code,
        "type": answer.headers["content-type"],
        "body": _FRESH.sub("*", answer.content.decode()),
    }


def test_every_recording_is_played() -> None:
    assert RECORDED.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_every_byte(client: falcon.testing.TestClient, script: Script, name: str) -> None:
    assert answered(client, script, name) == RECORDED[name]
