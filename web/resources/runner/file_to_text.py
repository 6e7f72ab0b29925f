"""POST /file-to-text: the pages of a text file or a PDF."""

from __future__ import annotations

import falcon
import msgspec

from web import errors
from web.engine.model_host import Runtime
from web.files.documents import Documents
from web.files.uploads import uploaded
from web.sandbox.process import Client

_KINDS = ("txt", "pdf")
_LONGEST_ENCODING = 64


class FileToTextResource:
    """`file_name` of the query says by its end what the file is; or that of the form, or the name
    of the form's part: the first that says it, since programs call any file "blob"."""

    def __init__(self, runtime: Runtime, documents: Documents) -> None:
        self._runtime = runtime
        self._documents = documents

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        file = uploaded(req)
        encoding = req.get_param("file_encoding") or file.fields.get("file_encoding") or "utf-8"
        if len(encoding) > _LONGEST_ENCODING:
            raise errors.invalid(
                "file_encoding", f"must have at most {_LONGEST_ENCODING} characters"
            )
        names = (req.get_param("file_name"), file.fields.get("file_name"), file.name)
        name, kind = _named([name for name in names if name])
        file = msgspec.structs.replace(file, name=name)
        client = Client.of(self._runtime.hangups, req)
        answer = self._documents.read(file, kind, encoding, client)
        resp.data = answer


def _named(names: list[str]) -> tuple[str, str]:
    """(name of the file, its kind), of names of which the first counts most."""
    if not names:
        raise errors.invalid("file_name", "is required if the file has no name")
    for name in names:
        kind = name.rpartition(".")[2].lower()
        if "." in name and kind in _KINDS:
            return name, kind
    raise errors.Refusal(
        errors.Kind.INVALID,
        f"must end in .txt or .pdf, not {errors.clip(names[0])!r}",
        param="file_name",
        joint=" ",
        code="unsupported_value",
        detail="file type not supported",
    )
