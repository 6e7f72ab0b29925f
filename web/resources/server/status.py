"""GET /, /health and /status: is it up, can it answer, and what does it do."""

from __future__ import annotations

import os

import falcon
import msgspec
from msgspec import UNSET

from web import errors
from web.engine.model_host import LOADING, Runtime
from web.schemas.answers import Status


class RootResource:
    """`{"Hello":"World!"}`: RWKV Runner's clients poll it to see that the server is up."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = b'{"Hello":"World!"}'


class HealthResource:
    """200 while a model answers, else 503, for a balancer or a supervisor."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        if self._runtime.stopping:
            raise errors.stopping()
        if not self._runtime.healthy:
            loading = self._runtime.status == LOADING
            raise errors.model_loading() if loading else errors.no_model()
        resp.set_header("Cache-Control", "no-store")
        resp.data = b'{"status":"ok"}'


class StatusResource:
    """0 offline, 2 loading, 3 working; and the engine's load."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        runtime = self._runtime
        counts = runtime.counts()
        progress = runtime.progress
        resp.set_header("Cache-Control", "no-store")
        resp.data = msgspec.json.encode(
            Status(
                status=runtime.status,
                pid=os.getpid(),
                device_name="CPU",
                model=runtime.model_name,
                running=counts.running,
                waiting=counts.waiting,
                prompt_tokens=counts.prompt_tokens,
                completion_tokens=counts.completion_tokens,
                draining=runtime.draining,
                max_tokens=runtime.limits.lengths.most,
                default_max_tokens=runtime.limits.lengths.unset,
                defaults=runtime.defaults,
                progress=UNSET if progress is None else round(progress, 4),
            )
        )
