"""POST /completions: text in, its continuation out. Several prompts of one request run side by
side in the engine; in a stream their chunks come as they come, told apart by `index`. A model of
music also answers the MIDI or WAV file that its text stands for.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import falcon
import msgspec

from web import errors
from web.dialects.event_stream import EventStream, Frames, begin
from web.engine.generation import Generation, fed_text, sampling_for
from web.engine.model_host import Runtime
from web.engine.requests import Prompt
from web.engine.serving import Serving
from web.engine.states import StartStates
from web.midi.composition import Compositions
from web.schemas import fields
from web.schemas.answers import Completion, CompletionChoice, usage
from web.schemas.completions import completion_request
from web.threadpool import in_thread
from web.transport.access_log import WORK
from web.transport.request_body import read_body

_LONG = 50_000  # characters and ids above which a thread decodes what is echoed


class CompletionsResource:
    """Raw completion: no prompt format, no default stops."""

    def __init__(self, runtime: Runtime, starts: StartStates, compositions: Compositions) -> None:
        self._runtime = runtime
        self._compositions = compositions
        self._starts = starts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), completion_request)
        serving = self._runtime.serving()
        if request.form != "text":
            self._compositions.check(serving, request.form)
        self._compositions.check_prompts(serving, request.prompts)
        sampling = sampling_for(serving.persona, request.sampling, lengths=serving.limits.lengths)
        id = f"cmpl-{uuid.uuid4().hex}"
        created = int(time.time())
        state = self._starts.of(serving, request.sampling.state)
        echoes = request.echo and request.form == "text"
        echoed = _texts(serving, request.prompts) if echoes else None
        sock, stream = req.env.get("gunicorn.socket"), request.stream.stream
        generation = Generation(
            serving,
            request.prompts,
            sampling,
            sock,
            state,
            stream=stream,
            tells_cached=not self._runtime.deploy,
            client=req.context.caller.number,
        )
        req.env[WORK] = generation
        if stream:
            frames = Frames(
                chat=False,
                id=id,
                created=created,
                model=serving.name,
                fingerprint=serving.fingerprint,
                choices=len(request.prompts),
                include_usage=request.stream.include_usage,
            )
            begin(resp, EventStream(generation, frames, request.stream.include_usage, echoed or ()))
            return
        texts = [answer.text for answer in generation.collect()]
        if request.form != "text":
            prompt = request.prompts[0] if request.echo else ""
            self._compositions.answer(resp, serving, prompt, texts[0], request.form, sock)
            return
        if echoed is not None:
            texts = [prompt + text for prompt, text in zip(echoed, texts, strict=True)]
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            Completion(
                id=id,
                created=created,
                model=serving.name,
                system_fingerprint=serving.fingerprint,
                choices=[
                    CompletionChoice(text, index, generation.answers[index].finish_reason or "stop")
                    for index, text in enumerate(texts)
                ],
                usage=usage(*generation.usage()),
            )
        )


def _texts(serving: Serving, prompts: Sequence[Prompt]) -> list[str]:
    """The prompts as text, for `echo`."""

    def decode(prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return fed_text(serving.persona, prompt)
        return serving.tokenizer.decode(prompt)

    try:
        if sum(map(len, prompts)) > _LONG:
            return in_thread(lambda: [decode(prompt) for prompt in prompts])
        return [decode(prompt) for prompt in prompts]
    except ValueError as problem:
        raise errors.invalid("prompt", f"cannot be decoded: {problem}") from None
