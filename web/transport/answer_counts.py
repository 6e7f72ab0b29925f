"""Answers, counted. Installed by `web/app.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon


class CountAnswers:
    """Every answer, by its route and status. Outermost, so that it sees those of the others."""

    def __init__(self, answered: Callable[[str, str, str], None]) -> None:
        """`answered` hears of each: its method, route and status, all three from small sets."""
        self._answered = answered

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        method = req.method if req.method in falcon.HTTP_METHODS else "other"
        self._answered(method, req.uri_template or "none", str(resp.status_code))
