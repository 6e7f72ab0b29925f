"""The files that browsers load: our pages in `web/static/`, and the libraries in its `vendor/`,
which `web/static/_build.py` has fetched when the package was built.

Read once per process into a table, so that a request can name nothing else. Served by
`resources/server/pages.py`.
"""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from web.threadpool import in_thread

_FOLDER = Path(__file__).resolve().parents[1] / "static"

# The libraries, each by the file that tells whether it is there.
SWAGGER_UI = "vendor/swagger-ui-dist/swagger-ui-bundle.js"
REDOC = "vendor/redoc/redoc.standalone.js"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",  # LICENSE
}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    content_type: str
    etag: str  # without quotes


@functools.cache
def files(folder: Path = _FOLDER) -> dict[str, File]:
    """Path below `folder`, with / between its parts -> file. What browsers do not load is left
    out."""
    return {
        path.relative_to(folder).as_posix(): _file(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }


def _file(path: Path) -> File:
    content = path.read_bytes()
    return File(content, _TYPES[path.suffix], sha256(content).hexdigest()[:32])


_gzipped: dict[str, bytes] = {}  # etag -> content


def gzipped(file: File) -> bytes:
    """The content by gzip, made by the first who wants it: 0.15 s for the largest."""
    if file.etag not in _gzipped:
        _gzipped[file.etag] = in_thread(gzip.compress, file.content, mtime=0)
    return _gzipped[file.etag]
