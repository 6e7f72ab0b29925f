"""POST /chat/completions."""

from __future__ import annotations

import falcon

from web.chat.turn import Turns
from web.dialects.chat import CHAT
from web.dialects.event_stream import respond
from web.dialects.openai import OpenAiEncoder
from web.engine.model_host import Runtime
from web.schemas import fields
from web.schemas.chat import chat_request
from web.transport.request_body import read_body


class ChatCompletionsResource:
    """A conversation in, the assistant's next message out."""

    def __init__(self, runtime: Runtime, turns: Turns) -> None:
        self._runtime = runtime
        self._turns = turns

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), chat_request)
        serving, stream = self._runtime.serving(), request.stream.stream
        turn = self._turns.chat(
            serving,
            request.conversation,
            request.sampling,
            client=req.context.caller.number,
            sock=req.env.get("gunicorn.socket"),
            stream=stream,
        )
        encoder = OpenAiEncoder(CHAT, serving, request.stream.include_usage)
        respond(req, resp, turn, encoder, stream)
