"""Which web pages may use the server from a browser.

Any page that a user has open can send requests to 127.0.0.1, even such as the browser does not let
it read the answers of; `Origin` tells them apart. Allowed are pages of this machine, programs that
show pages of their own (RWKV Runner's are `wails://wails`, no web site can have such a scheme), a
page that this server delivered under its address, and what `--cors-origin` names. A page that came
under a *name* is not trusted for being from the same host: a hostile site can point its name here.
Installed by `web/app.py`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import falcon

from web import errors

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class Origins:
    """Refuses what pages of other origins send, and says to browsers which answers are theirs.
    Never with credentials: a page that has a key sends it itself."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)
        self._cors = falcon.CORSMiddleware(expose_headers=["X-Request-Id", "Retry-After"])

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if req.method not in _HARMLESS and not self._allows(req):
            raise errors.wrong_origin(req.get_header("Origin") or "")

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        if req.get_header("Origin") is not None:
            resp.append_header("Vary", "Origin")
            if self._allows(req):
                self._cors.process_response(req, resp, resource, req_succeeded)

    def _allows(self, req: falcon.Request) -> bool:
        origin = req.get_header("Origin")
        if origin is None or "*" in self._allowed or origin.lower() in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            host = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return bool(parts.scheme)  # not "null", which a page can make itself
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or parts.netloc == req.netloc
