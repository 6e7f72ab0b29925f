"""What the codes of CJK fonts mean that are not embedded: the encodings that Adobe has predefined
for its four collections (PDF 2.0, 9.7.5.2), by the codecs of Python and two of our own.

Called by `pdf.py`, in the process of `document_reader_child.py`. pypdf reads an encoding that it
does not know as UTF-16, which gives other characters without a word.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

_Decode = Callable[[bytes, str], tuple[str, int]]

# Adobe's names, less the end -H or -V for the direction of writing -> Python's codec. Vendors'
# variants of Shift-JIS, Big5 and EUC are read as the widest of their family.
_CODECS = {
    # GB1: simplified Chinese
    "GB-EUC": "gbk",
    "GBpc-EUC": "gbk",
    "GBK-EUC": "gbk",
    "GBKp-EUC": "gbk",
    "GBK2K": "gb18030",
    "GB": "pdf-gb2312-7bit",
    "HZ": "hz",
    # CNS1: traditional Chinese
    "B5": "cp950",
    "B5pc": "cp950",
    "ETen-B5": "cp950",
    "ETenms-B5": "cp950",
    "ETHK-B5": "big5hkscs",
    "HKscs-B5": "big5hkscs",
    "CNS-EUC": "pdf-cns-euc",
    # Japan1
    "RKSJ": "cp932",
    "78-RKSJ": "cp932",
    "78ms-RKSJ": "cp932",
    "83pv-RKSJ": "cp932",
    "90ms-RKSJ": "cp932",
    "90msp-RKSJ": "cp932",
    "90pv-RKSJ": "cp932",
    "Add-RKSJ": "cp932",
    "Ext-RKSJ": "cp932",
    "EUC": "euc_jp",
    "78-EUC": "euc_jp",
    "": "pdf-jis-7bit",  # the names are H and V alone
    "78": "pdf-jis-7bit",
    "Add": "pdf-jis-7bit",
    "Ext": "pdf-jis-7bit",
    # Korea1
    "KSC": "pdf-ksc-7bit",
    "KSC-EUC": "cp949",
    "KSCpc-EUC": "cp949",
    "KSC-Johab": "johab",
    "KSCms-UHC": "cp949",
    "KSCms-UHC-HW": "cp949",
}
_UNICODE = ("UniGB", "UniCNS", "UniJIS", "UniJIS2004", "UniJISX0213", "UniJISX02132004", "UniKS")
_FORMS = {
    "UTF8": "utf-8",
    "UTF16": "utf-16-be",
    "UTF32": "utf-32-be",
    "UCS2": "utf-16-be",
    "UCS2-HW": "utf-16-be",
}


def teach_pypdf() -> None:
    """Makes pypdf read them all. It has no public way to name an encoding; a release that keeps its
    table elsewhere reads what it knows by itself, and tests/unit/test_pdf.py tells."""
    from pypdf import _cmap

    table = getattr(_cmap, "_predefined_cmap", None)
    if isinstance(table, dict):
        codecs.register(_own_codec)
        table |= dict(predefined())


def predefined() -> Iterator[tuple[str, str]]:
    """(name of an encoding as PDFs have it, codec)"""
    unicode = {f"{one}-{form}": codec for one in _UNICODE for form, codec in _FORMS.items()}
    for name, codec in (_CODECS | unicode).items():
        for direction in ("H", "V"):
            yield f"/{name}-{direction}" if name else f"/{direction}", codec


def _seven_bit(codec: str) -> _Decode:
    """Rows and cells of a character set from 21 to 7E, without the high bits of its EUC."""

    def decode(data: bytes, errors: str = "strict") -> tuple[str, int]:
        return bytes(byte | 0x80 for byte in data).decode(codec, errors), len(data)

    return decode


# CNS 11643 has the characters of Big5 in nearly the same order. Planes 1 and 2 as runs: (first
# code, code of Big5, length). The codes of either follow each other without gaps, and where two
# runs disagree the standards do. Compared with glibc's EUC-TW in tests/unit/test_pdf.py.
# fmt: off
_PLANES = {
    1: (
        (0xA1A1, 0xA140, 5), (0xA1A7, 0xA146, 15), (0xA1B6, 0xA157, 2), (0xA1B9, 0xA156, 1),
        (0xA1BE, 0xA15D, 44), (0xA1EA, 0xA1AC, 1), (0xA1EB, 0xA1AB, 1), (0xA1EC, 0xA1AD, 21),
        (0xA2A5, 0xA1C4, 1), (0xA2A7, 0xA1C6, 27), (0xA2C2, 0xA1E2, 1), (0xA2C3, 0xA1E1, 1),
        (0xA2C5, 0xA1E4, 14), (0xA2D5, 0xA1F4, 2), (0xA2D7, 0xA1F7, 1), (0xA2D8, 0xA1F6, 1),
        (0xA2D9, 0xA1F8, 4), (0xA2DE, 0xA155, 1), (0xA2DF, 0xA1FE, 78), (0xA4A1, 0xA2AF, 29),
        (0xA4BF, 0xA2CD, 1), (0xA4C1, 0xA2CF, 142), (0xA6A1, 0xC7E9, 20),
        (0xC4A1, 0xA440, 1412), (0xD3A3, 0xAD40, 424), (0xD7D3, 0xACFE, 1),
        (0xD7D4, 0xAFD0, 1876), (0xEBD0, 0xBE52, 1), (0xEBD1, 0xBBC8, 387),
        (0xEFDC, 0xBE53, 525), (0xF5B5, 0xC2CB, 1), (0xF5B6, 0xC1AB, 105),
        (0xF6C2, 0xC256, 83), (0xF7B7, 0xC2CC, 84), (0xF8AD, 0xC456, 1), (0xF8AE, 0xC361, 54),
        (0xF8E4, 0xC3BA, 1), (0xF8E5, 0xC3B9, 1), (0xF8E6, 0xC3BB, 90), (0xF9E2, 0xC457, 354),
    ),
    2: (
        (0xA1A1, 0xC940, 10), (0xA1AB, 0xC94B, 33), (0xA1CC, 0xC9BE, 1), (0xA1CD, 0xC96C, 48),
        (0xA1FD, 0xC9BF, 46), (0xA2CD, 0xCAF7, 1), (0xA2CE, 0xC9ED, 167),
        (0xA4B9, 0xCAF8, 1840), (0xB7EF, 0xDADF, 1), (0xB7F0, 0xD6CD, 108),
        (0xB8FE, 0xD77B, 537), (0xBEE3, 0xD6CC, 1), (0xBEE4, 0xDAE0, 100), (0xBFEA, 0xD77A, 1),
        (0xBFEB, 0xDBA7, 399), (0xC4A4, 0xDDFD, 1637), (0xD5CB, 0xEBF1, 1),
        (0xD5CC, 0xE8A3, 146), (0xD7A2, 0xECDE, 1), (0xD7A3, 0xE976, 287), (0xDAA8, 0xF0CB, 1),
        (0xDAA9, 0xEB5B, 116), (0xDBBF, 0xEBF2, 137), (0xDCEA, 0xECDF, 104),
        (0xDDF4, 0xF056, 1), (0xDDF5, 0xEDAA, 222), (0xE0B9, 0xEEEC, 198),
        (0xE2C3, 0xF057, 82), (0xE3B7, 0xF0CC, 86), (0xE4AF, 0xEEEB, 1), (0xE4B0, 0xF163, 8),
        (0xE4B8, 0xF16C, 153), (0xE5F3, 0xF269, 56), (0xE6CD, 0xF4B5, 1),
        (0xE6CE, 0xF2C3, 113), (0xE7E1, 0xF16B, 1), (0xE7E2, 0xF375, 142), (0xE9B4, 0xF268, 1),
        (0xE9B5, 0xF466, 45), (0xE9E2, 0xF4B6, 71), (0xEACB, 0xF663, 1), (0xEACC, 0xF4FD, 194),
        (0xECD2, 0xF664, 490), (0xF1E6, 0xF9C4, 1), (0xF1E7, 0xF977, 43), (0xF2B4, 0xF9C5, 1),
        (0xF2B5, 0xF9C7, 11), (0xF2C0, 0xF9C6, 1), (0xF2C1, 0xF9D2, 4),
    ),
}
# fmt: on
_BIG5_CELLS = (*range(0x40, 0x7F), *range(0xA1, 0xFF))  # second bytes
_CNS_CELLS = 94  # second bytes from A1


def _cns_plane(runs: tuple[tuple[int, int, int], ...]) -> dict[int, str]:
    """Two bytes of EUC -> character."""
    plane = {}
    for first, big5, length in runs:
        cns = (first >> 8) * _CNS_CELLS + (first & 0xFF) - 0xA1
        cell = (big5 >> 8) * len(_BIG5_CELLS) + _BIG5_CELLS.index(big5 & 0xFF)
        for i in range(length):
            row, column = divmod(cns + i, _CNS_CELLS)
            high, low = divmod(cell + i, len(_BIG5_CELLS))
            code = bytes((high, _BIG5_CELLS[low]))
            plane[row << 8 | (0xA1 + column)] = code.decode("cp950")
    return plane


def _cns_euc() -> _Decode:
    """EUC-TW: ASCII, two bytes of plane 1, or 8E, A0 + plane and two bytes."""
    planes = {number: _cns_plane(runs) for number, runs in _PLANES.items()}

    def decode(data: bytes, errors: str = "strict") -> tuple[str, int]:
        text = []
        at = 0
        while at < len(data):
            size, plane = 1, None
            if data[at] == 0x8E:
                size, plane = 4, data[at + 1] - 0xA0 if at + 1 < len(data) else None
            elif data[at] >= 0xA1:
                size, plane = 2, 1
            if size == 1 and data[at] < 0x80:
                char = chr(data[at])
            else:
                code = int.from_bytes(data[at + size - 2 : at + size], "big")
                char = planes.get(plane, {}).get(code) if at + size <= len(data) else None
            if char is None:
                if errors != "replace":
                    end = min(at + size, len(data))
                    raise UnicodeDecodeError("pdf-cns-euc", data, at, end, "no character")
                char = "\N{REPLACEMENT CHARACTER}"
            text.append(char)
            at += size
        return "".join(text), len(data)

    return decode


def _no_encoding(text: str, errors: str = "strict") -> tuple[bytes, int]:
    raise NotImplementedError("these encodings are read only")


def _own_codec(name: str) -> codecs.CodecInfo | None:
    """Python asks with the name's letters lower and its hyphens as underscores."""
    name = name.replace("_", "-")
    match name:
        case "pdf-jis-7bit":
            decode = _seven_bit("euc_jp")
        case "pdf-gb2312-7bit":
            decode = _seven_bit("gbk")
        case "pdf-ksc-7bit":
            decode = _seven_bit("euc_kr")
        case "pdf-cns-euc":
            decode = _cns_euc()
        case _:
            return None
    return codecs.CodecInfo(_no_encoding, decode, name=name)
