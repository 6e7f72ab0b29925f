"""Foreign text as a message or a log may show it: one line, without codes that act on a terminal.

For every name, value or word that comes from a file or a request, before it is part of an error's
text, a log or a terminal's line. Called from everywhere; imports nothing of this project.
"""

from __future__ import annotations

import re
import unicodedata

# A byte of a file's name that is not UTF-8, as Python decodes it ("surrogateescape").
_BYTE = re.compile("[\udc80-\udcff]")


def printable(text: object, most: int | None = None) -> str:
    """`str(text)`, where each character that is no letter, mark, number, sign or blank is written
    as Python escapes it: `\\n`, `\\x1b`, `\\u202e` (which turns the direction of what follows), and
    the bytes of names that are not UTF-8, `\\xe9`. What is longer than `most` characters is cut
    and ends in `...`. The result can always be encoded as UTF-8.
    """
    text = str(text)
    if most is not None and len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(char if _shows(char) else _escaped(char) for char in text)


def _shows(char: str) -> bool:
    """Python counts wide and narrow blanks, such as that of Chinese texts, as not printable."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    if _BYTE.match(char):
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
