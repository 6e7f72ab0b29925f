"""GET /docs, /redoc and the files under /static that such pages load: all from this server."""

from __future__ import annotations

import re
from collections.abc import Mapping

import falcon

from web import errors
from web.transport.static_files import File, gzipped

# Nothing from elsewhere, and no script in the page itself. Both libraries write styles into it, and
# show images out of their own code; ReDoc's search runs in a worker made of it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

_SMALL = 1400  # bytes: one packet, which gzip cannot make fewer
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)


class PageResource:
    """One page, with the library that it cannot do without."""

    def __init__(self, files: Mapping[str, File], page: str, library: str) -> None:
        self._files = files
        self._page = page
        self._library = library

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._library not in self._files:
            raise errors.not_built(self._library.rpartition("/")[2])
        _send(req, resp, self._files[self._page])
        resp.set_header("Content-Security-Policy", _POLICY)
        resp.set_header("Referrer-Policy", "no-referrer")


class StaticResource:
    """The files by their paths."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files

    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        if path not in self._files:
            raise falcon.HTTPNotFound
        _send(req, resp, self._files[path])


def _send(req: falcon.Request, resp: falcon.Response, file: File) -> None:
    """The file, or 304 where the browser has it: it asks each time, and a new version shows at
    once. A quarter of the bytes for who reads gzip, which every browser does."""
    packed = len(file.content) > _SMALL and _GZIP.search(req.get_header("Accept-Encoding") or "")
    etag = file.etag + "-gzip" if packed else file.etag
    resp.etag = etag
    resp.append_header("Vary", "Accept-Encoding")
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Content-Type-Options", "nosniff")
    known = req.if_none_match or []
    if "*" in known or any(one == etag for one in known):
        resp.status = falcon.HTTP_304
        return
    resp.content_type = file.content_type
    if packed:
        resp.set_header("Content-Encoding", "gzip")
    resp.data = gzipped(file) if packed else file.content
