"""POST /switch-model: another model, or none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import falcon

from web.engine.model_host import Busy, Runtime
from web.engine.model_loading import Choice
from web.files.allowed_paths import CHECKPOINTS, Roots
from web.schemas import fields
from web.schemas.strategies import meant
from web.schemas.switch_model import SwitchRequest, asks_for_deploy, switch_request
from web.threadpool import at_disk
from web.transport.request_body import read_body

log = logging.getLogger("gunicorn.error")


class SwitchModelResource:
    """Answers when the load has ended; 304 while there is another."""

    def __init__(self, runtime: Runtime, roots: Roots) -> None:
        self._runtime = runtime
        self._roots = roots

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = read_body(req)
        # Whatever becomes of the rest: who asks for protection relies on it from here on.
        if fields.read(body, asks_for_deploy):
            self._runtime.enter_deploy()
        choice = at_disk(self._choice, fields.read(body, switch_request))
        try:
            self._runtime.switch(choice)
        except Busy:
            resp.status = falcon.HTTP_304
            return
        resp.data = b'"success"'

    def _choice(self, request: SwitchRequest) -> Choice | None:
        if request.model is None:
            return None
        tokenizer = request.tokenizer
        if tokenizer is not None and Path(tokenizer).suffix.lower() in (".txt", ".json"):
            tokenizer = str(self._roots.find("tokenizer", tokenizer))
        # A name that /models has shown: its file may lie elsewhere, and be called otherwise.
        choice = self._runtime.known(request.model)
        if choice is None:
            path = self._roots.find("model", request.model, *CHECKPOINTS)
            self._roots.check_checkpoint("model", path)
            choice = Choice(str(path), request.model)
        strategy = meant(request.strategy, choice.path)
        if strategy.note is not None:
            log.info("%s", strategy.note)
        return replace(
            choice,
            said=request.model,  # never the path of a configured model
            strategy=strategy.strategy,
            tokenizer=tokenizer or choice.tokenizer,
        )
