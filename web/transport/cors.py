"""Which pages may use the server from a browser.

Any page that a user has open can send requests to 127.0.0.1, even such as the browser does not let
it read the answers of; `Origin` tells them apart. Allowed are pages of this machine, RWKV Runner's
own windows (`wails://wails`; no web site can have such a scheme), pages that this server itself
delivered, and what `--cors-origin` names.

Installed by `web/app.py`, with the names that the server answers to
(`web/transport/allowed_hosts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import falcon

from web import errors
from web.transport.allowed_hosts import Hosts, is_address

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})

# What says only that a server is there: load balancers ask under any name.
_OPEN = frozenset({"/", "/health"})

# The schemes of pages that the programs for which this server is made show in windows of their own.
# Those of browser extensions are not among them: each would be trusted with files and /exit.
_PROGRAMS = frozenset({"wails", "tauri", "app"})


class Origins:
    """Refuses what comes under foreign names and what pages of other origins send, and says to
    browsers which answers are theirs. Never with credentials: a page that has a key sends it
    itself."""

    def __init__(self, allowed: Sequence[str], hosts: Hosts) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)
        self._hosts = hosts
        self._cors = falcon.CORSMiddleware(expose_headers=["X-Request-Id", "Retry-After"])

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if req.path not in _OPEN and not self._hosts.allows(_host(req)):
            raise errors.wrong_host(_host(req))
        if req.method not in _HARMLESS and not self._allows(req):
            raise errors.wrong_origin(req.get_header("Origin") or "")

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        # Always: a cache must not give a page what was answered to a program.
        resp.append_header("Vary", "Origin")
        if req.get_header("Origin") is not None and self._allows(req):
            self._cors.process_response(req, resp, resource, req_succeeded)

    def _allows(self, req: falcon.Request) -> bool:
        origin = req.get_header("Origin")
        if origin is None or "*" in self._allowed or origin.lower() in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            name = (parts.hostname or "").rstrip(".")
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return parts.scheme in _PROGRAMS
        if name == "localhost" or name.endswith(".localhost") or is_address(name, loopback=True):
            return True
        host = _host(req)
        return bool(name) and parts.netloc.lower() == host.lower() and self._hosts.allows(host)


def _host(req: falcon.Request) -> str:
    return req.env.get("HTTP_HOST", "")
