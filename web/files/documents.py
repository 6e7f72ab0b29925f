"""Documents -> text, in a process of its own (`sandbox/process.py`, which runs
`document_reader_child.py`).

The document and the answer are files in memory.
Called by `resources/runner/file_to_text.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from web import errors
from web.admission import Turns
from web.files.uploads import FIELD, Upload
from web.sandbox import process

_READER = Path(__file__).with_name("document_reader_child.py")
_AT_WORK = 2  # children at one time
_MOST_WAITING = 32  # requests that wait for one, each with its file in memory,
_MOST_BYTES = 64 << 20  # of all these files, unless one alone is larger
# Exit code -> what the child complains about, and RWKV Runner's `detail` for it where it has one.
_COMPLAINTS = {
    1: (FIELD, None),
    2: ("file_encoding", None),
    3: (FIELD, "cannot open broken document"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost."""

    pages: int
    seconds: int  # of the clock, and of the CPU
    memory: int  # bytes
    text: int  # bytes of the answer


class Documents:
    """Reads documents for all requests, a few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = Turns(_AT_WORK, _MOST_WAITING, _MOST_BYTES)

    def read(
        self, file: Upload, kind: str, encoding: str, client: process.Client | None = None
    ) -> bytes:
        """The answer of /file-to-text as JSON. kind: "txt" or "pdf". Raises a Refusal: 400 for the
        document, 429 if too many wait; and ClientGone."""
        with self._turns.take(len(file.data)):
            return self._read(file, kind, encoding, client)

    def _read(self, file: Upload, kind: str, encoding: str, client: process.Client | None) -> bytes:
        task = {
            "kind": kind,
            "name": file.name,
            "encoding": encoding,
            "most_pages": self._limits.pages,
            "most_bytes": self._limits.text,
        }
        allowance = process.Allowance(self._limits.seconds, self._limits.memory, self._limits.text)
        with process.memory_file("document") as given, process.memory_file("text") as got:
            process.fill(given, msgspec.json.encode(task) + b"\n")
            process.fill(given, file.data)
            os.lseek(given, 0, os.SEEK_SET)
            code = process.run(_READER, (), given, got, allowance, client)
            told = process.contents(got) if code in (0, *_COMPLAINTS) else b""
        if code == 0:
            return told
        if code in _COMPLAINTS:
            field, detail = _COMPLAINTS[code]
            problem = f"{detail}: {told.decode()}" if detail else told.decode()
            raise errors.unreadable(field, problem, detail)
        raise errors.unreadable(
            FIELD,
            f"it cannot be read within {self._limits.seconds} s and "
            f"{self._limits.memory >> 20} MiB of memory",
        )
