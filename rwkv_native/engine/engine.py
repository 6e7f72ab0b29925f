"""The engine: many requests at once, batched by one native thread.

Owns the doorbell (two eventfds that C rings), the routing of events to their readers, and the
translation of requests and events. Submit, poll and cancel never block; generate() waits for its
own request only. Never knows about HTTP, gevent or chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import operator
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._ffi import check, ffi, id_array, lib
from ..errors import Error, InternalError, InvalidError, QueueFull, Stopped
from ..model import Model
from ..sampling import PreparedSampling, Sampling, seed_of, with_options
from ..state import State
from ..tokenizers import Tokenizer

FinishReason = Literal["stop", "length", "cancelled", "error"]

_FINISH: dict[int, FinishReason | None] = {
    lib.RWKV_RUNNING: None,
    lib.RWKV_FINISH_STOP: "stop",
    lib.RWKV_FINISH_LENGTH: "length",
    lib.RWKV_FINISH_CANCEL: "cancelled",
    lib.RWKV_FINISH_ERROR: "error",
}
MOST_DIMENSIONS = 4096  # of an embedding


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


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Requests now (waiting, prefilling, running) and counts since the engine was made."""

    waiting: int
    prefilling: int
    running: int
    submitted: int
    finished: int
    cancelled: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    guessed_tokens: int
    accepted_tokens: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What an engine keeps now (limit and size in bytes, states) and counts since it was made."""

    limit: int
    bytes: int
    entries: int
    hits: int
    """Requests that found a beginning of their prompt."""
    misses: int
    asked_tokens: int
    """Of the prompts of both."""
    cached_tokens: int
    """Of these: were not computed."""
    saved: int
    """States."""
    evicted: int
    reworded: int
    """Requests whose text went on where a state was kept, but in other tokens."""


class Engine:
    """Runs many requests on one model. Every method may be called from any thread.

    tokenizer: None for the model's own (Tokenizer.for_model).
    max_batch: answers in one step; an eighth more, and one, may be at work by turns. prefill_chunk:
    prompt tokens in one step at most. max_queue: requests that may wait; more raise QueueFull.
    step_ms: how long a step may last while answers are written; a longer one takes fewer prompt
    tokens, but always what fits into 2.5 steps of these answers and those that wait, and 16. While
    none are written it is 50 ms or four steps of one token, if that is longer. speculate: tokens to
    guess ahead at most, for requests that do not say; see submit(). cache_bytes: memory for states
    of earlier prompts and
    answers; a prompt that begins like one of them is read from there on, and gets the answer it
    would get anyway. 0: none are kept, as for RWKV-7b always. Use as a context manager, or call
    close().
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
        for name, value in (
            ("max_batch", max_batch),
            ("prefill_chunk", prefill_chunk),
            ("max_queue", max_queue),
        ):
            try:
                number = 0 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = 0
            if not 1 <= number < 1 << 31:
                raise InvalidError(f"{name} must be a whole number from 1 up, not {value!r:.80}")
            setattr(options, name, number)
        options.step_ms = _milliseconds(step_ms)
        options.speculate = _guesses(speculate)
        options.cache_bytes = _size(cache_bytes)
        self.model = model
        self.tokenizer = tokenizer
        self._end_ids = id_array("end_ids", tokenizer.end_ids)
        self._groups = itertools.count(1 << 63)  # of embed(): far from what a caller would count up
        # All under the lock of _native.
        self._owned: dict[int, deque[Event]] = {}  # of Generations, by request
        self._abandoned: set[int] = set()  # dropped Generations whose last event is still to come
        self._loose: list[Event] = []  # for poll()
        self._draining = False
        # Tasks of asyncio that wait for an event, by request; and what a thread that waits for them
        # is told when one has been woken.
        self._sleepers: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = {}
        self._woken: deque[None] = deque()
        self._has_waker = False
        self._native = _Native(model, tokenizer, options)
        # Also ends the native thread at interpreter exit, before the bell's memory goes. Threads
        # that are still at work then find it closed.
        weakref.finalize(self, self._native.close, wait=False)

    # -- requests

    def prepare(self, sampling: Sampling) -> PreparedSampling:
        """What submit() takes in the place of `sampling`, at a fraction of the cost where it is
        large: for many prompts with the same options. Raises ValueError that names the field."""
        return PreparedSampling(sampling, self.model.info.vocab, self._end_ids)

    def submit(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        sampling: Sampling | PreparedSampling | None = None,
        *,
        state: State | None = None,
        speculate: int | None = None,
        save_at: Iterable[int] = (),
        stream: bool = True,
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
        client, group: numbers below 2^64 that say whose turn it is. Slots and prompts go round by
        client, and for each client by group: requests that came together. So many of them, or many
        of one client, do not hold up the others. group 0: this request alone.
        Raises QueueFull, ValueError that names the field, or TypeError for an unknown option.
        """
        chosen = with_options(sampling, options)
        request, _keep = self._request(prompt, chosen, state, speculate, save_at)
        request.quiet = not stream
        _set_turn(request, client, group)
        with self._native as handle:
            return _submit(handle, request)

    def submit_embedding(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        dimensions: int | None = None,
        *,
        fast: bool = False,
        client: int = 0,
        group: int = 0,
    ) -> int:
        """Queues a text to be embedded and returns its id at once; its last event has the vector.

        prompt: as of submit(). dimensions: 1 to 4096; None: the model's width, if
        that is no more. fast: take the first
        layer's memory, which costs a fraction and finds less; such vectors are compared with their
        like only. The vector is a function of the tokens, the model and these; docs/embeddings.md
        says which. client, group: as of submit(); texts hold at most half of the slots while chats
        wait. Raises QueueFull, or ValueError that names the field.
        """
        request, _keep = self._embedding_request(prompt, dimensions, fast)
        _set_turn(request, client, group)
        with self._native as handle:
            return _submit(handle, request)

    def embed(
        self,
        texts: Sequence[str | Sequence[int] | np.ndarray],
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
                request, _keep = self._embedding_request(text, dimensions, fast)
                _set_turn(request, 0, group)
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

    def _embedding_request(
        self, prompt: str | Sequence[int] | np.ndarray, dimensions: int | None, fast: bool
    ) -> tuple[Any, Any]:
        """The C form, and what must live until it has been submitted."""
        request = ffi.new("rwkv_request *")
        lib.rwkv_request_init(request)
        ids = self._ids(prompt)
        request.tokens, request.n_tokens = ids, len(ids)
        request.dimensions = self._dimensions(dimensions)
        request.quick = bool(fast)
        return request, ids

    def _dimensions(self, asked: int | None) -> int:
        if asked is None:
            return min(self.model.info.width, MOST_DIMENSIONS)
        number = _whole("dimensions", asked)
        if not 1 <= number <= MOST_DIMENSIONS:
            raise InvalidError(f"dimensions must be 1 to {MOST_DIMENSIONS}, not {number}")
        return number

    def _ids(self, prompt: str | Sequence[int] | np.ndarray) -> Any:
        """`int32_t[]` of a text or of ids, at least one of which there must be."""
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode_array(prompt)
        elif isinstance(prompt, list | tuple) and prompt and not hasattr(prompt[0], "__index__"):
            raise InvalidError(
                "prompt must be one text or one list of token ids, not a list of"
                f" {type(prompt[0]).__name__}; give each prompt a call of its own"
            )
        ids = id_array("prompt", prompt, self.model.info.vocab)
        if not len(ids):
            raise InvalidError("prompt is empty; give at least one token")
        return ids

    def _request(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        sampling: Sampling | PreparedSampling,
        state: State | None,
        speculate: int | None,
        save_at: Iterable[int],
    ) -> tuple[Any, list[Any]]:
        """The C form, and what must live until it has been submitted."""
        form = sampling if isinstance(sampling, PreparedSampling) else self.prepare(sampling)
        if form.vocab != self.model.info.vocab:
            raise InvalidError("sampling was prepared by the engine of another model")
        request = ffi.new("rwkv_request *")
        lib.rwkv_request_init(request)
        request.sampling = form.c[0]
        request.sampling.seed = seed_of(form.sampling)  # None is another one each time
        ids = self._ids(prompt)
        request.tokens, request.n_tokens = ids, len(ids)
        request.max_tokens = form.max_tokens
        keep: list[Any] = [ids, form]
        if form.stops:
            texts = [ffi.from_buffer("char[]", t) for t in form.stops]
            pointers = ffi.new("char *[]", texts)
            sizes = ffi.new("size_t[]", [len(t) for t in texts])
            keep += [texts, pointers, sizes]
            request.stops, request.stop_sizes, request.n_stops = pointers, sizes, len(texts)
        request.stop_ids, request.n_stop_ids = form.stop_ids, len(form.stop_ids)
        request.end_ids, request.n_end_ids = form.end_ids, len(form.end_ids)
        if state is not None:
            if not isinstance(state, State):
                raise InvalidError(f"state must be a State, not {type(state).__name__}")
            request.state = state._handle
            keep.append(state)
        if speculate is not None:
            request.speculate = _guesses(speculate)
        marks = id_array("save_at", save_at)
        at = ffi.new("int64_t[]", list(marks))
        keep.append(at)
        request.save_at, request.n_save_at = at, len(at)
        return request, keep

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
        prompt: str | Sequence[int] | np.ndarray,
        sampling: Sampling | PreparedSampling | None = None,
        *,
        state: State | None = None,
        speculate: int | None = None,
        save_at: Iterable[int] = (),
        client: int = 0,
        group: int = 0,
        **options: Any,
    ) -> Generation:
        """Queues a request and returns an iterator over its events, which waits for them.

        `async for` waits without holding up the other tasks of an asyncio loop. Ending the
        iteration early (close(), `with`, or dropping it) cancels the request. Several
        iterators and poll() may be in use at once, from any threads; poll() does not see the
        events of iterators. Arguments and errors as of submit().
        """
        chosen = with_options(sampling, options)
        request, _keep = self._request(prompt, chosen, state, speculate, save_at)
        _set_turn(request, client, group)
        return self._start(request)

    def _start(self, request: Any) -> Generation:
        with self._native as handle:
            outer, self._draining = self._draining, True
            try:
                id = _submit(handle, request)
                # Nobody can take the first event before its reader is known: no other thread,
                # because of the lock, and no signal handler, which is told that we drain.
                events = self._owned[id] = deque()
            finally:
                self._draining = outer
        return Generation(self, id, events)

    # -- events

    def fileno(self) -> int:
        """A descriptor that is readable when poll() may have events; poll() clears it."""
        with self._native:
            return self._native.bell.watcher

    def poll(self) -> list[Event]:
        """The events of all requests since the last poll; does not wait."""
        native = self._native
        with native:
            # Cleared first: a ring for what comes after the C poll must stay heard.
            _clear(native.bell.watcher)
            if self._drain():
                # A Generation may be watching the bell for events that are now in its queue.
                os.eventfd_write(native.bell.iterators, 1)
                native.changed.notify_all()
            events, self._loose = self._loose, []
            return events

    def _drain(self) -> bool:
        """Moves all events from C to their readers. True if a Generation got one."""
        with self._native as handle:
            if self._draining:  # by what this signal handler or __del__ interrupts: leave it to it
                lib.rn_ring(self._native.bell)
                return False
            self._draining = True
            try:
                events, n = ffi.new("const rwkv_event **"), ffi.new("size_t *")
                check(lib.rwkv_engine_poll(events, n, handle))
                routed = False
                for c in ffi.unpack(events[0], n[0]) if n[0] else ():
                    routed |= self._route(c)
                return routed
            finally:
                self._draining = False

    def _route(self, c: Any) -> bool:
        """Gives an event to its reader. True if that is a Generation."""
        event = _event(c)
        queue = self._owned.get(event.id)
        if queue is not None:
            queue.append(event)
            self._wake(event.id)
            return True
        if event.id not in self._abandoned:
            self._loose.append(event)
        elif event.finish_reason is not None:
            self._abandoned.discard(event.id)
        return False

    def _wait(self, queue: deque[Event]) -> Event:
        """The next event of a Generation. One waiting thread watches the bell for all."""
        native, me = self._native, threading.get_ident()
        native.check_process()
        with native.changed:
            while not queue:
                native.check_open()
                if self._draining:
                    raise InvalidError("a signal handler cannot wait for the engine it interrupts")
                if native.leader not in (None, me):
                    native.pause()
                    continue
                outer, native.leader = native.leader, me
                try:
                    self._lead(queue)
                finally:
                    native.leader = outer
                    if outer is not None:  # this is a signal handler, and the bell has been cleared
                        os.eventfd_write(native.bell.iterators, 1)
                    native.free()
                    native.changed.notify_all()
            return queue.popleft()

    def _lead(self, queue: deque[Event]) -> None:
        """Watches the bell, with the lock given back, until this queue has an event."""
        native = self._native
        bell = native.bell
        watch = select.poll()
        watch.register(bell.iterators, select.POLLIN)
        while True:
            _clear(bell.iterators)
            _clear(bell.watcher)
            if self._drain():
                native.changed.notify_all()
            if self._loose:
                # Whoever watches fileno() still has to hear of these.
                os.eventfd_write(bell.watcher, 1)
            if queue:
                return
            native.changed.release()
            try:
                watch.poll()
            finally:
                native.changed.acquire()

    async def _wait_async(self, id: int, queue: deque[Event]) -> Event:
        """As _wait(), for a task. One thread waits for the tasks of all loops."""
        loop, native = asyncio.get_running_loop(), self._native
        native.check_process()
        while True:
            with native.changed:
                if queue:
                    return queue.popleft()
                native.check_open()
                woken = loop.create_future()
                self._sleepers[id] = loop, woken
                if not self._has_waker:
                    waker = threading.Thread(target=_wake_tasks, args=(self,), daemon=True)
                    waker.start()
                    self._has_waker = True
                native.changed.notify_all()
            try:
                await woken
            finally:
                with native.changed:
                    if self._sleepers.pop(id, None) and not native.closed:
                        self._woken.append(None)  # cancelled: perhaps the thread waits for nobody
                        os.eventfd_write(native.bell.iterators, 1)
                        native.changed.notify_all()

    def _wake(self, id: int) -> None:
        """Under the lock."""
        sleeper = self._sleepers.pop(id, None)
        if sleeper is not None:
            loop, woken = sleeper
            self._woken.append(None)
            with contextlib.suppress(RuntimeError):  # a loop that has been closed
                loop.call_soon_threadsafe(_set, woken)

    def _abandon(self, id: int) -> None:
        with contextlib.suppress(Stopped), self._native as handle:
            queue = self._owned.pop(id, None)
            if queue is not None and (not queue or queue[-1].finish_reason is None):
                self._abandoned.add(id)
                check(lib.rwkv_engine_cancel(handle, id))

    # -- the engine itself

    def stats(self) -> EngineStats:
        """Counts at this moment."""
        out = ffi.new("rwkv_engine_stats *")
        out.size = ffi.sizeof("rwkv_engine_stats")
        with self._native as handle:
            check(lib.rwkv_engine_describe(out, handle))
        return EngineStats(**{name: getattr(out, name) for name in _STATS})

    def cache_stats(self) -> CacheStats:
        """What is kept at this moment, and how much it was of use."""
        out = ffi.new("rwkv_cache_stats *")
        out.size = ffi.sizeof("rwkv_cache_stats")
        with self._native as handle:
            check(lib.rwkv_cache_describe(out, handle))
        return CacheStats(**{f.name: getattr(out, f.name) for f in fields(CacheStats)})

    def resize_cache(self, cache_bytes: int) -> None:
        """Another limit for what is kept, before the next step; 0: nothing."""
        size = _size(cache_bytes)
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


class Generation:
    """Iterator over the events of one request, made by Engine.generate; `for` or `async for`.

    A class, not a generator: a generator closed before its first next() never runs its finally.
    """

    __slots__ = ("__weakref__", "_done", "_engine", "_events", "id")

    def __init__(self, engine: Engine, id: int, events: deque[Event]) -> None:
        self.id = id
        self._engine = engine
        self._events = events
        self._done = False

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        try:
            event = self._engine._wait(self._events)
        except BaseException:
            self.close()
            raise
        if event.finish_reason is not None:
            self._done = True
            self._engine._owned.pop(self.id, None)
        return event

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Event:
        if self._done:
            raise StopAsyncIteration
        try:
            event = await self._engine._wait_async(self.id, self._events)
        except BaseException:
            self.close()
            raise
        if event.finish_reason is not None:
            self._done = True
            self._engine._owned.pop(self.id, None)
        return event

    async def aclose(self) -> None:
        """close(), for contextlib.aclosing."""
        self.close()

    def __repr__(self) -> str:
        return f"<rwkv_native.Generation {self.id}: {'ended' if self._done else 'at work'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Generation can be neither pickled nor copied; pass its events on")

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        if not self._done:
            self._done = True
            self._engine._abandon(self.id)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Missing where __init__ did not run.
        if not getattr(self, "_done", True):
            self.close()


class _Native:
    """The C engine and its bell, for one thread at a time: `with native as handle`.

    The lock is re-entrant, because a signal handler or the garbage collector may come to cancel,
    close or iterate while this very thread is inside. Hence what close() finds in use is freed by
    the last to leave: the engine by the outermost `with`, the descriptors by who watches them.
    """

    __slots__ = ("bell", "changed", "closed", "handle", "leader", "pid", "users")

    def __init__(self, model: Model, tokenizer: Tokenizer, options: Any) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.pid = os.getpid()
        self.users = 0  # `with` blocks open now, all of the thread that has the lock
        self.leader: int | None = None  # the thread that watches the bell for all Generations
        self.closed = False
        self.bell = ffi.new("rn_bell *")
        self.bell.watcher = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.bell.iterators = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        options.ring = ffi.addressof(lib, "rn_ring")
        options.payload = self.bell
        out = ffi.new("rwkv_engine **")
        status = lib.rwkv_engine_new(out, model._handle, tokenizer._handle, options)
        self.handle = out[0] if status == 0 else None
        try:
            check(status)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Any:
        """The handle, valid until __exit__. Raises Stopped."""
        self.check_process()
        self.changed.acquire()
        self.users += 1
        try:
            self.check_open()
        except Stopped:
            self.__exit__()
            raise
        return self.handle

    def __exit__(self, *exc: object) -> None:
        self.users -= 1
        self.free()
        self.changed.release()

    def check_process(self) -> None:
        # Before the lock, which another thread may have held at the fork.
        if self.pid != os.getpid():
            raise Stopped("the engine was made before a fork; make one in this process")

    def check_open(self) -> None:
        if self.closed:
            raise Stopped("the engine has been closed")

    def pause(self) -> None:
        """Waits for a change. Not for ever: a signal handler may have made it just before."""
        self.changed.wait(1)

    def close(self, wait: bool = True) -> None:
        """wait: return when the descriptors are closed, too."""
        if self.pid != os.getpid():
            # Threads do not survive a fork: the engine can be neither used nor freed here. The
            # descriptors are copies.
            self.closed, self.handle, self.leader, self.users = True, None, None, 0
            self.free()
            return
        with self.changed:
            if not self.closed:
                self.closed = True
                os.eventfd_write(self.bell.iterators, 1)
            self.changed.notify_all()
            self.free()
            # Not from within this thread's own use of the engine, which ends only after this.
            while wait and not self.users and self.leader not in (None, threading.get_ident()):
                self.pause()

    def free(self) -> None:
        """Frees what is in use no more, once closed. Under the lock."""
        if not self.closed or self.users:
            return
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.rwkv_engine_free(handle)  # joins the thread: no ring after this
        if self.leader is None:
            bell, self.bell = self.bell, None
            if bell is not None:
                os.close(bell.watcher)
                os.close(bell.iterators)


def _milliseconds(value: float) -> float:
    try:
        number = 0.0 if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number <= 60_000:
        raise InvalidError(f"step_ms must be above 0 and at most 60000, not {value!r:.80}")
    return number


_STATS = tuple(f.name for f in fields(EngineStats))


def _guesses(value: int) -> int:
    number = _whole("speculate", value)
    if not 0 <= number <= 64:
        raise InvalidError(f"speculate must be 0 to 64, not {number}")
    return number


def _set_turn(request: Any, client: int, group: int) -> None:
    for name, value in (("client", client), ("group", group)):
        number = _whole(name, value)
        if not 0 <= number < 1 << 64:
            raise InvalidError(f"{name} must be at least 0, and below 2^64, not {number}")
        setattr(request, name, number)


def _size(value: int) -> int:
    number = _whole("cache_bytes", value)
    if not 0 <= number < 1 << 63:
        raise InvalidError(f"cache_bytes must be at least 0, and below 2^63, not {number}")
    return number


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidError(f"{name} must be a whole number, not {value!r:.80}")
    return value.__index__()


def _vector(reader: Generation) -> np.ndarray:
    """Waits for the end of one text. Raises Stopped or InternalError where it has no vector."""
    for event in reader:
        if event.embedding is not None:
            return event.embedding
        if event.finish_reason == "cancelled":
            raise Stopped("the request was cancelled")
        raise InternalError(event.error or "there is no embedding")
    raise Stopped("the request was closed")


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _wake_tasks(engine: Engine) -> None:
    """A thread that reads events for as long as tasks wait for any, and a second longer."""
    native = engine._native
    try:
        while True:
            with native.changed:
                native.changed.wait_for(lambda: engine._sleepers or native.closed, 1)
                if not engine._sleepers:
                    engine._has_waker = False
                    return
                engine._woken.clear()
            engine._wait(engine._woken)  # type: ignore[arg-type]  # what is in it says nothing
    except Error:
        with native.changed:
            engine._has_waker = False
            for id in list(engine._sleepers):
                engine._wake(id)  # they meet the same, as a rule that it is closed


def _submit(handle: Any, request: Any) -> int:
    out = ffi.new("uint64_t *")
    check(lib.rwkv_engine_submit(out, handle, request))
    return out[0]


def _clear(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)


def _event(c: Any) -> Event:
    finish = _FINISH[c.finish]
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
    )


def _logprobs(c: Any, n: int) -> list[list[tuple[int, float]]]:
    width = c.logprob_width
    if not n:
        return []
    ids = ffi.unpack(c.logprob_ids, n * width)
    values = ffi.unpack(c.logprobs, n * width)
    pairs = list(zip(ids, values, strict=True))
    return [pairs[i : i + width] for i in range(0, len(pairs), width)]
