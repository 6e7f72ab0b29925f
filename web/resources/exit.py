"""POST /exit: the server ends, workers and master, as on SIGTERM."""

from __future__ import annotations

import falcon

from web import stopping


class ExitResource:
    """Answers first: running requests, this one among them, are finished or cut with a word."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        stopping.end_server()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'"success"'
