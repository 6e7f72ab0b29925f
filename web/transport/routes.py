"""Paths as clients send them: other spellings of ours are put right before anybody looks at them,
and who asks for what is not here is told what is. Installed by `web/app.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import falcon

from web import errors
from web.transport.error_answers import ErrorAnswers

_SLASHES = re.compile("//+")
# Azure's client names a deployment where others name a model, which any name may be.
_AZURE = re.compile(r"/openai(?:/deployments/[^/]+)?(?=/)")

# Words in the paths of other APIs -> where the same is here.
_INSTEAD = {
    frozenset({"responses", "messages", "assistants", "threads", "chat"}): (
        "chats are at /v1/chat/completions"
    ),
    frozenset({"generate", "completion", "complete", "infill"}): (
        "completions are at /v1/completions"
    ),
    frozenset({"embed", "embedding", "embeddings"}): "embeddings are at /v1/embeddings",
    frozenset({"models", "tags", "ps", "show"}): "models are listed at /v1/models",
}


class Spellings:
    """Rewrites `req.path`: double slashes, a doubled `/v1` (a base URL that had one already), and
    Azure's prefixes. First of all, so that keys, origins and deploy mode see what is routed."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        path = _SLASHES.sub("/", req.path)
        path = _AZURE.sub("", path, count=1) if path.startswith("/openai/") else path
        while path.startswith("/v1/v1/"):
            path = path.removeprefix("/v1")
        req.path = path


class Absent:
    """The answers of falcon's router to paths and methods that no resource has."""

    def __init__(self, answers: ErrorAnswers, paths: Sequence[str]) -> None:
        """`paths` are those of the routes, as near misses are looked for among them."""
        self._answers = answers
        self._paths = list(paths)

    def no_route(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: falcon.HTTPNotFound,
        params: dict[str, Any],
    ) -> None:
        refusal = errors.no_route(req.method, req.path, self._instead(req.path))
        self._answers.refuse(req, resp, refusal)

    def no_method(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: falcon.HTTPMethodNotAllowed,
        params: dict[str, Any],
    ) -> None:
        allow = dict(error.headers or {})["Allow"]
        self._answers.refuse(req, resp, errors.no_method(req.method, req.path, allow))

    def _instead(self, path: str) -> str:
        """What may have been meant."""
        if near := difflib.get_close_matches(path[:200], self._paths, n=1, cutoff=0.85):
            return f"did you mean {near[0]}?"
        words = set(path[:200].lower().split("/"))
        for theirs, ours in _INSTEAD.items():
            if words & theirs:
                return ours
        return "/docs shows what there is"
