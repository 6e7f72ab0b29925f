"""PDFs as viewers read them: fonts with an encoding that Adobe has predefined, passwords, and files
that have lost or gained something on their way."""

from __future__ import annotations

import shutil
import subprocess

import documents
import pytest
from documents import CATALOG, PAGE, pdf, stream, written

from web.files import pdf as pdf_reader
from web.files import pdf_encodings
from web.files.unreadable import Broken, Unreadable


def texts(raw: bytes) -> list[str]:
    return [page["page_content"] for page in pdf_reader.pages(raw, "a.pdf", 100)]


# Text -> its codes in encodings, by codecs that pypdf's table does not have a part in.
SIMPLIFIED, TRADITIONAL, JAPANESE, KOREAN = "你好世界", "中文繁體", "日本語テキスト", "안녕하세요"
SEVEN_BIT = bytes.maketrans(bytes(range(0xA1, 0xFF)), bytes(range(0x21, 0x7F)))


def both(text: str, codes: bytes | str, *names: str) -> list[tuple[str, str, bytes]]:
    raw = text.encode(codes) if isinstance(codes, str) else codes
    return [(f"{name}-{way}".lstrip("-"), text, raw) for name in names for way in "HV"]


def unicode(text: str, *names: str) -> list[tuple[str, str, bytes]]:
    forms = {"UTF8": "utf-8", "UTF16": "utf-16-be", "UTF32": "utf-32-be", "UCS2": "utf-16-be"}
    return [
        one
        for name in names
        for form, codec in forms.items()
        for one in both(text, codec, f"{name}-{form}")
    ]


# All of PDF 2.0's table of predefined CMaps, and others of Adobe's that files name.
ENCODINGS = [
    *both(SIMPLIFIED, "gb2312", "GB-EUC", "GBpc-EUC", "GBK-EUC", "GBKp-EUC", "GBK2K"),
    *both(SIMPLIFIED, "hz", "HZ"),
    *both(SIMPLIFIED, SIMPLIFIED.encode("gb2312").translate(SEVEN_BIT), "GB"),
    *unicode(SIMPLIFIED, "UniGB"),
    *both(TRADITIONAL, "big5", "B5pc", "ETen-B5", "ETenms-B5", "ETHK-B5", "HKscs-B5"),
    *both("香港嘅粵語", "big5hkscs", "HKscs-B5"),
    # The last is of plane 2.
    *both("中文繁體乂", bytes.fromhex("c4e3c5c6f4edfcd58ea2a1a1"), "CNS-EUC"),
    *unicode(TRADITIONAL, "UniCNS"),
    *both(
        JAPANESE,
        "shift_jis",
        *("83pv-RKSJ", "90ms-RKSJ", "90msp-RKSJ", "90pv-RKSJ", "Add-RKSJ", "Ext-RKSJ"),
    ),
    *both(JAPANESE + "ｶﾅ", "euc_jp", "EUC"),
    *both(JAPANESE, JAPANESE.encode("euc_jp").translate(SEVEN_BIT), ""),
    *unicode(JAPANESE, "UniJIS", "UniJIS2004"),
    *both(JAPANESE, "utf-16-be", "UniJIS-UCS2-HW"),
    *both(JAPANESE, "utf-32-be", "UniJISX0213-UTF32", "UniJISX02132004-UTF32"),
    *both(KOREAN, "euc_kr", "KSC-EUC", "KSCpc-EUC", "KSCms-UHC", "KSCms-UHC-HW"),
    *both("똠방각하", "cp949", "KSCms-UHC", "KSCms-UHC-HW"),  # 똠 is of Microsoft's part
    *unicode(KOREAN, "UniKS"),
]


def in_a_font(encoding: str, codes: bytes) -> bytes:
    """A line in a font that is not embedded, and has no other table."""
    font = b"<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /%s /DescendantFonts [6 0 R] >>"
    inner = b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /A /DW 1000 >>"
    line = stream(b"BT /F1 24 Tf 50 700 Td <%s> Tj ET" % codes.hex().encode())
    kids = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    return pdf([CATALOG, kids, PAGE, font % encoding.encode(), line, inner])


@pytest.mark.parametrize(("encoding", "text", "codes"), ENCODINGS, ids=[e[0] for e in ENCODINGS])
def test_predefined_encodings(encoding: str, text: str, codes: bytes) -> None:
    assert texts(in_a_font(encoding, codes)) == [text + "\n"]


def test_each_encoding_that_is_taught_has_a_codec() -> None:
    pdf_encodings.teach_pypdf()
    for name, codec in pdf_encodings.predefined():
        assert b"".decode(codec) == "", name
    with pytest.raises(UnicodeDecodeError):
        b"\x8e\xa2".decode("pdf-cns-euc")
    assert b"\x8e\xa2\xff".decode("pdf-cns-euc", "replace") == "\N{REPLACEMENT CHARACTER}"
    assert b"a\xa1\xa6b".decode("pdf-cns-euc", "replace") == "a\N{REPLACEMENT CHARACTER}b"


def glibc_reads(codes: bytes) -> str | None:
    if shutil.which("iconv") is None:
        return None
    command = ["iconv", "-f", "EUC-TW", "-t", "UTF-8"]
    done = subprocess.run(command, input=codes, capture_output=True)
    return done.stdout.decode() if done.returncode == 0 else None


