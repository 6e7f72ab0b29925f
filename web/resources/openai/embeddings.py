"""POST /embeddings: a vector for every text, by which texts are compared. The texts of one request
run side by side in the engine, beside all that others ask.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import falcon
import msgspec
import numpy as np

from web import errors
from web.config import Config
from web.engine.generation import Generation, Result
from web.engine.model_host import Runtime
from web.schemas import fields
from web.schemas.embeddings import Embedding, Embeddings, EmbeddingUsage, embedding_request
from web.threadpool import breathe
from web.transport.access_log import WORK
from web.transport.request_body import read_body


class EmbeddingsResource:
    """Takes `input`: texts, or with `--embed-token-ids` also ids of the model that is served."""

    def __init__(self, runtime: Runtime, config: Config) -> None:
        self._runtime = runtime
        self._takes_ids = config.embed_token_ids

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        request = fields.read(read_body(req), embedding_request)
        if not self._takes_ids and not all(isinstance(one, str) for one in request.inputs):
            raise errors.foreign_ids()
        serving = self._runtime.serving()
        generation = Generation(
            serving,
            request.inputs,
            request.options,
            req.env.get("gunicorn.socket"),
            field="input",
            client=req.context.caller.number,
        )
        req.env[WORK] = generation
        results = generation.collect()
        tokens, *_ = generation.usage()
        resp.data = msgspec.json.encode(
            Embeddings(
                data=_data(results, request.packed),
                model=serving.name,
                usage=EmbeddingUsage(tokens, tokens),
            )
        )


def _data(results: Sequence[Result], packed: bool) -> list[Any]:
    """The vectors, encoded. Lets the hub run between two: one of 4096 numbers takes 0.5 ms."""
    encoded = []
    for index, result in enumerate(results):
        if index:
            breathe()
        vector = np.asarray(result.embedding, "<f4")
        numbers = base64.b64encode(vector).decode() if packed else vector.tolist()
        encoded.append(msgspec.Raw(msgspec.json.encode(Embedding(index=index, embedding=numbers))))
    return encoded
