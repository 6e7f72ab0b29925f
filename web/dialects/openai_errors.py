"""Errors in the shape that suits OpenAI's clients and RWKV Runner's:
`{"error": {"message", "type", "param", "code"}, "detail": ...}`. The server's own endpoints have
it, too.
"""

from __future__ import annotations

from typing import Any

from web.errors import Kind, Refusal

_TYPES = {
    Kind.BUSY: "rate_limit_error",
    **dict.fromkeys((Kind.FAULT, Kind.NOT_INSTALLED, Kind.UNAVAILABLE), "server_error"),
}


def body(refusal: Refusal) -> dict[str, Any]:
    return {
        "error": {
            "message": refusal.message,
            "type": _TYPES.get(refusal.kind, "invalid_request_error"),
            "param": refusal.param,
            "code": refusal.code,
        },
        "detail": refusal.detail,
    }
