"""The engine as users know it: submit, poll, generate, embed.

Owns an engine's options and its life. requests.py says how requests are put to C, inbox.py who gets
their events.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._ffi import check, ffi, id_array, lib
from ..arguments import number, whole_number
from ..errors import InternalError, InvalidError, QueueFull, Stopped
from ..model import Model
from ..sampling import PreparedSampling, Sampling, with_options
from ..state import State
from ..tokenizers import Tokenizer
from . import statistics
from .events import Event
from .generation import Generation
from .inbox import Inbox
from .masks import Mask
from .native_engine import NativeEngine
from .requests import MOST_DIMENSIONS, MOST_GUESSES, Prompt, Request, prompt_ids
from .statistics import CacheStats, EngineStats

_MOST_INT = (1 << 31) - 1
_MOST_BYTES = (1 << 63) - 1


class Engine:
    """Runs many requests on one model. Every method may be called from any thread.

    tokenizer: None for the model's own (Tokenizer.for_model).
    max_batch: answers in one step; an eighth more, and one, may be at work by turns. prefill_chunk:
    prompt tokens in one step at most. max_queue: requests that may wait; more raise QueueFull.
    step_ms: how long a step may last while answers are written; a longer one takes fewer prompt
    tokens, but always what fits into 2.5 steps of these answers and those that wait, and 16. While
    none are written it is 50 ms or four steps of one token, if that is longer. speculate: tokens to
    guess ahead at most, for requests that do not say; see submit(). cache_bytes: memory for states
    of earlier prompts and answers; a prompt that begins like one of them is read from there on, and
    gets the answer it would get anyway. 0: none are kept, as for RWKV-7b always. Use as a context
    manager, or call close().
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None = None,
        max_batch: int = 64,
        prefill_chunk: int = 256,
        max_queue: int = 1024,
        step_ms: float = 20,
        speculate: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        if not isinstance(model, Model):
            raise InvalidError(f"model must be a Model, not {type(model).__name__}")
        if tokenizer is None:
            tokenizer = Tokenizer.for_model(model)
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidError(f"tokenizer must be a Tokenizer, not {type(tokenizer).__name__}")
        options = ffi.new("rwkv_engine_options *")
        options.size = ffi.sizeof("rwkv_engine_options")
        options.max_batch = whole_number("max_batch", max_batch, 1, _MOST_INT)
        options.prefill_chunk = whole_number("prefill_chunk", prefill_chunk, 1, _MOST_INT)
        options.max_queue = whole_number("max_queue", max_queue, 1, _MOST_INT)
        options.step_ms = number("step_ms", step_ms)
        if not 0 < options.step_ms <= 60_000:
            raise InvalidError(f"step_ms must be above 0 and at most 60000, not {step_ms!r:.80}")
        options.speculate = whole_number("speculate", speculate, 0, MOST_GUESSES)
        options.cache_bytes = whole_number("cache_bytes", cache_bytes, 0, _MOST_BYTES)
        self.model = model
        self.tokenizer = tokenizer
        self._end_ids = id_array("end_ids", tokenizer.end_ids)
        self._groups = itertools.count(1 << 63)  # of embed(): far from what a caller would count up
        self._native = NativeEngine(model, tokenizer, options)
        self._inbox = Inbox(self._native, model)

    # -- requests

    def prepare(self, sampling: Sampling) -> PreparedSampling:
        """What submit() takes in the place of `sampling`, at a fraction of the cost where it is
        large: for many prompts with the same options. Raises ValueError that names the field."""
        return PreparedSampling(sampling, self.model.info.vocab, self._end_ids)

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling | PreparedSampling | None = None,
        *,
        state: State | None = None,
        speculate: int | None = None,
        save_at: Iterable[int] = (),
        stream: bool = True,
        n: int = 1,
        keep_state: bool = False,
        mask: Mask | None = None,
        client: int = 0,
        group: int = 0,
        **options: Any,
    ) -> int:
        """Queues a request and returns its id at once; poll() brings its events.

        prompt: text, or at least one id; an int32 array (Tokenizer.encode_array) is the quickest.
        options: fields of Sampling, in place of those of `sampling`: `temperature=0`. Unless one of
        them says otherwise an answer has 4096 tokens at most.
        state: where the prompt continues; None: the zero state.
        speculate: guess up to so many tokens ahead (64 at most), by what followed the last ones
        earlier in prompt and answer, and have the model verify them together. The answer stays the
        same; it comes sooner where text repeats itself (code, lists, quotes of the prompt), and a
        little later where guesses fail. 0: never; None: as the engine was told.
        save_at: ascending numbers of prompt tokens after which other prompts may go on differently,
        such as the end of what many begin with: an engine that keeps states keeps one there, too.
        stream: False brings one event with the first token and one at the end, and wakes nobody in
        between.
        n: answers, 1 to 1024. The prompt is read once, and its state copied for each further one.
        They are `id` to `id + n - 1`, each with its own events, end and cancel(), and draw with the
        seeds `seed` to `seed + n - 1`: each is what a request with its seed alone would be told.
        keep_state: the last event of an answer has the state after it (Event.state). Not for
        RWKV-7b.
        mask: called before each draw with the ids drawn so far; returns which may come next: bool
        [vocab], or a bit per id, the lowest first, as uint8 or uint64; None: all. This is the
        simple form: it runs on the engine's thread, with Python's lock, while all requests of the
        step wait for it. It must be quick, and must not call the engine. What it raises ends the
        request with that error. Nothing is guessed beside it.
        client, group: numbers below 2^64 that say whose turn it is. Slots and prompts go round by
        client, and for each client by group: requests that came together. So many of them, or many
        of one client, do not hold up the others. group 0: this request alone.
        Raises QueueFull, ValueError that names the field, or TypeError for an unknown option.
        """
        if n != 1 and group == 0:
            group = next(self._groups)  # they came together
        request = self._request(
            prompt, sampling, options, state, speculate, save_at, keep_state, mask, client, group
        )
        request.c.quiet = not stream
        request.answers(n)
        return self._inbox.submit(request)

    def submit_embedding(
        self,
        prompt: Prompt,
        dimensions: int | None = None,
        *,
        fast: bool = False,
        client: int = 0,
        group: int = 0,
    ) -> int:
        """Queues a text to be embedded and returns its id at once; its last event has the vector.

        prompt: as of submit(). dimensions: 1 to 4096; None: the model's width, if that is no more.
        fast: take the first layer's memory, which costs a fraction and finds less; such vectors are
        compared with their like only. The vector is a function of the tokens, the model and these;
        docs/embeddings.md says which. client, group: as of submit(); texts hold at most half of the
        slots while chats wait. Raises QueueFull, or ValueError that names the field.
        """
        return self._inbox.submit(self._text(prompt, dimensions, fast, client, group))

    def embed(
        self,
        texts: Sequence[Prompt],
        dimensions: int | None = None,
        *,
        fast: bool = False,
    ) -> np.ndarray:
        """float32 [texts, dimensions]: one vector of length 1 for each text; waits for them.

        Their products are cosines: `vectors @ vectors.T`. Arguments and errors as of
        submit_embedding(), except that a full queue is waited for.
        """
        if isinstance(texts, (str, bytes)):
            raise InvalidError("texts must be a list of texts, not one text")
        vectors = np.empty((len(texts), self._dimensions(dimensions)), np.float32)
        readers: deque[Generation] = deque()
        taken = 0
        group = next(self._groups)
        with contextlib.ExitStack() as ends:
            for text in texts:
                request = self._text(text, dimensions, fast, 0, group)
                while True:
                    try:
                        reader = self._start(request)
                        break
                    except QueueFull:
                        if not readers:
                            raise
                    vectors[taken] = _vector(readers.popleft())
                    taken += 1
                readers.append(ends.enter_context(reader))
            for reader in readers:
                vectors[taken] = _vector(reader)
                taken += 1
        return vectors

    def submit_score(
        self,
        prompt: Prompt,
        *,
        state: State | None = None,
        top: int = 0,
        client: int = 0,
        group: int = 0,
    ) -> int:
        """Queues a text whose tokens are to be scored and returns its id at once.

        Its one event has the prompt's token_ids from the second on, and their logprobs: the token's
        own, then the `top` (20 at most) most likely in its place. prompt, state, client, group and
        errors: as of submit().
        """
        return self._inbox.submit(self._score(prompt, state, top, client, group))

    def score(self, prompt: Prompt, *, state: State | None = None) -> np.ndarray:
        """float32 [tokens]: the natural logarithm of each token's probability after those before
        it, by the model's own distribution; NaN for the first. Waits for it.

        Their sum, from the second on, is how likely the text is; exp(-mean) is its perplexity.
        prompt, state and errors: as of submit().
        """
        request = self._score(prompt, state, 0, 0, 0)
        scores = np.full(request.c.n_tokens, np.nan, np.float32)
        with self._start(request) as reader:
            for event in reader:
                if event.finish_reason == "stop" and event.logprobs is not None:
                    scores[1:] = [row[0][1] for row in event.logprobs]
                    return scores
                _raise(event)
        raise Stopped("the request was closed")

    def _score(
        self, prompt: Prompt, state: State | None, top: int, client: int, group: int
    ) -> Request:
        request = Request(self._ids(prompt), client, group)
        request.score(top)
        request.start_at(state)
        return request

    def _text(
        self, prompt: Prompt, dimensions: int | None, fast: bool, client: int, group: int
    ) -> Request:
        """A request for an embedding."""
        request = Request(self._ids(prompt), client, group)
        request.embed(self._dimensions(dimensions), fast)
        return request

    def _dimensions(self, asked: int | None) -> int:
        if asked is None:
            return min(self.model.info.width, MOST_DIMENSIONS)
        return whole_number("dimensions", asked, 1, MOST_DIMENSIONS)

    def _ids(self, prompt: Prompt) -> Any:
        return prompt_ids(prompt, self.tokenizer, self.model.info.vocab)

    def _request(
        self,
        prompt: Prompt,
        sampling: Sampling | PreparedSampling | None,
        options: dict[str, Any],
        state: State | None,
        speculate: int | None,
        save_at: Iterable[int],
        keep_state: bool,
        mask: Mask | None,
        client: int,
        group: int,
    ) -> Request:
        """A request for an answer."""
        chosen = with_options(sampling, options)
        form = chosen if isinstance(chosen, PreparedSampling) else self.prepare(chosen)
        if form.vocab != self.model.info.vocab:
            raise InvalidError("sampling was prepared by the engine of another model")
        request = Request(self._ids(prompt), client, group)
        request.draw(form)
        request.start_at(state)
        request.guess(speculate)
        request.keep_states(save_at)
        request.allow(mask, form.vocab)
        request.c.keep_state = bool(keep_state)
        return request

    def cancel(self, id: int) -> None:
        """Ends a request before the next step, in every phase; its last event says "cancelled".

        Ids that are unknown or have ended are ignored.
        """
        try:
            number = operator.index(id)
        except TypeError:
            raise InvalidError(f"id must be a request's number, not {id!r:.80}") from None
        if 0 < number < 1 << 64:
            with contextlib.suppress(Stopped), self._native as handle:
                check(lib.rwkv_engine_cancel(handle, number))

    def generate(
        self,
        prompt: Prompt,
        sampling: Sampling | PreparedSampling | None = None,
        *,
        state: State | None = None,
        speculate: int | None = None,
        save_at: Iterable[int] = (),
        keep_state: bool = False,
        mask: Mask | None = None,
        client: int = 0,
        group: int = 0,
        **options: Any,
    ) -> Generation:
        """Queues a request and returns an iterator over its events, which waits for them.

        `async for` waits without holding up the other tasks of an asyncio loop. Ending the
        iteration early (close(), `with`, or dropping it) cancels the request. Several
        iterators and poll() may be in use at once, from any threads; poll() does not see the
        events of iterators. keep_state: see Generation.state. Arguments and errors as of submit().
        """
        return self._start(
            self._request(
                *(prompt, sampling, options, state, speculate, save_at, keep_state, mask),
                *(client, group),
            )
        )

    def _start(self, request: Request) -> Generation:
        return Generation(self._inbox, *self._inbox.submit_read(request))

    # -- events

    def fileno(self) -> int:
        """A descriptor that is readable when poll() may have events; poll() clears it."""
        with self._native:
            return self._native.bell.watcher

    def poll(self) -> list[Event]:
        """The events of all requests since the last poll; does not wait."""
        return self._inbox.poll()

    # -- the engine itself

    def stats(self) -> EngineStats:
        """Counts at this moment."""
        with self._native as handle:
            return statistics.engine_stats(handle)

    def cache_stats(self) -> CacheStats:
        """What is kept at this moment, and how much it was of use."""
        with self._native as handle:
            return statistics.cache_stats(handle)

    def resize_cache(self, cache_bytes: int) -> None:
        """Another limit for what is kept, before the next step; 0: nothing."""
        size = whole_number("cache_bytes", cache_bytes, 0, _MOST_BYTES)
        with self._native as handle:
            check(lib.rwkv_cache_resize(handle, size))

    def clear_cache(self) -> None:
        """Forgets all that is kept, before the next step; requests at work go on."""
        with self._native as handle:
            check(lib.rwkv_cache_clear(handle))

    def close(self) -> None:
        """Ends the native thread after the step in progress; requests end without a last event.

        Iterators raise Stopped. May be called from a signal handler, and after a fork: the child
        lets go of what is its parent's.
        """
        self._native.close()

    def __repr__(self) -> str:
        name = Path(self.model.info.path).name
        try:
            now = self.stats()
        except Stopped:
            return f"<rwkv_native.Engine on {name}: closed>"
        at_work = now.prefilling + now.running
        return f"<rwkv_native.Engine on {name}: {at_work} at work, {now.waiting} waiting>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an Engine can be neither pickled nor copied; make one in each process, of a model that"
            " is opened there"
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _vector(reader: Generation) -> np.ndarray:
    """Waits for the end of one text. Raises Stopped or InternalError where it has no vector."""
    for event in reader:
        if event.embedding is not None:
            return event.embedding
        _raise(event)
    raise Stopped("the request was closed")


def _raise(event: Event) -> None:
    """For whoever waits for a result that an event without one has ended."""
    if event.finish_reason == "cancelled":
        raise Stopped("the request was cancelled")
    raise InternalError(event.error or "there is no result")
