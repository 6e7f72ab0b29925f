"""GET /openapi.json."""

from __future__ import annotations

import functools

import falcon
import msgspec

import rwkv_native as rn
from web.openapi import operations
from web.openapi.document import document


class OpenApiResource:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = _document()


@functools.cache
def _document() -> bytes:
    shapes = operations.shapes()
    return msgspec.json.encode(
        document(operations.operations(shapes), shapes, rn.__version__, operations.ABOUT)
    )
