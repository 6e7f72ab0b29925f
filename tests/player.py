"""The real application, in this process, over an engine that plays a text: no small model calls
functions, so what clients make of calls is shown with answers that are scripted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

import rwkv_native as rn
from web.admission import Admission
from web.app import Application, create_app
from web.config import Config
from web.engine.families import WORLD
from web.engine.known_answers import KnownAnswers
from web.engine.model_host import Runtime
from web.engine.serving import Limits, Serving

TOKENIZER = rn.Tokenizer.world_bytes()
CALL = ' get_weather\n```python\ntool_call("location"="Paris", "days"="3")\n```'
SECOND = '\nget_weather\n```python\ntool_call("location"="Rome")\n```'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]


class Player:
    """A bridge whose engine says `text`, three letters at a time, and keeps its prompts."""

    def __init__(self) -> None:
        self.text = ""
        self.prompts: list[str] = []

    def submit(self, prompt: Any, sampling: rn.Sampling, mailbox: Any, *_: Any) -> int:
        self.prompts.append(prompt if isinstance(prompt, str) else TOKENIZER.decode(prompt))
        parts = [self.text[i : i + 3] for i in range(0, len(self.text), 3)]
        for number, part in enumerate([*parts, ""], 1):
            reason = "stop" if number > len(parts) else None
            mailbox.put(rn.Event(1, part, [], None, reason, 5, number))
        return 1

    def cancel(self, id: int) -> None:
        pass

    def reject(self) -> None:
        pass

    def prepare(self, sampling: rn.Sampling) -> rn.Sampling:
        return sampling


# Which prompt of a request says what, and why it ends if it does.
Step = tuple[int, str, str | None]


class Script(Player):
    """A bridge whose engine plays a list of steps. What is in one list is there at once; the next
    comes when it has been read."""

    def plays(self, prompts: int, *steps: Sequence[Step]) -> None:
        """From the next request on, which has so many prompts."""
        self._count, self._steps = prompts, steps
        self.prompts.clear()

    def submit(self, prompt: Any, sampling: rn.Sampling, mailbox: Any, *_: Any) -> int:
        self.prompts.append(prompt if isinstance(prompt, str) else TOKENIZER.decode(prompt))
        if len(self.prompts) == self._count:
            gevent.spawn(self._play, mailbox)
        return len(self.prompts)

    def _play(self, mailbox: Any) -> None:
        said = [0] * self._count
        for steps in self._steps:
            for index, text, reason in steps:
                said[index] += 1
                problem = text if reason == "error" else None
                text = "" if problem else text
                mailbox.put(
                    rn.Event(index + 1, text, [], None, reason, 5, said[index], 2, error=problem)
                )
            while mailbox._events and not mailbox.gone:
                gevent.sleep(0)


def application(player: Player, patch: pytest.MonkeyPatch) -> Application:
    """The application whose every answer is the player's."""
    config = Config(model="none")
    runtime = Runtime(config)
    hangups = SimpleNamespace(watch=lambda *_: None, unwatch=lambda *_: None)
    parts: dict[str, Any] = dict.fromkeys(Serving.__dataclass_fields__)
    parts |= {"name": "m", "persona": WORLD, "engine": player, "hangups": hangups}
    parts |= {"tokenizer": TOKENIZER, "known": KnownAnswers(TOKENIZER)}
    parts |= {"info": SimpleNamespace(strategy="", state_type="", isa="")}
    parts |= {"limits": Limits(1 << 20), "admission": Admission(64, 1 << 30), "window": 4}
    patch.setattr(runtime, "serving", lambda: Serving(**parts))
    return create_app(runtime, config)
