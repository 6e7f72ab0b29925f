"""Who asks. With `--api-key`, whoever does not send a key gets 401. Installed by `web/app.py`."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

import falcon

from web import errors
from web.transport.caller import Caller, address

# What says only that a server is there, which load balancers ask without a key, and what is the
# same on every server: a browser has no key to send before its page is there.
_OPEN = frozenset({"/", "/health", "/docs", "/redoc", "/openapi.json"})
_OPEN_FOLDER = "/static/"
_HEADERS = ("x-api-key", "api-key")


class ApiKeys:
    """`Authorization: Bearer KEY` with any of the keys, or `x-api-key: KEY` as Anthropic's clients
    send it, or Azure's `api-key: KEY`; without keys nothing is asked for."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.caller = Caller(address(req.env), self._key(req, resp))

    def _key(self, req: falcon.Request, resp: falcon.Response) -> bytes | None:
        """SHA-256 of the key that a request has sent; None where none is asked for."""
        if not self._digests or req.path in _OPEN or req.path.startswith(_OPEN_FOLDER):
            return None
        if req.method == "OPTIONS":
            return None  # a browser asks by it whether it may send a key
        scheme, _, key = (req.auth or "").partition(" ")
        given = [key] if scheme.lower() == "bearer" else []
        given += [req.get_header(name, default="") for name in _HEADERS]
        for one in given:
            digest = sha256(one.strip().encode("latin-1")).digest()  # the bytes of the header
            if self._knows(digest):
                return digest
        resp.set_header("WWW-Authenticate", "Bearer")
        raise errors.no_key()

    def _knows(self, given: bytes) -> bool:
        """In a time that depends neither on the key nor on which one it is."""
        found = 0
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return bool(found)
