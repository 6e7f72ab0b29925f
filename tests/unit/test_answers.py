"""What clients get of an answer: no outer white space, however the text comes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from web.chat.answers import Answer, Trimmer
from web.chat.events import Finish, Text, ToolCall
from web.chat.messages import Call, Function, Message
from web.chat.tool_calls import CallFinder

TEXTS = [
    " 2 + 3 = 5.\n\n",
    "\n \t\u3000 a\n\nb  c\r\n ```\n x\n```\n",
    "plain",
    " \n\n ",
    "",
    " \U0001f600\n\n\u4f60\u597d\u3002\n\n\u2028",
]


def pieces(text: str, seed: int) -> list[str]:
    cuts = sorted(random.Random(seed).choices(range(len(text) + 1), k=seed % 7))
    ends = [0, *cuts, len(text)]
    return [text[i:j] for i, j in pairwise(ends)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", TEXTS)
def test_outer_white_space_is_taken_off(text: str, seed: int) -> None:
    trimmer, out = Trimmer(), ""
    for piece in pieces(text, seed):
        out += trimmer.feed(piece)
        assert out == out.strip()  # at every moment
    assert out == text.strip()


@pytest.mark.parametrize("text", TEXTS)
def test_a_continuation_keeps_what_it_begins_with(text: str) -> None:
    trimmer = Trimmer(continues=True)
    assert "".join(map(trimmer.feed, text)) == text.rstrip()


def test_nothing_is_held_that_could_be_told() -> None:
    trimmer = Trimmer()
    told = [trimmer.feed(piece) for piece in (" ", "a", "b ", "\n\n", "c", ".\n", "\n")]
    assert told == ["", "a", "b", "", " \n\nc", ".", ""]


CALL = 'f\n```python\ntool_call("k"="3")\n```'
PARAMETERS = {"type": "object", "properties": {"k": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        (f" {CALL}\n\n", "", ""),
        (f" \n So: \n\n{CALL}", "So:", ""),
        (f" So:\n{CALL}\n\nDone. \n", "So:", "\nDone."),
    ],
)
def test_text_around_calls(said: str, before: str, after: str) -> None:
    for step in (1, 3, len(said)):
        heard: list[tuple[Message, list[int]]] = []
        finder = CallFinder([Function("f", None, PARAMETERS)])
        note = lambda m, ids, heard=heard: heard.append((m, ids))  # noqa: E731
        answer = Answer(0, Trimmer(), finder, noted=note)
        parts = [said[at : at + step] for at in range(0, len(said), step)]
        *events, last = [e for part in parts for e in answer.feed(part)] + answer.end("stop", [7])
        assert last == Finish(0, "tool_calls") and answer.reason == "tool_calls"
        told = ["|" if isinstance(event, ToolCall) else event.text for event in events]
        assert "".join(told) == f"{before}|{after}" and answer.text == before + after
        (message, ids) = heard[0]
        assert ids == [7] and message.calls == (Call("f", {"k": 3}),)
        assert message.content == before + after and len(heard) == 1


def test_what_is_continued_is_a_part_of_the_message() -> None:
    answer = Answer(0, Trimmer(continues=True), begun="2 + 3")
    assert answer.feed(" = 5.\n") == [Text(0, " = 5.")]
    assert answer.end("length") == [Finish(0, "length")]
    assert answer.text == " = 5." and answer.message == Message("assistant", "2 + 3 = 5.")
