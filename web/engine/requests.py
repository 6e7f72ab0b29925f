"""What an engine is asked for, as plain values. Schemas parse into them, commands make them; they
know nothing of JSON, nor of an API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

Prompt = str | Sequence[int] | np.ndarray  # text, or ids, of which many are an int32 array

# Of the fields below: what /update-config sets.
CONFIGURABLE = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
    *("frequency_penalty", "penalty_decay", "global_penalty", "state"),
)


class SamplingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is drawn. None: nothing is said, so the model's default holds."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_decay: float | None = None
    global_penalty: bool | None = None
    state: str | None = None  # the file of a tuned state; empty: none
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: dict[int, float] = {}

    def over(self, below: SamplingOptions) -> SamplingOptions:
        """`below`, replaced by what is said here."""
        said = {name: one for name in CONFIGURABLE if (one := getattr(self, name)) is not None}
        return msgspec.structs.replace(below, **said)


class EmbeddingOptions(msgspec.Struct, frozen=True):
    dimensions: int | None = None  # None: the model's width
    fast: bool = False  # of the first layer


class MarkedText(Protocol):
    """A prompt with its places, numbers of characters, ascending."""

    @property
    def text(self) -> str: ...

    @property
    def marks(self) -> tuple[int, ...]:
        """After these, other prompts may go on differently."""

    @property
    def answers(self) -> tuple[tuple[int, int], ...]:
        """Where the model's own texts begin and end, without the blank line that follows. The last
        one is the answer to come, of which there may be nothing yet, or a beginning."""

    @property
    def goes_on(self) -> bool:
        """The last of them is a beginning, which the model continues."""
