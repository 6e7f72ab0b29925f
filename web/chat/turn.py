"""A turn: what is asked goes in, and what the model answers comes out, as events that know no API.

`Turns` renders a conversation, or takes texts, and submits them; a `Turn` gives the events as they
come, or waits for the whole answers. Called by the resources, and written out by `web/dialects/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from web import errors
from web.chat.answers import Answer, answer_to
from web.chat.events import Event, Usage
from web.chat.messages import Conversation, Tools
from web.chat.prompts.formats import ChatPrompt, chat_prompt
from web.chat.prompts.stops import chat_stops
from web.chat.tool_calls import CallFinder, RememberedTools
from web.engine.generation import Generation, fed_text, sampling_for
from web.engine.known_answers import Fed
from web.engine.model_host import Runtime
from web.engine.requests import Prompt, SamplingOptions
from web.engine.serving import Serving
from web.engine.states import StartStates
from web.threadpool import breathe, in_thread_if

_PIECE = 4096  # characters of an answer that are read at a time: some ms where it is all calls
_MANY_MESSAGES = 500  # above which a thread renders them: some 3 ms of the hub
_LONG = 50_000  # characters and ids above which a thread decodes what is echoed


class Turn:
    """The answers to one request."""

    def __init__(self, generation: Generation, answers: Sequence[Answer]) -> None:
        """`answers`: a reader for each prompt."""
        self.generation = generation
        self.answers = answers
        self.done = False
        self._begun = [event for answer in answers for event in answer.begin()]

    def take(self, timeout: float | None = None) -> list[Event]:
        """What has come since the last call, at once for the first. Waits for it, at most `timeout`
        seconds, and is empty after that. Raises as Generation.take does."""
        if self._begun:
            begun, self._begun = self._begun, []
            return begun
        events: list[Event] = []
        for piece in self.generation.take(timeout):
            answer = self.answers[piece.index]
            if len(piece.text) <= _PIECE:
                if piece.text:
                    events += answer.feed(piece.text)
            else:
                for start in range(0, len(piece.text), _PIECE):
                    events += answer.feed(piece.text[start : start + _PIECE])
                    breathe()
            if piece.finish_reason is not None:
                ids = self.generation.results[piece.index].ids
                events += answer.end(piece.finish_reason, ids)
        if self.generation.done:
            self.done = True
            events.append(Usage(*self.generation.usage()))
        return events

    def collect(self) -> Usage:
        """Waits until `answers` are whole. Raises as take() does."""
        try:
            while not self.done:
                self.take()
            return Usage(*self.generation.usage())
        finally:
            self.close()

    def close(self) -> None:
        """Frees what the turn has in the engine. Any number of times, at any moment."""
        self.generation.close()


class Turns:
    """Begins the turns of all requests. `client` says whose turn it is, and `sock` tells when they
    have gone; without `stream` events come at the first token and the end only."""

    def __init__(self, runtime: Runtime, starts: StartStates) -> None:
        self._runtime = runtime
        self._starts = starts
        self._remembered = RememberedTools()

    def prompt(
        self, serving: Serving, conversation: Conversation, client: int
    ) -> tuple[ChatPrompt, Fed]:
        """What a conversation is to the model, as text and as ids. Raises Refusal."""
        tools = self._tools(conversation)
        many = len(conversation.messages) > _MANY_MESSAGES
        prompt = in_thread_if(many, chat_prompt, serving.persona, conversation, tools)
        try:
            return prompt, serving.known.encode(prompt, client)
        except ValueError as problem:
            raise errors.invalid("messages", f"cannot be encoded: {problem}") from None

    def chat(
        self,
        serving: Serving,
        conversation: Conversation,
        options: SamplingOptions,
        *,
        client: int,
        sock: Any,
        stream: bool,
    ) -> Turn:
        """The next message of a conversation. Raises Refusal."""
        prompt, fed = self.prompt(serving, conversation, client)
        # A label ends an answer as a token does: who wants no end has what was asked for alone.
        stops = options.stop or () if options.ignore_eos else chat_stops(options.stop, prompt.names)
        lengths = serving.limits.lengths
        try:
            generation = Generation(
                serving,
                [fed.ids],
                sampling_for(serving.persona, options, stops, lengths=lengths, chat=True),
                sock,
                self._starts.of(serving, options.state),
                field="messages",
                stream=stream,
                save_at=fed.save_at,
                tells_cached=not self._runtime.deploy,
                keeps_ids=True,
                client=client,
            )
        except errors.Refusal as refusal:
            raise _with_tools(refusal, serving, self._tools(conversation)) from None
        finder = self._finder(conversation.tools)
        return Turn(generation, [answer_to(prompt, fed, serving.persona, serving.known, finder)])

    def texts(
        self,
        serving: Serving,
        prompts: Sequence[Prompt],
        options: SamplingOptions,
        *,
        client: int,
        sock: Any,
        stream: bool,
        echo: bool = False,
    ) -> Turn:
        """The continuations of texts, side by side; with `echo` each begins with its prompt. Raises
        Refusal."""
        sampling = sampling_for(serving.persona, options, lengths=serving.limits.lengths)
        state = self._starts.of(serving, options.state)
        echoed = _texts(serving, prompts) if echo else [""] * len(prompts)
        generation = Generation(
            serving,
            prompts,
            sampling,
            sock,
            state,
            stream=stream,
            tells_cached=not self._runtime.deploy,
            client=client,
        )
        return Turn(generation, [Answer(index, echoed=text) for index, text in enumerate(echoed)])

    def _tools(self, conversation: Conversation) -> str | None:
        """What a conversation may call; if it does not say, that of the call that it answers."""
        answered = conversation.messages[-1].call_id if conversation.messages else None
        return conversation.tools.description or self._remembered.of(answered)

    def _finder(self, tools: Tools) -> CallFinder | None:
        """What looks for calls, where a request offers tools."""
        description = tools.description
        if description is None:
            return None
        return CallFinder(
            tools.functions, tools.parallel, lambda id: self._remembered.keep(id, description)
        )


def _with_tools(refusal: errors.Refusal, serving: Serving, tools: str | None) -> errors.Refusal:
    """A refusal of a conversation that is too long says how much of it nobody has typed: front
    ends send dozens of tools with every message."""
    if refusal.code != "context_length_exceeded" or tools is None:
        return refusal
    try:
        tokens = len(serving.tokenizer.encode_array(tools))
    except ValueError:
        return refusal
    return errors.of_tools(refusal, tokens)


def _texts(serving: Serving, prompts: Sequence[Prompt]) -> list[str]:
    """The prompts as text, for `echo`."""

    def decode(prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return fed_text(serving.persona, prompt)
        return serving.tokenizer.decode(prompt)

    try:
        return in_thread_if(sum(map(len, prompts)) > _LONG, lambda: [*map(decode, prompts)])
    except ValueError as problem:
        raise errors.invalid("prompt", f"cannot be decoded: {problem}") from None
