"""PDFs for tests, written by hand so that they can be wrong in any way. Used by tests/contract and
tests/attacks."""

from __future__ import annotations

import io

import pypdf

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
# Of a document whose fourth object is a font, and the fifth its content.
PAGE = (
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R "
    b"/Resources << /Font << /F1 4 0 R >> >> >>"
)


def stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), extra, data)


def written(text: str) -> bytes:
    """A page's content: its lines, one below the other."""
    lines = b" T* ".join(b"(%s) Tj" % line.encode("latin-1") for line in text.split("\n"))
    return stream(b"BT /F1 12 Tf 14 TL 72 720 Td %s ET" % lines)


def pdf(objects: list[bytes], info: bytes = b"") -> bytes:
    """A file of the given objects, numbered from 1; the first is the catalogue."""
    out = b"%PDF-1.7\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"<< /Size %d /Root 1 0 R %s >>" % (len(objects) + 1, info)
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n%s\nstartxref\n%d\n%%%%EOF\n"
        % (len(objects) + 1, table, trailer, len(out))
    )


def pages(*texts: str, info: bytes = b"") -> bytes:
    """One page per text. `info`: the entries of the document's information."""
    kids = b" ".join(b"%d 0 R" % (5 + 2 * i) for i in range(len(texts)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(texts), kids),
        FONT,
        b"<< %s >>" % info,
    ]
    for i, text in enumerate(texts):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (6 + 2 * i)
        )
        objects.append(written(text))
    return pdf(objects, b"/Info 4 0 R" if info else b"")


def encrypted(raw: bytes, password: str, algorithm: str = "RC4-128") -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(raw))
    writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
