"""POST /update-config: the defaults of requests, in memory until the server ends."""

from __future__ import annotations

import falcon

from web.middleware import read_body
from web.runtime import Runtime
from web.schemas import fields
from web.schemas.sampling import defaults_of
from web.tuned import StartStates


class UpdateConfigResource:
    """Changes what the body names, or nothing if any of it is wrong."""

    def __init__(self, runtime: Runtime, starts: StartStates) -> None:
        self._runtime = runtime
        self._starts = starts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = fields.read(read_body(req), defaults_of)
        if given.state is None:
            self._runtime.configure(given)
        else:
            self._runtime.configure(given, self._starts.path(given.state))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'"success"'
