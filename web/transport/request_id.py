"""A name for every request. Installed by `web/app.py`."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import falcon

from web.transport.access_log import REQUEST_ID

_OPENAI_VERSION = "2020-10-01"  # of the API that this server speaks
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """`X-Request-Id`: the client's, if it is harmless, else a new one. Beside it what OpenAI's
    dashboards read: how long the answer took, or a streamed one to begin."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = req.get_header("X-Request-Id")
        name = given if given and _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        req.env[REQUEST_ID] = name  # for the access log
        resp.set_header("X-Request-Id", name)
        req.context.begun = time.monotonic()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        if (begun := getattr(req.context, "begun", None)) is not None:
            took = 1000 * (time.monotonic() - begun)
            resp.set_header("openai-processing-ms", str(round(took)))
        resp.set_header("openai-version", _OPENAI_VERSION)
