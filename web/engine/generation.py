"""One HTTP request's work in the engine: its prompts go in, its events come out, and whatever
happens (an error, a full queue, a client that hangs up) its slots are freed.

Called by `web/chat/turn.py`, and by the resource of embeddings; sits on an engine's client
(`web/engine/client.py`) and on `web/transport/disconnects.py`. Knows nothing of JSON.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

import rwkv_native as rn
from web import errors
from web.engine.client import StateRef
from web.engine.families import Lengths, Persona, effective
from web.engine.mailbox import Mailbox
from web.engine.requests import EmbeddingOptions, Prompt, SamplingOptions
from web.engine.serving import Serving
from web.threadpool import breathe, in_thread, in_thread_if

# Characters of a prompt above which encoding goes to a thread: some 10 ms of the hub.
_LONG_PROMPT = 200_000
_MOST_BYTES = 4  # of a character, or a token
_MANY_BIASES = 4096  # above which their C form is made by a thread: a millisecond of the hub
_OVERHEAD = 4096  # bytes of a prompt in the engine, beside its tokens


@dataclass(slots=True)
class Result:
    """What one prompt has got so far."""

    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ids: array[int] = field(default_factory=lambda: array("i"))
    """Drawn so far, those of a stop included; where they are asked for."""
    embedding: np.ndarray | None = None


class Piece(msgspec.Struct, frozen=True, gc=False):
    """News of one prompt: text that may be empty, and why it ended, if it did."""

    index: int
    text: str
    finish_reason: str | None


def sampling_for(
    persona: Persona,
    asked: SamplingOptions,
    stops: Sequence[str] | None = None,
    *,
    lengths: Lengths | None = None,
    chat: bool = False,
) -> rn.Sampling:
    """The engine's sampling from the request's fields, over the model's defaults. `lengths`: those
    of the server, if there is one; `chat`: an answer that ends by itself."""
    use = effective(asked, persona, lengths or Lengths(), chat)
    bias = dict(asked.logit_bias)
    for id, value in persona.bias.items():
        bias[id] = bias.get(id, 0.0) + value
    return rn.Sampling(
        max_tokens=use.max_tokens,
        min_tokens=min(asked.min_tokens or 0, use.max_tokens or 0),
        ignore_eos=bool(asked.ignore_eos),
        temperature=use.temperature,
        top_p=use.top_p,
        top_k=use.top_k,
        min_p=use.min_p,
        presence_penalty=use.presence_penalty,
        frequency_penalty=use.frequency_penalty,
        penalty_decay=use.penalty_decay,
        global_penalty=use.global_penalty,
        seed=None if asked.seed is None else asked.seed % 2**64,
        stop=(asked.stop or ()) if stops is None else stops,
        stop_token_ids=asked.stop_token_ids,
        logit_bias=bias,
        bias_slopes=persona.slopes,
        count_weights=persona.weights,
        end_token_ids=persona.end_ids,
        no_repeat_token_ids=persona.no_repeat,
        exempt_token_ids=persona.exempt,
    )


class Generation:
    """The prompts of one HTTP request, continued or embedded side by side in the engine."""

    def __init__(
        self,
        serving: Serving,
        prompts: Sequence[Prompt],
        wanted: rn.Sampling | EmbeddingOptions,
        sock: Any,
        start: StateRef | None = None,
        field: str = "prompt",
        stream: bool = True,
        save_at: Sequence[int] = (),
        tells_cached: bool = True,
        keeps_ids: bool = False,
        client: int = 0,
    ) -> None:
        """Lets the request in as a whole, or raises: 400 for what the engine refuses, 429 if there
        is no room. A window of its prompts is queued, the others as these end. `sock` is the
        client's socket; `start` is where every prompt starts; `field` is what errors call a prompt;
        without `stream` pieces come at the first token and the end only; `save_at` are numbers of
        tokens of each prompt after which others may go on differently;
        `tells_cached`: whether usage() says how much was known; `keeps_ids`: whether answers have
        the ids that were drawn; `client`: whose turn it is, see `web/transport/caller.py`."""
        self._engine = serving.engine
        self._hangups = serving.hangups
        self._mailbox = Mailbox(client)
        self._begun = time.monotonic()
        self._first: float | None = None  # seconds to the first token
        self._index: dict[int, int] = {}  # engine id -> index of the prompt, of those at work
        self._wanted: rn.PreparedSampling | EmbeddingOptions
        if isinstance(wanted, rn.Sampling):
            self._wanted = _prepared(serving, wanted, field)
        else:
            self._wanted = wanted
        self._start, self._stream = start, stream
        self._save_at = save_at
        self._window = serving.window
        self._pending: deque[tuple[int, Prompt]] = deque()  # with their indices
        self._field = field
        try:
            self._stay = serving.admission.enter(_size(prompts, wanted, serving.window))
        except errors.Refusal:
            self._engine.reject()
            raise
        self._tells_cached = tells_cached
        self._keeps_ids = keeps_ids
        self.results = [Result() for _ in prompts]
        self._on_hang_up = self._hang_up
        self._watch = self._hangups.watch(sock, self._on_hang_up)
        try:
            for index, prompt in enumerate(prompts):
                if index:
                    breathe()
                if self._mailbox.gone:
                    break
                self._pending.append((index, _encode(serving, prompt, field)))
                if len(prompts) <= self._window:
                    self._feed()
                elif isinstance(self._pending[-1][1], str):
                    # What is wrong with any of them is said before the first is at work.
                    self._pending[-1] = (index, _ids(serving, prompt, field))
                else:
                    _check_ids(serving, self._pending[-1][1], field)
            self._feed()
        except BaseException:
            self.close()
            raise

    def _feed(self) -> None:
        """Hands the next prompts to the engine, as many as the window has room for."""
        try:
            while self._pending and len(self._index) < self._window and not self._mailbox.gone:
                index, ids = self._pending.popleft()
                id = self._engine.submit(
                    ids, self._wanted, self._mailbox, self._start, self._stream, self._save_at
                )
                self._index[id] = index
                if self._pending:
                    breathe()
        except rn.QueueFull:
            raise errors.queue_full() from None
        except ValueError as problem:
            raise _refused(problem, self._field) from None
        except rn.Stopped:  # the model was replaced while its prompts were encoded
            raise errors.stopping() from None
        self._stay.hold(len(self._pending))

    @property
    def done(self) -> bool:
        return not self._index and not self._pending

    def take(self, timeout: float | None = None) -> list[Piece]:
        """What has come since the last call, one piece per prompt, in the order of arrival. Waits
        for it, at most `timeout` seconds, and is empty after that.

        Raises ClientGone, or a Refusal: 500 if a prompt fails, 503 if the engine is being closed.
        """
        pieces: dict[int, Piece] = {}
        events = self._mailbox.take(timeout)
        if self._mailbox.gone:
            raise errors.ClientGone
        for event in events:
            if event.finish_reason is None:
                index = self._index.get(event.id)
            else:
                index = self._index.pop(event.id, None)
            if index is None:
                continue
            if event.finish_reason == "error":
                self.results[index].finish_reason = "error"
                raise errors.generation_failed(event.error)
            if event.finish_reason == "cancelled":  # not by us: we would have gone before
                raise errors.stopping()
            result = self.results[index]
            if self._first is None and event.completion_tokens:
                self._first = round(time.monotonic() - self._begun, 4)
            result.finish_reason = event.finish_reason
            result.prompt_tokens = event.prompt_tokens
            result.completion_tokens = event.completion_tokens
            result.cached_tokens = event.cached_tokens
            result.embedding = event.embedding
            if self._keeps_ids:
                result.ids.extend(event.token_ids)
            before = pieces.get(index)
            text = event.text if before is None else before.text + event.text
            pieces[index] = Piece(index, text, event.finish_reason)
        if self._pending:
            self._feed()
        elif not self._index:
            self._stay.leave()
        return list(pieces.values())

    def collect(self) -> list[Result]:
        """Waits for the end of every prompt: for embeddings, which have no text."""
        try:
            while not self.done:
                self.take()
            return self.results
        finally:
            self.close()

    def usage(self) -> tuple[int, int, int | None]:
        """Of all prompts: prompt tokens, completion tokens, and how many of the former were known;
        None: that is nobody's business."""
        return (
            sum(result.prompt_tokens for result in self.results),
            sum(result.completion_tokens for result in self.results),
            sum(result.cached_tokens for result in self.results) if self._tells_cached else None,
        )

    def summary(self) -> dict[str, Any]:
        """For the access log: why the answers ended, "gone" if the client left before, "cut" if
        something else came in between; their tokens, and the seconds to the first of them."""
        # A write may have failed before the hub saw why.
        gone = self._mailbox.gone or self._hangups.gone(self._watch)
        early = "gone" if gone else "cut"
        read, drawn, _ = self.usage()
        return {
            "finish": ",".join(sorted({one.finish_reason or early for one in self.results})),
            "prompt_tokens": read,
            "completion_tokens": drawn,
            "first_token": self._first,
        }

    def close(self) -> None:
        """Frees every slot and watch. Any number of times, at any moment."""
        self._hangups.unwatch(self._watch, self._on_hang_up)
        self._watch = None
        for id in self._index:
            self._engine.cancel(id)
        self._index.clear()
        self._pending.clear()
        self._stay.leave()

    def _hang_up(self) -> None:
        """In the hub: the slots are free before the greenlet of the request wakes up."""
        for id in self._index:
            self._engine.cancel(id)
        self._pending.clear()
        self._stay.leave()
        self._mailbox.hang_up()


