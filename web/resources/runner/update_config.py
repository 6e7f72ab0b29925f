"""POST /update-config: the defaults of requests, in memory until the server ends."""

from __future__ import annotations

import falcon

from web.engine.model_host import Runtime
from web.engine.states import StartStates
from web.schemas import fields
from web.schemas.update_config import update_of
from web.transport.request_body import read_body


class UpdateConfigResource:
    """Changes what the body names, or nothing if any of it is wrong; null takes a default back."""

    def __init__(self, runtime: Runtime, starts: StartStates) -> None:
        self._runtime = runtime
        self._starts = starts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        update = fields.read(read_body(req), update_of)
        given, taken_back = update.given, update.taken_back
        if given.state is not None:
            self._runtime.configure(given, self._starts.path(given.state), taken_back)
        elif "state" in taken_back:
            self._runtime.configure(given, None, taken_back)
        else:
            self._runtime.configure(given, taken_back=taken_back)
        resp.data = b'"success"'
