"""The seam to an engine, wherever it runs: what everything above it may ask of one.

Today's form is in this process (`in_process.py` and `bridge.py`); a second one, in a process of its
own, would take these calls over a socket. So nothing here hands out a handle: requests are numbers,
states are references (`StateRef`), models are what is said about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import rwkv_native as rn
from web.engine.mailbox import Mailbox
from web.engine.model_loading import Choice
from web.engine.requests import EmbeddingOptions, Prompt


@dataclass(frozen=True, slots=True)
class StateRef:
    """A state by what it is, so that any engine of the same model can find it."""

    model: str  # `web/engine/fingerprint.py`
    content: str  # the digest of its numbers, in hex


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests now, and tokens so far."""

    running: int = 0  # in a slot: prefilling or decoding
    waiting: int = 0  # in the queue
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.running + other.running,
            self.waiting + other.waiting,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class States(Protocol):
    """The states that an engine's answers may start from."""

    def open(self, path: Path) -> StateRef:
        """The tuned state in a file. 400 for one that does not fit, in RWKV Runner's words."""
        ...

    def forget(self) -> None:
        """Gives back the memory of what can be read again."""
        ...


class EngineClient(Protocol):
    """One model in one engine. Every call is made in the hub and returns at once, unless it says
    that it waits; events arrive in the mailbox that a request was submitted with."""

    @property
    def states(self) -> States: ...

    @property
    def alive(self) -> bool:
        """Whether events still come: not after close(), nor when the engine has failed."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the engine has; no request is ever answered then."""
        ...

    @property
    def busy(self) -> bool:
        """Whether any request is at work."""
        ...

    def prepare(self, sampling: rn.Sampling) -> rn.PreparedSampling:
        """Checked once, for many prompts; ValueError for what the engine refuses. May be called
        from a thread."""
        ...

    def submit(
        self,
        prompt: Prompt,
        wanted: rn.Sampling | rn.PreparedSampling | EmbeddingOptions,
        mailbox: Mailbox,
        start: StateRef | None = None,
        stream: bool = True,
        save_at: Sequence[int] = (),
    ) -> int:
        """Queues one prompt, to be continued or embedded, and returns its number. Waits only where
        the state `start` has to be read again. Raises rn.QueueFull, rn.Stopped, ValueError for what
        is wrong with the prompt, and a Refusal for a state that is gone."""
        ...

    def cancel(self, id: int) -> None:
        """Frees the slot of a request whose events nobody reads any more."""
        ...

    def reject(self) -> None:
        """Counts a request for which there was no room."""
        ...

    def counts(self) -> Counts: ...

    def cache(self) -> rn.CacheStats:
        """Of the prefix cache."""
        ...

    def keep_states(self, on: bool) -> None:
        """An empty prefix cache of the configured size, or none."""
        ...

    def clear_cache(self) -> None: ...

    def detach(self) -> None:
        """Requests at work see an error; the engine can then be ended from any thread."""
        ...

    def end(self) -> None:
        """Gives the memory back. Takes a while, so it may be called from a thread, once it is
        detached."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that can answer."""

    info: rn.ModelInfo
    tokenizer: rn.Tokenizer
    engine: EngineClient


class Load(Protocol):
    """A load in progress."""

    @property
    def finished(self) -> bool: ...

    @property
    def progress(self) -> tuple[int, int]:
        """(bytes that are converted, bytes in all)"""
        ...

    def result(self) -> Loaded:
        """Of a load that has finished. Raises what has gone wrong. Waits for the tokenizer."""
        ...

    def cancel(self) -> None:
        """Any number of times."""
        ...


class Loader(Protocol):
    """Where models are loaded, and engines made."""

    def begin(self, choice: Choice) -> Load:
        """Raises what the strategy and the file's index alone show to be wrong. Reads them: call it
        in a thread."""
        ...
