"""Errors as HTTP answers: one table of statuses, and the body that the route's API has for them.
Installed by `web/app.py`.

A resource names its API's body as `error_body`. Whatever refuses a request for it, before or after
it is asked, answers in that shape: also who wants a key, and also a fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import falcon
import msgspec
from falcon.routing import CompiledRouter

from web import errors
from web.errors import Kind, Refusal

log = logging.getLogger("gunicorn.error")

Body = Callable[[Refusal], Any]  # what msgspec encodes as JSON

STATUSES = {
    Kind.INVALID: falcon.HTTP_400,
    Kind.NO_KEY: falcon.HTTP_401,
    Kind.FORBIDDEN: falcon.HTTP_403,
    Kind.NOT_FOUND: falcon.HTTP_404,
    Kind.NO_METHOD: falcon.HTTP_405,
    Kind.TOO_SLOW: falcon.HTTP_408,
    Kind.TOO_LARGE: falcon.HTTP_413,
    Kind.BAD_ENCODING: falcon.HTTP_415,
    Kind.BUSY: falcon.HTTP_429,
    Kind.FAULT: falcon.HTTP_500,
    Kind.NOT_INSTALLED: falcon.HTTP_501,
    Kind.UNAVAILABLE: falcon.HTTP_503,
}
_KINDS = {status: kind for kind, status in STATUSES.items()}
# What RWKV Runner says where the router, not a handler, refuses.
_ROUTER = {Kind.NOT_FOUND: "Not Found", Kind.NO_METHOD: "Method Not Allowed"}


class ErrorAnswers:
    """The handlers of one application."""

    def __init__(self, router: CompiledRouter, body: Body) -> None:
        """`body` is the shape where a resource has none of its own."""
        self._router = router
        self._body = body

    def refuse(
        self, req: falcon.Request, resp: falcon.Response, refusal: Refusal, params: object = None
    ) -> None:
        resp.status = STATUSES[refusal.kind]
        if refusal.retry_after is not None:
            resp.set_header("Retry-After", str(refusal.retry_after))
        if refusal.allow is not None:
            resp.set_header("Allow", refusal.allow)
        self._write(req, resp, refusal)

    def serialize(
        self, req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError
    ) -> None:
        """falcon's hook for errors of its own, such as a header that it refuses."""
        reason = str(falcon.code_to_http_status(error.status)).partition(" ")[2]
        fault = Kind.FAULT if error.status_code >= 500 else Kind.INVALID
        kind = _KINDS.get(falcon.code_to_http_status(error.status_code), fault)
        said = error.description or _ROUTER.get(kind) or reason
        self._write(req, resp, Refusal(kind, said, detail=_ROUTER.get(kind)))

    def client_gone(
        self, req: falcon.Request, resp: falcon.Response, error: errors.ClientGone, params: object
    ) -> None:
        """nginx's code for it. Only the access log sees this answer."""
        resp.status = "499 Client Closed Request"
        resp.data = b""

    def fault(
        self, req: falcon.Request, resp: falcon.Response, error: Exception, params: object
    ) -> None:
        """Unexpected exceptions: the log gets the traceback, the client a plain 500."""
        log.error("%s %s failed", req.method, req.path, exc_info=error)
        self.refuse(req, resp, errors.internal())

    def _write(self, req: falcon.Request, resp: falcon.Response, refusal: Refusal) -> None:
        # Asked of the router: who refuses a request for its key does so before it has a resource.
        found = self._router.find(req.path, req)
        body = getattr(found[0], "error_body", self._body) if found else self._body
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body(refusal))
        resp.stream = None
