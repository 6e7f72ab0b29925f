"""Frames of a stream, and the iterator that writes them: order, one write for what waits, pings,
errors in mid-stream, a client that leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from web import errors
from web.dialects import event_stream
from web.dialects.event_stream import EventStream, Frames
from web.engine.generation import Piece


def frames(chat: bool = True, choices: int = 1, include_usage: bool = False) -> Frames:
    return Frames(
        chat=chat,
        id='id-"1"',
        created=7,
        fingerprint="fp_1",
        model="mödel",
        choices=choices,
        include_usage=include_usage,
    )


def parse(raw: bytes) -> list[Any]:
    assert raw.endswith(b"\n\n") and b"\r" not in raw
    blocks = raw.decode().split("\n\n")[:-1]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def chunk(choice: dict[str, Any], kind: str = "chat.completion.chunk") -> dict[str, Any]:
    model = {"model": "mödel", "system_fingerprint": "fp_1"}
    return {"id": 'id-"1"', "object": kind, "created": 7, **model, "choices": [choice]}


def choice(index: int, reason: str | None, **body: Any) -> dict[str, Any]:
    return {"index": index, **body, "logprobs": None, "finish_reason": reason}


NASTY = 'a"b\\c\n\n\r\n\x00\x7f\u2028é😀</script>data: x'


def test_chat_frames() -> None:
    f = frames()
    role = {"role": "assistant", "content": ""}
    assert parse(f.opening()) == [chunk(choice(0, None, delta=role))]
    assert parse(f.text(0, NASTY)) == [chunk(choice(0, None, delta={"content": NASTY}))]
    assert parse(f.end(0, "length")) == [chunk(choice(0, "length", delta={}))]


def test_completion_frames() -> None:
    f = frames(chat=False, choices=12)
    assert f.opening() == b""
    kind = "text_completion"
    assert parse(f.text(11, NASTY)) == [chunk(choice(11, None, text=NASTY), kind)]
    assert parse(f.end(3, "stop")) == [chunk(choice(3, "stop", text=""), kind)]


@pytest.mark.parametrize("chat", [True, False])
def test_usage_frames(chat: bool) -> None:
    f = frames(chat, include_usage=True)
    for raw in (f.opening(), f.text(0, "x"), f.end(0, "stop")):
        assert all(event["usage"] is None for event in (parse(raw) if raw else []))
    (last,) = parse(f.usage(3, 4))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert last["id"] == 'id-"1"'


class Script:
    """Stands in for a Generation: every take() plays the next step."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.timeouts: list[float] = []
        self.closed = 0

    @property
    def done(self) -> bool:
        return not self.steps

    def take(self, timeout: float) -> list[Piece]:
        self.timeouts.append(timeout)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def usage(self) -> tuple[int, int]:
        return 2, 3

    def close(self) -> None:
        self.closed += 1


def stream(script: Script, include_usage: bool = False, **options: Any) -> EventStream:
    return EventStream(script, frames(include_usage=include_usage, **options), include_usage)  # type: ignore[arg-type]


def test_echoed_prompts_come_first() -> None:
    one = EventStream(Script([]), frames(chat=False), False, ["p0", ""])  # type: ignore[arg-type]
    assert next(one) == frames(chat=False).text(0, "p0")  # nothing is not echoed


def test_what_waits_goes_out_in_one_write() -> None:
    script = Script(
        [Piece(0, "a", None), Piece(1, "b", None)], [Piece(1, "", "stop"), Piece(0, "c", "length")]
    )
    writes = list(stream(script, chat=False, choices=2))
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
        def take(self, timeout: float) -> list[Piece]:
            step = super().take(timeout)
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
