"""Requests as C takes them.

Owns the translation and the checks of what a caller asks for; sampling.py has those of how tokens
are drawn. Called by engine.py. Never submits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._ffi import ffi, id_array, lib
from ..arguments import whole_number
from ..errors import InvalidError
from ..sampling import PreparedSampling, seed_of
from ..state import State
from ..tokenizers import Tokenizer
from .masks import Mask, MaskCall

Prompt = str | Sequence[int] | np.ndarray
MOST_DIMENSIONS = 4096  # of an embedding
MOST_GUESSES = 64
MOST_ANSWERS = 1024


class Request:
    """A rwkv_request, and what it points to: C copies both when it is submitted."""

    __slots__ = ("_keep", "c", "mask")

    def __init__(self, ids: Any, client: int, group: int) -> None:
        self.c = ffi.new("rwkv_request *")
        lib.rwkv_request_init(self.c)
        self.c.tokens, self.c.n_tokens = ids, len(ids)
        self.c.n = 1
        self.c.client = whole_number("client", client, 0, (1 << 64) - 1)
        self.c.group = whole_number("group", group, 0, (1 << 64) - 1)
        self.mask: MaskCall | None = None
        self._keep: list[Any] = [ids]

    def embed(self, dimensions: int, fast: bool) -> None:
        """Asks for an embedding and no answer."""
        self.c.dimensions = dimensions
        self.c.quick = bool(fast)

    def score(self, top: int) -> None:
        """Asks for the log-probabilities of the prompt's tokens, and no answer."""
        self.c.score = 1
        self.c.sampling.logprobs = whole_number("top", top, 0, 20)

    def draw(self, form: PreparedSampling) -> None:
        """How the answer is drawn, and what ends it."""
        c = self.c
        c.sampling = form.c[0]
        c.sampling.seed = seed_of(form.sampling)  # None is another one each time
        c.max_tokens = form.max_tokens
        self._keep.append(form)
        if form.stops:
            texts = [ffi.from_buffer("char[]", t) for t in form.stops]
            pointers = ffi.new("char *[]", texts)
            sizes = ffi.new("size_t[]", [len(t) for t in texts])
            self._keep += [texts, pointers, sizes]
            c.stops, c.stop_sizes, c.n_stops = pointers, sizes, len(texts)
        c.stop_ids, c.n_stop_ids = form.stop_ids, len(form.stop_ids)
        c.end_ids, c.n_end_ids = form.end_ids, len(form.end_ids)

    def answers(self, n: int) -> None:
        """How many."""
        self.c.n = whole_number("n", n, 1, MOST_ANSWERS)

    def allow(self, mask: Mask | None, vocab: int) -> None:
        """What may be drawn next."""
        if mask is not None:
            self.mask = MaskCall(mask, vocab)
            self.c.mask, self.c.mask_payload = lib.rn_mask, self.mask.handle

    def start_at(self, state: State | None) -> None:
        """What the prompt goes on from."""
        if state is None:
            return
        if not isinstance(state, State):
            raise InvalidError(f"state must be a State, not {type(state).__name__}")
        self.c.state = state._handle
        self._keep.append(state)

    def guess(self, speculate: int | None) -> None:
        if speculate is not None:
            self.c.speculate = whole_number("speculate", speculate, 0, MOST_GUESSES)

    def keep_states(self, save_at: Iterable[int]) -> None:
        """Numbers of prompt tokens after which the cache keeps a state."""
        at = ffi.new("int64_t[]", list(id_array("save_at", save_at)))
        self._keep.append(at)
        self.c.save_at, self.c.n_save_at = at, len(at)


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, vocab: int) -> Any:
    """`int32_t[]` of a text or of ids, at least one of which there must be."""
    if isinstance(prompt, str):
        prompt = tokenizer.encode_array(prompt)
    elif isinstance(prompt, list | tuple) and prompt and not hasattr(prompt[0], "__index__"):
        raise InvalidError(
            "prompt must be one text or one list of token ids, not a list of"
            f" {type(prompt[0]).__name__}; give each prompt a call of its own"
        )
    ids = id_array("prompt", prompt, vocab)
    if not len(ids):
        raise InvalidError("prompt is empty; give at least one token")
    return ids
