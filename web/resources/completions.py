"""POST /completions: text in, its continuation out. Several prompts of one request run side by
side in the engine; in a stream their chunks come as they come, told apart by `index`.
"""

from __future__ import annotations

import time
import uuid

import falcon
import msgspec

from web import errors
from web.config import Config
from web.generation import Generation, sampling_for
from web.middleware import read_body
from web.runtime import Runtime
from web.schemas import fields
from web.schemas.answers import Completion, CompletionChoice, usage
from web.schemas.completions import completion_request
from web.sse import EventStream, Frames, begin


class CompletionsResource:
    """Raw completion: no prompt format, no default stops."""

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._runtime = runtime
        self._most_prompts = config.max_queue

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), completion_request)
        serving = self._runtime.serving()
        if len(request.prompts) > self._most_prompts:
            # 429 would make clients try again for ever.
            raise errors.invalid("prompt", f"must hold at most {self._most_prompts} prompts")
        sampling = sampling_for(serving.persona, request.sampling)
        id = f"cmpl-{uuid.uuid4().hex}"
        created = int(time.time())
        generation = Generation(serving, request.prompts, sampling, req.env.get("gunicorn.socket"))
        if request.stream.stream:
            frames = Frames(
                chat=False,
                id=id,
                created=created,
                model=serving.name,
                choices=len(request.prompts),
                include_usage=request.stream.include_usage,
            )
            begin(resp, EventStream(generation, frames, request.stream.include_usage))
            return
        answers = generation.collect()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            Completion(
                id=id,
                created=created,
                model=serving.name,
                choices=[
                    CompletionChoice(answer.text, index, answer.finish_reason or "stop")
                    for index, answer in enumerate(answers)
                ],
                usage=usage(*generation.usage()),
            )
        )
