"""What is wrong with a document, as the client is told. Raised in the process of
`document_reader_child.py`, whose exit code is the error's; `documents.py` makes a Refusal of it.
"""

from __future__ import annotations


class Unreadable(Exception):
    """The document cannot be read."""

    code = 1


class UnknownEncoding(Unreadable):
    """What is wrong is the encoding's name."""

    code = 2


class Broken(Unreadable):
    """The document cannot be opened at all, for which RWKV Runner has words of its own."""

    code = 3
