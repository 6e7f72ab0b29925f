"""Deploy mode: a server for others, who can use it and cannot change it.

On from the start with `--deploy`, or from the moment that /switch-model asks for it; off only by a
restart. Installed by `web/app.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falcon

from web import errors

# What changes the server, or reads and writes its files. Beside these, requests for answers may not
# name a `state`, and /text-to-wav may not leave files.
CLOSED = frozenset(
    {
        *("/switch-model", "/update-config", "/exit"),
        *("/enable-state-cache", "/disable-state-cache", "/reset-state", "/reset-state-cache"),
        *("/txt-to-midi", "/midi-to-wav"),
    }
)


class DeployGuard:
    """403 for every closed route, before its body is read."""

    def __init__(self, closed: Callable[[], bool]) -> None:
        """`closed` tells whether the server is in deploy mode now."""
        self._closed = closed

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, params: dict[str, Any]
    ) -> None:
        if self._closed() and req.method == "POST" and req.uri_template in CLOSED:
            raise errors.forbidden()
