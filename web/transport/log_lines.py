"""One entry of the error log is one line, and its text none but text: what clients send and files
hold (names of models, paths, errors of parsers) could else forge entries, or act on a terminal.

Used by `web/transport/access_log.py`, whose own entries are JSON.
"""

from __future__ import annotations

import copy
import logging

from rwkv_native.printable import printable


class OneLine(logging.Formatter):
    """Another formatter's entries, with control characters escaped. Tracebacks keep their lines,
    each behind a mark that no entry begins with."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        shown = copy.copy(record)
        shown.msg, shown.args = printable(record.getMessage()), None
        if record.exc_info:
            text = self._inner.formatException(record.exc_info)
            shown.exc_info = None
            shown.exc_text = "\n".join(f"  | {printable(line)}" for line in text.split("\n"))
        return self._inner.format(shown)
