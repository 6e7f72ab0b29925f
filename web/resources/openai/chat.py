"""POST /chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import falcon
import msgspec

from web import errors
from web.chat.answers import ChatAnswer
from web.chat.messages import Conversation, Message, Tools
from web.chat.prompts.formats import ChatPrompt, answer_text, chat_prompt
from web.chat.prompts.parts import BEGUN
from web.chat.prompts.stops import chat_stops
from web.chat.tool_calls import CallFinder, RememberedTools
from web.dialects.event_stream import EventStream, Frames, begin
from web.engine.generation import Generation, sampling_for
from web.engine.known_answers import Fed
from web.engine.model_host import Runtime
from web.engine.serving import Serving
from web.engine.states import StartStates
from web.schemas import fields
from web.schemas.answers import ChatChoice, ChatCompletion, ChatMessage, usage
from web.schemas.chat import chat_request
from web.threadpool import breathe, in_thread
from web.transport.access_log import WORK
from web.transport.request_body import read_body

_PIECE = 4096  # characters of an answer that are read at a time: some ms where it is all calls
_MANY_MESSAGES = 500  # above which a thread renders them: some 3 ms of the hub


class ChatCompletionsResource:
    """A conversation in, the assistant's next message out."""

    def __init__(self, runtime: Runtime, starts: StartStates) -> None:
        self._runtime = runtime
        self._starts = starts
        self._remembered = RememberedTools()

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), chat_request)
        serving = self._runtime.serving()
        conversation = request.conversation
        answered = conversation.messages[-1].call_id if conversation.messages else None
        tools = self._remembered.of(answered)
        if len(conversation.messages) > _MANY_MESSAGES:
            talk = in_thread(chat_prompt, serving.persona, conversation, tools)
        else:
            talk = chat_prompt(serving.persona, conversation, tools)
        asked = request.sampling
        sampling = sampling_for(
            serving.persona,
            asked,
            # A label ends an answer as a token does: who wants no end has what was asked for alone.
            asked.stop or () if asked.ignore_eos else chat_stops(asked.stop, talk.names),
            lengths=serving.limits.lengths,
            chat=True,
        )
        client = req.context.caller.number
        try:
            fed = serving.known.encode(talk, client)
        except ValueError as problem:
            raise errors.invalid("messages", f"cannot be encoded: {problem}") from None
        id = f"chatcmpl-{uuid.uuid4().hex}"
        created = int(time.time())
        state = self._starts.of(serving, request.sampling.state)
        sock = req.env.get("gunicorn.socket")
        stream = request.stream.stream
        try:
            generation = Generation(
                serving,
                [fed.ids],
                sampling,
                sock,
                state,
                field="messages",
                stream=stream,
                save_at=fed.save_at,
                tells_cached=not self._runtime.deploy,
                keeps_ids=True,
                client=client,
            )
        except errors.Refusal as refusal:
            raise _with_tools(refusal, serving, conversation.tools.description or tools) from None
        req.env[WORK] = generation
        answer = self._answer(serving, conversation, talk, fed)
        if stream:
            frames = Frames(
                chat=True,
                id=id,
                created=created,
                model=serving.name,
                fingerprint=serving.fingerprint,
                choices=1,
                include_usage=request.stream.include_usage,
            )
            usage_too = request.stream.include_usage
            begin(resp, EventStream(generation, frames, usage_too, answer=answer))
            return
        (got,) = generation.collect()
        for start in range(0, len(got.text), _PIECE):
            answer.feed(got.text[start : start + _PIECE])
            breathe()
        answer.end(got.ids)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            ChatCompletion(
                id=id,
                created=created,
                model=serving.name,
                system_fingerprint=serving.fingerprint,
                choices=[_choice(answer, got.finish_reason or "stop")],
                usage=usage(*generation.usage()),
            )
        )

    def _answer(
        self, serving: Serving, conversation: Conversation, talk: ChatPrompt, fed: Fed
    ) -> ChatAnswer:
        """What reads the answer, and keeps its ids for the next turn."""

        def noted(message: Message, ids: Sequence[int]) -> None:
            text = answer_text(serving.persona, talk.names, message)
            if text is not None and talk.ending != "nothing":
                serving.known.keep(fed, text, ids)

        begun = (conversation.messages[-1].content or "") if talk.ending in BEGUN else None
        return ChatAnswer(self._finder(conversation.tools), begun, noted)

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


def _choice(answer: ChatAnswer, reason: str) -> ChatChoice:
    if not answer.calls:
        return ChatChoice(0, ChatMessage(content=answer.text), reason)
    return ChatChoice(
        0, ChatMessage(content=answer.text or None, tool_calls=answer.calls), "tool_calls"
    )