@pytest.mark.skipif(glibc_reads(b"\xc4\xe3") != "中", reason="no iconv with EUC-TW")
def test_cns_11643_is_that_of_glibc() -> None:
    """All ideographs of planes 1 and 2."""
    pdf_encodings.teach_pypdf()
    cells = [bytes((row, cell)) for row in range(0xA1, 0xFF) for cell in range(0xA1, 0xFF)]
    count = 0
    for plane in (b"", b"\x8e\xa2"):
        known = [plane + cell for cell in cells]
        ours = [code.decode("pdf-cns-euc", "replace") for code in known]
        known = [code for code, char in zip(known, ours, strict=True) if "一" <= char <= "龥"]
        ours = [char for char in ours if "一" <= char <= "龥"]
        assert glibc_reads(b"".join(known)) == "".join(ours)
        count += len(ours)
    assert count > 13_000


PLAIN = documents.pages("A secret", "and more")
SAID = ["A secret\n", "and more\n"]
ALGORITHMS = ["RC4-40", "RC4-128", "AES-128", "AES-256-R5", "AES-256"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_encrypted_documents(algorithm: str) -> None:
    """Without a password for reading every viewer opens it."""
    assert texts(documents.encrypted(PLAIN, "", algorithm)) == SAID
    with pytest.raises(Unreadable, match="is encrypted: save it without a password"):
        texts(documents.encrypted(PLAIN, "password", algorithm))


def without(raw: bytes, mark: bytes) -> bytes:
    """Up to where its end begins."""
    assert raw.count(mark) == 1
    return raw[: raw.index(mark)]


# As newer programs write: objects, the catalogue among them, packed into a stream.
def packed() -> bytes:
    inner = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        PAGE,
    ]
    places, body = b"", b""
    for number, one in enumerate(inner, 1):
        places += b"%d %d " % (number, len(body))
        body += one + b" "
    holder = b"/Type /ObjStm /N %d /First %d" % (len(inner), len(places))
    objects = {4: documents.FONT, 5: written("Packed"), 6: stream(places + body, holder)}
    out, offsets = b"%PDF-1.5\n", {}
    for number, one in objects.items():
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    rows = [b"\0\0\0\0", *(b"\2\0\6" + bytes([i]) for i in range(3))]
    rows += [b"\1" + offsets[number].to_bytes(2, "big") + b"\0" for number in (4, 5, 6)]
    rows.append(b"\1" + len(out).to_bytes(2, "big") + b"\0")
    table = stream(b"".join(rows), b"/Type /XRef /Size 8 /W [1 2 1] /Root 1 0 R")
    return out + b"7 0 obj\n%s\nendobj\nstartxref\n%d\n%%%%EOF\n" % (table, len(out))


DAMAGED = {
    "whole": PLAIN,
    "without the mark of its end": without(PLAIN, b"%%EOF"),
    "without startxref": without(PLAIN, b"startxref"),
    "without a trailer": without(PLAIN, b"trailer"),
    "without a table": without(PLAIN, b"xref\n0"),
    "in half of its table": PLAIN[: PLAIN.index(b"xref\n0") + 60],
    "behind an HTTP header": b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"x" * 100) + PLAIN,
    "behind 5000 bytes": b"<p>junk</p>\n" * 420 + PLAIN,
    "behind 5000 bytes, without its end": b"<p>junk</p>\n" * 420 + without(PLAIN, b"startxref"),
    "before blanks": PLAIN + b" " * 5000,
    "before a page of HTML": PLAIN + b"<html>" * 500,
    "encrypted, without the mark": without(documents.encrypted(PLAIN, "", "AES-128"), b"%%EOF"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damage_that_viewers_mend(how: str) -> None:
    assert texts(DAMAGED[how]) == SAID


@pytest.mark.parametrize("mark", [b"%%EOF", b"startxref", b"7 0 obj", None])
def test_packed_documents_that_lost_their_end(mark: bytes | None) -> None:
    whole = packed()
    assert texts(whole if mark is None else without(whole, mark)) == ["Packed\n"]


def test_letters_in_a_font_that_nobody_defined() -> None:
    kids = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    for page in (PAGE.replace(b"/F1 4 0 R", b"/F9 4 0 R"), b"<< /Type /Page /Contents 5 0 R >>"):
        raw = pdf([CATALOG, kids, page, documents.FONT, written("Caf\xe9\nau lait")])
        assert texts(raw) == ["Café\nau lait\n"]


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (b"", Unreadable, "cannot open empty document"),
        (b"<html>not found</html>", Broken, "it is no PDF"),
        (b"x" * 9000 + PLAIN, Broken, "it is no PDF"),
        (PLAIN[:200], Broken, "no page can be found in it"),
        (PLAIN.replace(b"/Page ", b"/Pagf ").replace(b"/Kids", b"/Kidz"), Broken, "no page can be"),
        (
            documents.encrypted(PLAIN, "", "RC4-40").replace(b"/Standard", b"/Adobe.Pu"),
            Broken,
            "is packed or encrypted in a way that this server cannot read",
        ),
    ],
)
def test_true_reasons(raw: bytes, error: type[Unreadable], said: str) -> None:
    with pytest.raises(error, match=said):
        texts(raw)
