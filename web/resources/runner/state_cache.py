"""POST /enable-state-cache, /disable-state-cache and /reset-state-cache, which RWKV Runner calls
/reset-state: whether states of earlier texts are kept, for the model that is loaded now.
"""

from __future__ import annotations

import falcon

from web import errors
from web.engine.model_host import Runtime


class StateCacheResource:
    """Takes no body. Requests at work go on with what they have found."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_post_enable(self, req: falcon.Request, resp: falcon.Response) -> None:
        """An empty cache."""
        self._runtime.keep_states(True)
        _succeed(resp)

    def on_post_disable(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._runtime.keep_states(False)
        _succeed(resp)

    def on_post_reset(self, req: falcon.Request, resp: falcon.Response) -> None:
        if not self._runtime.keeps_states:
            raise errors.no_state_cache()
        self._runtime.keep_states(True)
        _succeed(resp)


def _succeed(resp: falcon.Response) -> None:
    resp.data = b'"success"'
