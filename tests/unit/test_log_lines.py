"""The error log: one line for each entry, whatever is in it."""

from __future__ import annotations

import io
import logging

from gunicorn.config import Config

from web.transport.access_log import AccessLog
from web.transport.log_lines import OneLine

FORGED = "x\n[2026-01-01 00:00:00 +0000] [1] [CRITICAL] forged\x1b[31m\r\u2028"


def logged(*arguments: object, fault: Exception | None = None) -> str:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(OneLine(logging.Formatter("[%(levelname)s] %(message)s")))
    record = logging.LogRecord(
        "gunicorn.error", logging.ERROR, "", 0, "failed to load %s: %s", arguments, None
    )
    if fault is not None:
        try:
            raise fault
        except ValueError as problem:
            record.exc_info = (type(problem), problem, problem.__traceback__)
    handler.handle(record)
    return written.getvalue().removesuffix("\n")


def test_what_is_logged_is_one_line() -> None:
    text = logged(FORGED, 5)
    assert text.isprintable()
    assert text.startswith("[ERROR] failed to load x\\n[2026-01-01") and text.endswith(r"\u2028: 5")


def test_a_traceback_cannot_be_mistaken_for_entries() -> None:
    text = logged("m", 5, fault=ValueError(FORGED))
    first, *rest = text.split("\n")
    assert first == "[ERROR] failed to load m: 5"
    assert rest[0] == "  | Traceback (most recent call last):" and len(rest) > 3
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)


def test_the_servers_log_is_written_so() -> None:
    """Also after a reload, which sets it up again."""
    log = AccessLog(Config())
    log.setup(Config())
    (handler,) = log.error_log.handlers
    assert isinstance(handler.formatter, OneLine)
    record = logging.LogRecord("gunicorn.error", logging.INFO, "", 0, "%s", (FORGED,), None)
    assert len(handler.format(record).splitlines()) == 1
