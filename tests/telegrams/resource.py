"""POST /telegrams."""

from __future__ import annotations

import falcon

from telegrams.dialect import TelegramEncoder, problem
from telegrams.schema import telegram
from web.chat.turn import Turns
from web.dialects.event_stream import respond
from web.engine.model_host import Runtime
from web.schemas import fields
from web.transport.request_body import read_body


class TelegramResource:
    error_body = staticmethod(problem)

    def __init__(self, runtime: Runtime, turns: Turns) -> None:
        self._runtime = runtime
        self._turns = turns

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), telegram)
        turn = self._turns.chat(
            self._runtime.serving(),
            request.conversation,
            request.sampling,
            client=req.context.caller.number,
            sock=req.env.get("gunicorn.socket"),
            stream=request.live,
        )
        respond(req, resp, turn, TelegramEncoder(), request.live)
