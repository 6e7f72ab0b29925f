"""POST /file-to-text: the pages of a text file or a PDF."""

from __future__ import annotations

import falcon
import msgspec

from web import errors
from web.child import Client
from web.files.documents import Documents
from web.files.uploads import uploaded
from web.runtime import Runtime

_KINDS = ("txt", "pdf")
_LONGEST_ENCODING = 64


class FileToTextResource:
    """The name of the form's part, or `file_name`, says by its end what the file is."""

    def __init__(self, runtime: Runtime, documents: Documents) -> None:
        self._runtime = runtime
        self._documents = documents

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        encoding = req.get_param("file_encoding") or "utf-8"
        if len(encoding) > _LONGEST_ENCODING:
            raise errors.invalid("file_encoding", f"has at most {_LONGEST_ENCODING} characters")
        file = uploaded(req)
        name = file.name or req.get_param("file_name") or ""
        if not name:
            raise errors.invalid("file_name", "is required where the file has no name of its own")
        kind = name.rpartition(".")[2].lower()
        if "." not in name or kind not in _KINDS:
            raise errors.Refusal(
                falcon.HTTP_400,
                f"file_name must end in .txt or .pdf, not {errors.clip(name)!r}",
                param="file_name",
                code="unsupported_value",
                detail="file type not supported",
            )
        file = msgspec.structs.replace(file, name=name)
        client = Client.of(self._runtime.hangups, req)
        answer = self._documents.read(file, kind, encoding, client)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = answer
