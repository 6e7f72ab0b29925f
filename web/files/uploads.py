"""The file of a request: a part of a form, or the whole body. Called by the resources that take
files; never looks at what is in them.
"""

from __future__ import annotations

import io

import falcon
import msgspec
from falcon.media.multipart import MultipartFormHandler, MultipartParseOptions

from web import errors
from web.middleware import read_body
from web.offload import in_thread

FIELD = "file_data"
_FORM = "multipart/form-data"
_LARGE = 256 << 10  # bytes of a form above which a thread takes it apart


class Upload(msgspec.Struct, frozen=True):
    name: str  # as the client calls it, never a path of the server; may be empty
    data: bytes


def uploaded(req: falcon.Request) -> Upload:
    """The part `file_data` of a form, with or without a file name; a body of any other content
    type is the file itself."""
    body = read_body(req)
    kind = req.content_type or ""
    if not kind.strip().lower().startswith(_FORM):
        return Upload("", body)
    if len(body) <= _LARGE:
        return _part(body, kind)
    return in_thread(_part, body, kind)


def _part(body: bytes, kind: str) -> Upload:
    options = MultipartParseOptions()
    options.max_body_part_buffer_size = len(body)  # the server has a limit for the whole
    form = MultipartFormHandler(options).deserialize(io.BytesIO(body), kind, len(body))
    found = None
    try:
        for part in form:  # to the end: a form that is cut off is no form
            if part.name == FIELD and found is None:
                # A name in another charset may hold half a surrogate pair.
                name = (part.filename or "").encode("utf-8", "replace").decode()
                found = Upload(name, part.get_data())
    except falcon.MediaMalformedError as problem:
        raise errors.invalid(FIELD, f"cannot be read: {problem.description}") from None
    except ValueError:  # a header of a part that is not UTF-8
        raise errors.invalid(FIELD, "cannot be read: its file name is not UTF-8") from None
    if found is None:
        raise errors.invalid(FIELD, "is required: the form has no part of this name")
    return found
