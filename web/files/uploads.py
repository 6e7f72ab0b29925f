"""The file of a request: a part of a form, or the whole body; and the plain fields beside it.
Called by the resources that take files; never looks at what is in them.
"""

from __future__ import annotations

import io
import re

import falcon
import msgspec
from falcon.media.multipart import MultipartFormHandler, MultipartParseOptions

from web import errors
from web.threadpool import in_thread_if
from web.transport.request_body import read_body

FIELD = "file_data"
_FORM = "multipart/form-data"
_LARGE = 256 << 10  # bytes of a form above which a thread takes it apart
_MOST_PARTS = 64
_LONGEST_FIELD = 4 << 10  # bytes of a field beside the file
_LONGEST_HEADERS = 8 << 10  # bytes of the headers of a part
# Encodings that change nothing, which Android's and Java's clients name.
_PLAIN = re.compile(rb"^content-transfer-encoding:[ \t]*(?:7bit|8bit|binary)[ \t]*$", re.I)


class Upload(msgspec.Struct, frozen=True):
    name: str  # as the client calls it, never a path of the server; may be empty
    data: bytes
    fields: dict[str, str] = {}  # other parts of the form by name; of two the first


def uploaded(req: falcon.Request) -> Upload:
    """The part `file_data` of a form, with or without a file name; a body of any other content
    type is the file itself."""
    body = read_body(req)
    kind = req.content_type or ""
    if not kind.strip().lower().startswith(_FORM):
        return Upload("", body)
    return in_thread_if(len(body) > _LARGE, _part, body, kind)


def _part(body: bytes, kind: str) -> Upload:
    body = _without_plain_encodings(body, kind)
    options = MultipartParseOptions()
    options.max_body_part_buffer_size = len(body)  # the server has a limit for the whole
    options.max_body_part_headers_size = _LONGEST_HEADERS
    options.max_body_part_count = _MOST_PARTS
    form = MultipartFormHandler(options).deserialize(io.BytesIO(body), kind, len(body))
    found = None
    fields: dict[str, str] = {}
    try:
        for part in form:  # to the end: a form that is cut off is no form
            if part.name == FIELD:
                if found is None:
                    # A name in another charset may hold half a surrogate pair.
                    name = (part.filename or "").encode("utf-8", "replace").decode()
                    found = Upload(name, part.get_data(), fields)
            elif part.name and part.filename is None and part.name not in fields:
                value = part.stream.read(_LONGEST_FIELD + 1)
                if len(value) <= _LONGEST_FIELD:
                    fields[part.name] = value.decode("utf-8", "replace")
    except falcon.MediaMalformedError as problem:
        raise errors.invalid(FIELD, f"cannot be read: {problem.description}") from None
    except ValueError:  # a header of a part that is not UTF-8
        raise errors.invalid(FIELD, "cannot be read: its file name is not UTF-8") from None
    if found is None:
        raise errors.invalid(FIELD, "is required: the form has no part of this name")
    return found


def _without_plain_encodings(body: bytes, kind: str) -> bytes:
    """The form without the headers that say of a part that its bytes are as they are: falcon
    refuses all but one of them."""
    boundary = falcon.parse_header(kind)[1].get("boundary", "")
    if not boundary:
        return body
    delimiter = b"\r\n--" + boundary.encode("utf-8", "replace")
    pieces = []
    kept = 0  # bytes of the body that are in pieces
    at = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _behind(body, delimiter, 0)
    for _ in range(_MOST_PARTS):
        end = body.find(b"\r\n\r\n", at, at + _LONGEST_HEADERS) if at >= 0 else -1
        if end < 0:  # the last
            break
        lines = body[at:end].split(b"\r\n")
        other = [line for line in lines if not _PLAIN.match(line)]
        if len(other) < len(lines):
            pieces += [body[kept:at], b"\r\n".join(other)]
            kept = end
        at = _behind(body, delimiter, end)
    return b"".join([*pieces, body[kept:]]) if pieces else body


def _behind(body: bytes, delimiter: bytes, start: int) -> int:
    at = body.find(delimiter, start)
    return at + len(delimiter) if at >= 0 else -1
