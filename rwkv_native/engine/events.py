"""What a request has to say: Event, and its translation from C.

Called by inbox.py. Never waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .._ffi import ffi, lib
from ..model import Model
from ..state import State

FinishReason = Literal["stop", "length", "cancelled", "error"]

_REASONS: dict[int, FinishReason | None] = {
    lib.RWKV_RUNNING: None,
    lib.RWKV_FINISH_STOP: "stop",
    lib.RWKV_FINISH_LENGTH: "length",
    lib.RWKV_FINISH_CANCEL: "cancelled",
    lib.RWKV_FINISH_ERROR: "error",
}


@dataclass(slots=True)
class Event:
    """What one request has to say since its last event."""

    id: int
    text: str
    """Whole characters that can no longer become part of a stop text."""
    token_ids: list[int]
    """Ids drawn since the last event; their text may still be held back."""
    logprobs: list[list[tuple[int, float]]] | None
    """Per token (id, natural logarithm of its probability): the drawn one, then the k most likely
    by the model's own distribution. None unless asked for."""
    finish_reason: FinishReason | None
    """None until the last event of the request."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """So far."""
    cached_tokens: int = 0
    """Of the prompt: were not computed, because the engine knew the state behind them."""
    error: str | None = None
    """The message where finish_reason is "error"."""
    embedding: np.ndarray | None = None
    """float32 [dimensions], of length 1: in the last event of Engine.submit_embedding."""
    state: State | None = None
    """After the answer, in its last event, where submit() was asked to keep it. It has read the
    prompt and the tokens that are whole in the text, but for `unread`; nothing of a stop text."""
    unread: list[int] = field(default_factory=list)
    """The last tokens of the text that `state` has not read, as a rule one: the next prompt begins
    with them."""


def event_of(c: Any, model: Model) -> Event:
    """Copies a rwkv_event, which lives until the next poll; its state is ours from now on."""
    finish = _REASONS[c.finish]
    n = c.n_tokens
    said = ffi.unpack(c.text, c.n_text).decode("utf-8", "replace") if c.n_text else ""
    failed = finish == "error"
    return Event(
        c.id,
        "" if failed else said,
        ffi.unpack(c.tokens, n) if n else [],
        _logprobs(c, n) if c.logprob_width else None,
        finish,
        c.prompt_tokens,
        c.completion_tokens,
        c.cached_tokens,
        said if failed else None,
        np.frombuffer(ffi.buffer(c.embedding, 4 * c.n_embedding), np.float32).copy()
        if c.n_embedding
        else None,
        State._adopt(c.state, model) if c.state else None,
        ffi.unpack(c.unread, c.n_unread) if c.n_unread else [],
    )


def _logprobs(c: Any, n: int) -> list[list[tuple[int, float]]]:
    width = c.logprob_width
    if not n:
        return []
    ids = ffi.unpack(c.logprob_ids, n * width)
    values = ffi.unpack(c.logprobs, n * width)
    pairs = list(zip(ids, values, strict=True))
    return [pairs[i : i + width] for i in range(0, len(pairs), width)]