def _prepared(serving: Serving, wanted: rn.Sampling, field: str) -> rn.PreparedSampling:
    """Once for all prompts: 65,536 biases take 20 ms."""
    try:
        return in_thread_if(len(wanted.logit_bias) > _MANY_BIASES, serving.engine.prepare, wanted)
    except ValueError as problem:
        raise _refused(problem, field) from None


def fed_text(persona: Persona, text: str) -> str:
    """A model of music begins an empty prompt with its own word."""
    return text if persona.start is None or text.strip() else persona.start


def _encode(serving: Serving, prompt: Prompt, field: str) -> Prompt:
    """Ids, or a text that the engine may encode. 400 for too many."""
    most = serving.limits.prompt_tokens
    if isinstance(prompt, str):
        prompt = fed_text(serving.persona, prompt)
        if len(prompt) > _LONG_PROMPT:
            prompt = in_thread(serving.tokenizer.encode_array, prompt)
        elif _MOST_BYTES * len(prompt) > most:
            prompt = serving.tokenizer.encode_array(prompt)
        else:
            return prompt  # a token is a byte or more
    if len(prompt) > most:
        raise errors.prompt_too_long(field, len(prompt), most)
    return prompt


def _size(prompts: Sequence[Prompt], wanted: rn.Sampling | EmbeddingOptions, window: int) -> int:
    """Bytes that a request will hold, about."""
    tokens = sum(map(len, prompts))
    options = 8 * len(wanted.logit_bias) if isinstance(wanted, rn.Sampling) else 0
    return _MOST_BYTES * tokens + (_OVERHEAD + options) * min(len(prompts), window)


def _ids(serving: Serving, prompt: Prompt, field: str) -> np.ndarray:
    """The tokens of a short text."""
    try:
        return serving.tokenizer.encode_array(fed_text(serving.persona, prompt))
    except ValueError as problem:
        raise errors.invalid(field, f"cannot be encoded: {problem}") from None


def _check_ids(serving: Serving, ids: Prompt, field: str) -> None:
    largest = int(np.max(ids))
    if largest >= serving.info.vocab:
        raise errors.invalid(
            field, f"has token id {largest}; the model has {serving.info.vocab} tokens"
        )


def _refused(problem: ValueError, field: str) -> errors.Refusal:
    """The engine's messages begin with the name of the field; a prompt is called `field`."""
    word, blank, rest = str(problem).partition(" ")
    name = word.rstrip(":")
    return errors.Refusal(
        errors.Kind.INVALID,
        rest,
        param=field if name == "prompt" else name,
        joint=word.removeprefix(name) + blank,
        code="invalid_value",
    )
