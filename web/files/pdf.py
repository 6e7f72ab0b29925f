"""A PDF -> its pages as text, by pypdf. Damage that viewers mend is mended; what cannot be read
gets its true reason. Called by `document_reader_child.py`, in a process with limits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pypdf
from pypdf.errors import DependencyError, LimitReachedError
from pypdf.generic import DictionaryObject, NameObject

from web.files import pdf_encodings
from web.files.unreadable import Broken, Unreadable

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
_HEADER = b"%PDF-"
_MOST_JUNK = 8 << 10  # bytes before the header: HTTP headers, a mail's, or a page of HTML
_OBJECT = re.compile(rb"(?<!\d)(\d{1,9})\s+\d{1,5}\s+obj\b")
_FONT_CHANGE = re.compile(rb"/([^\s/<>\[\](){}%]{1,127})\s+[-+.\d]+\s+Tf\b")
_LOST = "\N{REPLACEMENT CHARACTER}"


def pages(raw: bytes, name: str, most_pages: int) -> Iterator[dict[str, Any]]:
    """Each page as /file-to-text answers it. Raises Unreadable."""
    pdf_encodings.teach_pypdf()
    reader = _opened(raw)
    total = len(reader.pages)
    if total > most_pages:
        raise Unreadable(f"it has {total} pages; this server reads at most {most_pages}")
    facts = _facts(reader)
    for number in range(total):
        try:
            text = _whole(_text(reader.pages[number]))
        except MemoryError:
            raise
        except Exception as problem:
            raise Unreadable(f"cannot read page {number + 1}: it {_reason(problem)}") from None
        if text and not text.endswith("\n"):
            text += "\n"
        place = {"source": name, "file_path": name, "page": number, "total_pages": total}
        yield {"page_content": text, "metadata": place | facts}


def _opened(raw: bytes) -> pypdf.PdfReader:
    """The document, unlocked, with a page or more: as it is, or else from its header on and with
    its table of objects made anew."""
    if not raw:
        raise Unreadable("cannot open empty document")
    begin = raw.find(_HEADER, 0, _MOST_JUNK + len(_HEADER))
    if begin < 0:
        raise Broken(f"it is no PDF, which begins with %PDF- (in its first {_MOST_JUNK} bytes)")
    problem = "no page can be found in it"
    for attempt in (lambda: raw, lambda: _with_a_tail(raw[begin:])):
        try:
            reader = pypdf.PdfReader(io.BytesIO(attempt()))
            _unlock(reader)
            if len(reader.pages):
                return reader
        except (MemoryError, Unreadable):
            raise
        except Exception as found:
            problem = f"no page can be found in it, and it {_reason(found)}"
    raise Broken(problem)


def _with_a_tail(raw: bytes) -> bytes:
    """With an end that makes pypdf look for every object: a download that was cut off has all its
    pages, but not the table that is behind them."""
    most = max((int(found[1]) for found in _OBJECT.finditer(raw)), default=0)
    return raw + b"\ntrailer\n<< /Size %d >>\nstartxref\n0\n%%%%EOF\n" % (most + 1)


def _reason(problem: Exception) -> str:
    """In words of ours: pypdf's repeat what is in the file."""
    match problem:
        case NotImplementedError() | DependencyError():
            return "is packed or encrypted in a way that this server cannot read"
        case LimitReachedError() | RecursionError():
            return "is nested too deeply, or is too large"
    return "is broken"


def _unlock(reader: pypdf.PdfReader) -> None:
    """Opens what an empty password opens, as viewers do without a word."""
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("the document is encrypted: save it without a password first")


def _facts(reader: pypdf.PdfReader) -> dict[str, str]:
    facts = {"format": _whole(reader.pdf_header.replace("%PDF-", "PDF "))}  # %PDF-1.7
    for key, name in _FACTS.items():
        try:
            value = (reader.metadata or {}).get(key)
            value = value.get_object() if hasattr(value, "get_object") else value
        except MemoryError:
            raise
        except Exception:  # no page is lost with a title
            value = None
        facts[name] = _whole(value.removeprefix("/")) if isinstance(value, str) else ""
    return facts


def _text(page: pypdf.PageObject) -> str:
    text = page.extract_text()
    if (not text or _LOST in text) and _lend_fonts(page):
        return page.extract_text()
    return text


def _lend_fonts(page: pypdf.PageObject) -> bool:
    """Puts a common font in the place of those that the page's text names and nobody has defined,
    as viewers do; whether there were any."""
    fonts = _part(_part(page, "/Resources"), "/Font")
    missing = [name for name in _fonts_named(page) if name not in fonts]
    for name in missing:
        fonts[NameObject(name)] = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
                NameObject("/Encoding"): NameObject("/WinAnsiEncoding"),
            }
        )
    return bool(missing)


def _fonts_named(page: pypdf.PageObject) -> set[str]:
    try:
        contents = page.get_contents()
        data = contents.get_data() if contents is not None else b""
    except MemoryError:
        raise
    except Exception:  # a page without a text
        return set()
    return {f"/{found[1].decode('latin-1')}" for found in _FONT_CHANGE.finditer(data)}


def _part(of: DictionaryObject, key: str) -> DictionaryObject:
    """An entry that is a dictionary, made if it is none."""
    if key not in of or not isinstance(of[key], DictionaryObject):
        of[NameObject(key)] = DictionaryObject()
    return of[key]


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs joined, or replaced where the other half is not."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
