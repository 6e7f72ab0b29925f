"""POST /chat/completions."""

from __future__ import annotations

import time
import uuid

import falcon
import msgspec

from web.generation import Generation, sampling_for
from web.middleware import read_body
from web.prompts.formats import conversation
from web.prompts.stops import chat_stops
from web.runtime import Runtime
from web.schemas import fields
from web.schemas.answers import ChatChoice, ChatCompletion, ChatMessage, usage
from web.schemas.chat import chat_request
from web.sse import EventStream, Frames, begin
from web.tuned import StartStates


class ChatCompletionsResource:
    """A conversation in, the assistant's next message out."""

    def __init__(self, runtime: Runtime, starts: StartStates) -> None:
        self._runtime = runtime
        self._starts = starts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), chat_request)
        serving = self._runtime.serving()
        prompt, names = conversation(serving.persona, request)
        sampling = sampling_for(
            serving.persona, request.sampling, chat_stops(request.sampling.stop, names)
        )
        id = f"chatcmpl-{uuid.uuid4().hex}"
        created = int(time.time())
        state = self._starts.of(serving, request.sampling.state)
        sock = req.env.get("gunicorn.socket")
        generation = Generation(serving, [prompt], sampling, sock, state, field="messages")
        if request.stream.stream:
            frames = Frames(
                chat=True,
                id=id,
                created=created,
                model=serving.name,
                choices=1,
                include_usage=request.stream.include_usage,
            )
            begin(resp, EventStream(generation, frames, request.stream.include_usage))
            return
        answers = generation.collect()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            ChatCompletion(
                id=id,
                created=created,
                model=serving.name,
                choices=[
                    ChatChoice(
                        index, ChatMessage(content=answer.text), answer.finish_reason or "stop"
                    )
                    for index, answer in enumerate(answers)
                ],
                usage=usage(*generation.usage()),
            )
        )
