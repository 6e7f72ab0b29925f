"""POST /exit: the server ends, workers and master, as on SIGTERM."""

from __future__ import annotations

import falcon

from web.process import graceful_stop


class ExitResource:
    """Answers first: running requests, this one among them, are finished or cut with a word."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        graceful_stop.end_server()
        resp.data = b'"success"'
