"""POST /completions: text in, its continuation out. Several prompts of one request run side by
side in the engine; in a stream their chunks come as they come, told apart by `index`. A model of
music also answers the MIDI or WAV file that its text stands for.
"""

from __future__ import annotations

import falcon

from web.chat.turn import Turns
from web.dialects.completions import COMPLETIONS
from web.dialects.event_stream import respond
from web.dialects.openai import OpenAiEncoder
from web.engine.model_host import Runtime
from web.midi.composition import Compositions
from web.schemas import fields
from web.schemas.completions import completion_request
from web.transport.access_log import WORK
from web.transport.request_body import read_body


class CompletionsResource:
    """Raw completion: no prompt format, no default stops."""

    def __init__(self, runtime: Runtime, turns: Turns, compositions: Compositions) -> None:
        self._runtime = runtime
        self._turns = turns
        self._compositions = compositions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), completion_request)
        serving, stream = self._runtime.serving(), request.stream.stream
        writes = request.form == "text"
        if not writes:
            self._compositions.check(serving, request.form)
        self._compositions.check_prompts(serving, request.prompts)
        sock = req.env.get("gunicorn.socket")
        turn = self._turns.texts(
            serving,
            request.prompts,
            request.sampling,
            client=req.context.caller.number,
            sock=sock,
            stream=stream,
            echo=request.echo and writes,
        )
        if writes:
            encoder = OpenAiEncoder(COMPLETIONS, serving, request.stream.include_usage)
            respond(req, resp, turn, encoder, stream)
            return
        req.env[WORK] = turn.generation
        turn.collect()
        prompt = request.prompts[0] if request.echo else ""
        text = turn.answers[0].text
        self._compositions.answer(resp, serving, prompt, text, request.form, sock)
