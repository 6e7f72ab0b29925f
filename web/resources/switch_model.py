"""POST /switch-model: another model, or none."""

from __future__ import annotations

from pathlib import Path

import falcon

from web.loading import Choice
from web.middleware import read_body
from web.offload import in_thread
from web.paths import Roots
from web.runtime import Busy, Runtime
from web.schemas import fields
from web.schemas.switching import SwitchRequest, switch_request


class SwitchModelResource:
    """Answers when the load has ended; 304 while there is another."""

    def __init__(self, runtime: Runtime, roots: Roots) -> None:
        self._runtime = runtime
        self._roots = roots

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), switch_request)
        choice = in_thread(self._choice, request)
        try:
            self._runtime.switch(choice)
        except Busy:
            resp.status = falcon.HTTP_304
            return
        if request.deploy:
            self._runtime.enter_deploy()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'"success"'

    def _choice(self, request: SwitchRequest) -> Choice | None:
        if request.model is None:
            return None
        tokenizer = request.tokenizer
        if tokenizer is not None and Path(tokenizer).suffix.lower() in (".txt", ".json"):
            tokenizer = str(self._roots.find("tokenizer", tokenizer))
        path = self._roots.find("model", request.model, ".pth")
        return Choice(str(path), request.model, request.strategy, tokenizer)
