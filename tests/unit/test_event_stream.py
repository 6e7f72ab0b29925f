"""Frames of a stream, and the iterator that writes them: order, one write for what waits, pings,
errors in mid-stream, a client that leaves."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from web import errors
from web.chat.answers import Answer, Trimmer
from web.chat.events import Begin, Event, Finish, Text, Usage
from web.chat.turn import Turn
from web.dialects import event_stream, openai
from web.dialects.chat import CHAT
from web.dialects.completions import COMPLETIONS
from web.dialects.event_stream import EventStream
from web.dialects.openai import OpenAiEncoder
from web.engine.generation import Piece


@pytest.fixture(autouse=True)
def unchanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is another one each time."""
    monkeypatch.setattr(openai.time, "time", lambda: 7.5)
    monkeypatch.setattr(openai.uuid, "uuid4", lambda: SimpleNamespace(hex='"1"'))


def encoder(chat: bool = True, include_usage: bool = False) -> OpenAiEncoder:
    serving: Any = SimpleNamespace(name="mödel", fingerprint="fp_1")
    return OpenAiEncoder(CHAT if chat else COMPLETIONS, serving, include_usage)


def frames(*events: Event, chat: bool = True, include_usage: bool = False) -> bytes:
    return encoder(chat, include_usage).frames(events)


def parse(raw: bytes) -> list[Any]:
    assert raw.endswith(b"\n\n") and b"\r" not in raw
    blocks = raw.decode().split("\n\n")[:-1]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def chunk(choice: dict[str, Any], kind: str = "chat.completion.chunk") -> dict[str, Any]:
    model = {"model": "mödel", "system_fingerprint": "fp_1"}
    id = 'chatcmpl-"1"' if kind.startswith("chat") else 'cmpl-"1"'
    return {"id": id, "object": kind, "created": 7, **model, "choices": [choice]}


def choice(index: int, reason: str | None, **body: Any) -> dict[str, Any]:
    return {"index": index, **body, "logprobs": None, "finish_reason": reason}


NASTY = 'a"b\\c\n\n\r\n\x00\x7f\u2028é😀</script>data: x'


def test_chat_frames() -> None:
    role = {"role": "assistant", "content": ""}
    assert parse(frames(Begin(0), Text(0, NASTY), Finish(1, "length"))) == [
        chunk(choice(0, None, delta=role)),
        chunk(choice(0, None, delta={"content": NASTY})),
        chunk(choice(1, "length", delta={})),
    ]


def test_completion_frames() -> None:
    kind = "text_completion"
    assert frames(Begin(11), chat=False) == b""
    assert parse(frames(Text(11, NASTY), Finish(3, "stop"), chat=False)) == [
        chunk(choice(11, None, text=NASTY), kind),
        chunk(choice(3, "stop", text=""), kind),
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_usage_frames(chat: bool) -> None:
    events = [Begin(0), Text(0, "x"), Finish(0, "stop"), Usage(3, 4, None)]
    *said, last, done = parse(frames(*events, chat=chat, include_usage=True))
    assert done == "[DONE]"
    assert len(said) == 2 + chat and all(event["usage"] is None for event in said)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert last["id"] == said[0]["id"]


class Script:
    """Stands in for a Generation: every take() plays the next step."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.timeouts: list[float | None] = []
        self.closed = 0
        self.results = [SimpleNamespace(ids=[]) for _ in range(2)]

    @property
    def done(self) -> bool:
        return not self.steps

    def take(self, timeout: float | None) -> list[Piece]:
        self.timeouts.append(timeout)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def usage(self) -> tuple[int, int, int | None]:
        return 2, 3, None

    def close(self) -> None:
        self.closed += 1


def stream(
    script: Script,
    chat: bool = True,
    include_usage: bool = False,
    echoed: tuple[str, ...] = ("",),
) -> EventStream:
    texts = [Answer(index, echoed=text) for index, text in enumerate(echoed)]
    turn = Turn(script, [Answer(0, Trimmer())] if chat else texts)  # type: ignore[arg-type]
    return EventStream(turn, encoder(chat, include_usage))


def test_echoed_prompts_come_first() -> None:
    one = stream(Script([]), chat=False, echoed=("p0", ""))
    assert next(one) == frames(Text(0, "p0"), chat=False)  # nothing is not echoed


def test_what_waits_goes_out_in_one_write() -> None:
    script = Script(
        [Piece(0, "a", None), Piece(1, "b", None)], [Piece(1, "", "stop"), Piece(0, "c", "length")]
    )
    writes = list(stream(script, chat=False, echoed=("", "")))
    assert writes[0] == b""  # the header
    assert len(writes) == 3
    assert [e["choices"][0]["text"] for e in parse(writes[1])] == ["a", "b"]
    *ends, done = parse(writes[2])
    assert [(e["choices"][0]["index"], e["choices"][0]["finish_reason"]) for e in ends] == [
        (1, "stop"),
        (0, None),
        (0, "length"),
    ]
    assert done == "[DONE]"
    assert script.closed


def test_usage_comes_before_the_end() -> None:
    writes = list(stream(Script([Piece(0, "x", "stop")]), include_usage=True))
    *_, usage, done = parse(b"".join(writes))
    assert usage["usage"]["total_tokens"] == 5 and done == "[DONE]"


def test_pings_only_after_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(event_stream.time, "monotonic", lambda: now[0])

    class Waiting(Script):
        def take(self, timeout: float | None) -> list[Piece]:
            step = super().take(timeout)
            assert timeout is not None
            now[0] += timeout if not step else 4
            return step

    held_back = [Piece(0, "", None)]  # tokens without text yet: nothing to send
    script = Waiting(held_back, [], [], [Piece(0, "x", None)], [], [Piece(0, "", "stop")])
    it = stream(script)
    next(it)
    assert next(it) == b": ping\n\n"
    assert script.timeouts == [15, 11]  # the silence counts, not the wait
    assert next(it) == b": ping\n\n"
    assert b'"x"' in next(it)
    assert next(it) == b": ping\n\n"
    assert parse(next(it))[-1] == "[DONE]"


def test_an_error_in_mid_stream_is_an_event() -> None:
    script = Script([Piece(0, "x", None)], errors.generation_failed("no numbers"), [])
    *_, last = list(stream(script))
    error, done = parse(last)
    assert error["error"]["message"] == "generation failed: no numbers"
    assert error["error"]["type"] == "server_error" and error["detail"]
    assert done == "[DONE]"
    assert script.closed


def test_a_client_that_leaves_cuts_the_body() -> None:
    """StopIteration would end the chunked body as if the answer were whole."""
    it = stream(Script([Piece(0, "x", None)], errors.ClientGone()))
    next(it), next(it)
    with pytest.raises(ConnectionResetError):
        next(it)


def test_close_before_the_first_next() -> None:
    script = Script([])
    stream(script).close()
    assert script.closed == 1


def test_where_a_ping_would_be_heard_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(event_stream.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(OpenAiEncoder, "ping", b"")

    class Waiting(Script):
        def take(self, timeout: float | None) -> list[Piece]:
            now[0] += timeout or 0.0
            return super().take(timeout)

    script = Waiting([], [], [Piece(0, "x", "stop")])
    it = stream(script)
    next(it)
    assert b'"x"' in next(it)
    assert script.timeouts == [15, 15, 15]  # no wait is none
