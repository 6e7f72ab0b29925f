"""The child process of `documents.py`: one document in, its pages out. Whatever a document makes a
parser do ends with this process.

Standard input: one line of JSON (what the document is), then the document. Standard output: the
answer as JSON and exit code 0, or what is wrong with the document and 1, with its encoding and 2.
It runs as a file of its own (`python -I`), so it imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

# pypdf's names of what a PDF says about itself -> those of RWKV Runner's answers.
_FACTS = {
    "/Title": "title",
    "/Author": "author",
    "/Subject": "subject",
    "/Keywords": "keywords",
    "/Creator": "creator",
    "/Producer": "producer",
    "/CreationDate": "creationDate",
    "/ModDate": "modDate",
    "/Trapped": "trapped",
}


class Unreadable(Exception):
    """What the client is told."""

    code = 1


class UnknownEncoding(Unreadable):
    code = 2


def main(task: dict[str, Any]) -> tuple[bytes, int]:
    """(output, exit code)"""
    try:
        raw = sys.stdin.buffer.read()
        if task["kind"] == "txt":
            pages = _text(raw, task["name"], task["encoding"])
        else:
            pages = _pdf(raw, task["name"], task["most_pages"])
        return _joined(pages, task["most_bytes"]), 0
    except Unreadable as problem:
        return str(problem).encode("utf-8", "replace"), problem.code
    except MemoryError:
        return b"it needs too much memory", 1


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
    if "\0" in encoding:
        raise UnknownEncoding("the name of an encoding holds no null character")
    try:
        text = raw.decode(encoding)
        text.encode()  # some encodings can write half a surrogate pair, which JSON cannot
    except LookupError as problem:
        raise UnknownEncoding(str(problem)) from None
    except UnicodeError as problem:
        raise Unreadable(str(problem)) from None
    except MemoryError:
        raise
    except Exception as problem:  # codecs raise what they like for what is not theirs
        raise Unreadable(f"'{encoding}' codec cannot decode it: {problem}") from None
    yield {"page_content": text, "metadata": {"source": name}}


def _pdf(raw: bytes, name: str, most_pages: int) -> Iterator[dict[str, Any]]:
    import io
    import logging

    import pypdf

    if not raw:
        raise Unreadable("cannot open empty document")
    logging.disable()  # pypdf tells of every blemish
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        _unlock(reader)
        pages = reader.pages
        total = len(pages)
        facts = _facts(reader)
    except (MemoryError, Unreadable):
        raise
    except Exception:
        raise Unreadable("cannot open broken document") from None
    if not total:
        raise Unreadable("cannot open broken document")
    if total > most_pages:
        raise Unreadable(f"it has {total} pages; this server reads at most {most_pages}")
    for number in range(total):
        try:
            text = _whole(pages[number].extract_text())
        except MemoryError:
            raise
        except Exception:
            raise Unreadable(f"cannot read page {number + 1}: it is broken") from None
        if text and not text.endswith("\n"):
            text += "\n"
        place = {"source": name, "file_path": name, "page": number, "total_pages": total}
        yield {"page_content": text, "metadata": place | facts}


def _unlock(reader: Any) -> None:
    """Opens what an empty password opens, as viewers do without a word."""
    if not reader.is_encrypted:
        return
    try:
        opened = reader.decrypt("")
    except Exception:  # an encryption for which pypdf wants another package
        opened = 0
    if not opened:
        raise Unreadable("the document is encrypted: save it without a password first")


def _facts(reader: Any) -> dict[str, str]:
    header = reader.pdf_header  # %PDF-1.7
    facts = {"format": _whole(header.replace("%PDF-", "PDF "))}
    info = reader.metadata or {}
    for key, name in _FACTS.items():
        value = info.get(key)
        value = value.get_object() if hasattr(value, "get_object") else value
        facts[name] = _whole(value.removeprefix("/")) if isinstance(value, str) else ""
    return facts


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs joined, or replaced where the other half is not."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


if __name__ == "__main__":
    asked = json.loads(sys.stdin.buffer.readline())
    output, code = main(asked)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    os._exit(code)  # the end of an interpreter takes long after a large document
