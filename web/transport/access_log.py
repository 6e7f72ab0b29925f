"""The access log: one JSON object per request, written when its answer has ended.

gunicorn's logger, named in `web/gunicorn.conf.py`. Neither bodies nor query strings are written, so
no prompt and no key; with `--log-prompts` bodies are, because somebody wants to see the prompts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from gunicorn.glogging import Logger

from web.transport.caller import address
from web.transport.log_lines import OneLine

REQUEST_ID = "rwkv.request_id"  # where `request_id.py` leaves the name of a request

BODY = "rwkv.body"  # where `request_body.py` leaves the body, if bodies are logged

WORK = "rwkv.work"  # where the resources leave what answers: whatever has a summary()

_LONGEST = 256  # characters of what a client chooses


class AccessLog(Logger):
    """With lines such as {"time":"...","id":"req-...","status":200,...}; and the error log, in
    which nothing can be forged."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            if handler.formatter is not None and not isinstance(handler.formatter, OneLine):
                handler.setFormatter(OneLine(handler.formatter))

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        if self.access_log_enabled:
            self.access_log.info("%s", line(resp, environ, request_time))


def line(resp: Any, environ: dict[str, Any], took: timedelta) -> str:
    status = str(resp.status).partition(" ")[0]
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": environ.get(REQUEST_ID),
        "client": _text(address(environ)) or None,
        "method": environ.get("REQUEST_METHOD"),
        "path": _text(environ.get("PATH_INFO")),
        "status": int(status) if status.isdigit() else status,
        "bytes": getattr(resp, "sent", None),
        "seconds": round(took.total_seconds(), 4),
        "agent": _text(environ.get("HTTP_USER_AGENT")),
    }
    if WORK in environ:
        entry |= environ[WORK].summary()
    if environ.get(BODY):
        entry["body"] = _body(environ[BODY])
    return msgspec.json.encode(entry).decode()


def _body(raw: bytes) -> str:
    """A file that somebody uploads is no prompt."""
    if raw.lstrip()[:1] in (b"{", b"["):
        return raw.decode("utf-8", "replace")
    return f"{len(raw)} bytes"


def _text(given: str | None) -> str | None:
    """WSGI hands bytes out as Latin-1."""
    if given is None:
        return None
    return given.encode("latin-1", "replace").decode("utf-8", "replace")[:_LONGEST]
