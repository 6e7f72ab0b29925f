"""The child process of `documents.py`: one document in, its pages out. Whatever a document makes a
parser do ends with this process.

Standard input: one line of JSON (what the document is), then the document. Standard output: the
answer as JSON and exit code 0, or what is wrong and the code of its kind (`unreadable.py`).
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Run as a file of its own, isolated, by a process with limits (`web/sandbox/limits.py`).
sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from web.files.unreadable import UnknownEncoding, Unreadable

# Marks at the start of a text -> what they say about it. The longer of two comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


def main(task: dict[str, Any]) -> tuple[bytes, int]:
    """(output, exit code)"""
    try:
        raw = sys.stdin.buffer.read()
        if task["kind"] == "txt":
            pages = _text(raw, task["name"], task["encoding"])
        else:
            from web.files import pdf

            logging.disable()  # pypdf tells of every blemish
            pages = pdf.pages(raw, task["name"], task["most_pages"])
        return _joined(pages, task["most_bytes"]), 0
    except Unreadable as problem:
        return str(problem).encode("utf-8", "replace"), problem.code
    except MemoryError:
        return b"it needs too much memory", Unreadable.code


def _joined(pages: Iterator[dict[str, Any]], most_bytes: int) -> bytes:
    parts = []
    left = most_bytes
    for page in pages:
        page["type"] = "Document"
        part = json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
        left -= len(part) + 1
        if left < 0:
            raise Unreadable(f"its text is larger than {most_bytes} bytes")
        parts.append(part)
    return b'{"pages":[' + b",".join(parts) + b"]}"


def _text(raw: bytes, name: str, encoding: str) -> Iterator[dict[str, Any]]:
    if not raw:
        raise Unreadable("it is empty: no file was sent")
    if "\0" in encoding:
        raise UnknownEncoding("the name of an encoding holds no null character")
    try:
        text = raw.decode(_marked(raw, encoding))
        text.encode()  # some encodings can write half a surrogate pair, which JSON cannot
    except LookupError as problem:
        raise UnknownEncoding(str(problem)) from None
    except UnicodeError as problem:
        raise Unreadable(str(problem)) from None
    except MemoryError:
        raise
    except Exception as problem:  # codecs raise what they like for what is not theirs
        raise Unreadable(f"'{encoding}' codec cannot decode it: {problem}") from None
    yield {"page_content": text.removeprefix(_MARK), "metadata": {"source": name}}


def _marked(raw: bytes, encoding: str) -> str:
    """The encoding that the text's own mark names, with which no UTF-8 can begin."""
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        for mark, named in _MARKS.items():
            if raw.startswith(mark):
                return named
    return encoding


if __name__ == "__main__":
    asked = json.loads(sys.stdin.buffer.readline())
    output, code = main(asked)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    os._exit(code)  # the end of an interpreter takes long after a large document
