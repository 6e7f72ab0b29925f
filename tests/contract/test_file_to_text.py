"""POST /file-to-text: RWKV Runner's answers and errors, and the ways in which files arrive."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import documents
import pytest
from serving import Server, children, wait_until


def form(data: bytes, name: str | None, field: str = "file_data") -> bytes:
    said = "" if name is None else f'; filename="{name}"'
    head = f'--B\r\nContent-Disposition: form-data; name="{field}"{said}\r\n\r\n'
    return head.encode() + data + b"\r\n--B--\r\n"


def send(
    server: Server, query: str, body: bytes, kind: str = "multipart/form-data; boundary=B"
) -> tuple[int, Any]:
    path = "/file-to-text" + (f"?{query}" if query else "")
    status, headers, raw = server.request("POST", path, body, {"Content-Type": kind})
    assert headers["content-type"] == "application/json"
    return status, json.loads(raw)


def texts(server: Server, query: str, body: bytes, **more: str) -> list[str]:
    status, answer = send(server, query, body, **more)
    assert status == 200, answer
    return [page["page_content"] for page in answer["pages"]]


def test_a_text(server: Server) -> None:
    raw = "héllo 你好\r\nline2\n".encode()
    status, answer = send(server, "file_name=a.txt&file_encoding=utf-8", form(raw, "a.txt"))
    page = {"page_content": raw.decode(), "metadata": {"source": "a.txt"}, "type": "Document"}
    assert (status, answer) == (200, {"pages": [page]})


def test_a_pdf(server: Server) -> None:
    info = b"/Title (A title) /Author (Somebody) /CreationDate (D:20260102) /Trapped /False"
    raw = documents.pages("One line\nand another", "", "Third", info=info)
    # The guide's own query; its name is in capitals, and decides: browsers call each part "blob".
    query = "file_name=233.PDF&file_encoding=utf-8"
    for name in ("233.PDF", None, "", "blob", "upload.txt"):
        status, answer = send(server, query, form(raw, name))
        assert status == 200
        first, second, third = answer["pages"]
        assert first["page_content"] == "One line\nand another\n"
        assert (second["page_content"], third["page_content"]) == ("", "Third\n")
        assert first["type"] == "Document"
        assert first["metadata"] == {
            "source": "233.PDF",
            "file_path": "233.PDF",
            "page": 0,
            "total_pages": 3,
            "format": "PDF 1.7",
            "title": "A title",
            "author": "Somebody",
            "subject": "",
            "keywords": "",
            "creator": "",
            "producer": "",
            "creationDate": "D:20260102",
            "modDate": "",
            "trapped": "False",
        }
        assert third["metadata"]["page"] == 2


@pytest.mark.parametrize(
    ("query", "name", "raw", "expected"),
    [
        ("", "A.TXT", b"x", "x"),
        ("", "not/a\u00e9path/你.Txt", b"x", "x"),
        ("file_name=a.txt", None, b"x", "x"),
        ("file_name=a.txt", "", b"x", "x"),
        ("file_name=a.txt", "a.md", b"x", "x"),
        ("file_name=blob", "a.txt", b"x", "x"),
        ("file_encoding=", "a.txt", b"x", "x"),
        ("file_encoding=gbk", "a.txt", "你好".encode("gbk"), "你好"),
        ("file_encoding=UTF_16", "a.txt", "é".encode("utf-16"), "é"),
        ("file_encoding=utf-8-sig", "a.txt", b"\xef\xbb\xbfx", "x"),
        # Its own mark says what it is, and is no part of it.
        ("", "a.txt", b"\xef\xbb\xbfx", "x"),
        ("", "a.txt", b"\xef\xbb\xbf", ""),
        ("", "a.txt", "é你".encode("utf-16"), "é你"),
        ("file_encoding=utf-8", "a.txt", b"\xfe\xff" + "é你".encode("utf-16-be"), "é你"),
        ("", "a.txt", "é你".encode("utf-32"), "é你"),
        ("", "a.txt", b"\0\0\xfe\xff" + "é你".encode("utf-32-be"), "é你"),
        ("file_encoding=utf-16-le", "a.txt", "é".encode("utf-16"), "é"),
        ("file_encoding=gb18030", "a.txt", "\ufeff你".encode("gb18030"), "你"),
        ("file_encoding=latin-1", "a.txt", b"\xff\xfex", "\xff\xfex"),
        ("", "a.txt", b"\r\n--A\r\n\x00\x7f", "\r\n--A\r\n\x00\x7f"),
    ],
)
def test_texts(server: Server, query: str, name: str | None, raw: bytes, expected: str) -> None:
    assert texts(server, query, form(raw, name)) == [expected]


def filled(data: bytes, headers: str = "", **fields: str) -> bytes:
    """A form with fields before and behind its file."""
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    named = f'--B\r\n{headers}Content-Disposition: form-data; name="file_data"; filename="blob"\r\n'
    file = named.encode() + headers.encode() + b"\r\n" + data + b"\r\n"
    return b"".join([*parts[:1], file, *parts[1:], b"--B--\r\n"])


def test_fields_beside_the_file(server: Server) -> None:
    raw = "你好".encode("gbk")
    fields = {"file_encoding": "gbk", "file_name": "a.txt", "other": "x" * 10_000}
    assert texts(server, "", filled(raw, **fields)) == ["你好"]
    fields = {"file_name": "a.txt", "file_encoding": "gbk"}
    assert texts(server, "", filled(raw, **fields)) == ["你好"]
    # What the query says counts more.
    assert texts(server, "file_encoding=latin-1", filled(b"\xe9", **fields)) == ["é"]
    assert texts(server, "file_name=b.pdf", filled(documents.pages("P"), **fields)) == ["P\n"]
    assert send(server, "", filled(b"x", file_name="a.md"))[1]["error"]["param"] == "file_name"


@pytest.mark.parametrize("value", ["7bit", "8bit", "binary", "8BIT", "Binary"])
@pytest.mark.parametrize("name", ["Content-Transfer-Encoding: ", "content-transfer-encoding:"])
def test_encodings_of_a_transfer_that_change_nothing(server: Server, name: str, value: str) -> None:
    """As Android's and Java's clients send them; in the file such a line is text."""
    raw = f"x\r\n{name}{value}\r\n\r\nx--Bx"
    body = filled(raw.encode(), f"{name}{value}\r\n", file_name="a.txt", other="y")
    assert texts(server, "", body) == [raw]


def test_other_encodings_of_a_transfer_are_refused(server: Server) -> None:
    body = filled(b"eA==", "Content-Transfer-Encoding: base64\r\n", file_name="a.txt")
    status, answer = send(server, "", body)
    assert status == 400 and "Content-Transfer-Encoding" in answer["error"]["message"]


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", ""])
def test_raw_bodies(server: Server, kind: str) -> None:
    assert texts(server, "file_name=a.txt", "né".encode(), kind=kind) == ["né"]
    assert texts(server, "file_name=b.pdf", documents.pages("Page"), kind=kind) == ["Page\n"]


@pytest.mark.parametrize(
    ("query", "body", "field", "detail"),
    [
        ("file_name=a.txt", form(b"\xc4\xe3", "a.txt"), "file_data",
         "'utf-8' codec can't decode byte 0xc4 in position 0: invalid continuation byte"),
        ("file_encoding=nope", form(b"x", "a.txt"), "file_encoding", "unknown encoding: nope"),
        ("file_encoding=zlib", form(b"x", "a.txt"), "file_encoding", None),
        ("file_encoding=%00", form(b"x", "a.txt"), "file_encoding", None),
        ("file_encoding=utf-8%00", form(b"x", "a.txt"), "file_encoding", None),
        ("file_encoding=%C3%A9", form(b"x", "a.txt"), "file_encoding", None),
        ("file_encoding=" + "x" * 100, form(b"x", "a.txt"), "file_encoding", None),
        ("file_encoding=unicode_escape", form(b"\\ud800", "a.txt"), "file_data", None),
        ("", form(b"not a pdf", "a.pdf"), "file_data", "cannot open broken document"),
        ("", form(b"", "a.pdf"), "file_data", "cannot open empty document"),
        ("file_name=a.md", form(b"x", "blob"), "file_name", "file type not supported"),
        ("", form(b"", "a.txt"), "file_data", "it is empty: no file was sent"),
        ("", form(b"x", "txt"), "file_name", "file type not supported"),
        ("file_name=.", b"x", "file_data", None),
        ("", form(b"x", None), "file_name", None),
        ("file_name=a.txt", form(b"x", "a.txt", "file"), "file_data", None),
        ("file_name=a.txt", form(b"x", "a.txt")[:-8], "file_data", None),
        ("file_name=a.txt", b"", "file_data", None),
        ("", form(b"x", "N.txt").replace(b"N", b"\xff"), "file_data", None),
    ],
)  # fmt: skip
def test_refusals(server: Server, query: str, body: bytes, field: str, detail: str | None) -> None:
    status, answer = send(server, query, body)
    assert status == 400
    error = answer["error"]
    assert error["param"] == field and error["message"].startswith(field)
    assert error["type"] == "invalid_request_error"
    assert detail is None or answer["detail"] == detail
    assert "Traceback" not in error["message"]


def test_a_form_without_a_boundary(server: Server) -> None:
    status, answer = send(server, "file_name=a.txt", b"x", "multipart/form-data")
    assert status == 400 and "boundary" in answer["error"]["message"]


def test_other_streams_go_on(server: Server) -> None:
    """A large form is taken apart, and its text read, while others are served."""
    raw = b"a line of text\n" * (1 << 20)
    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(texts, server, "", form(raw, "a.txt")) for _ in range(3)]
        for _ in range(20):
            server.post("/completions", {"prompt": "x", "max_tokens": 2})
        assert all(one.result() == [raw.decode()] for one in reading)


def test_many_at_once(server: Server) -> None:
    """The hub's loop reaps children as well: none may be missed."""
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: texts(server, "", form(b"%d" % i, "a.txt")), range(24)))
    assert got == [[str(i)] for i in range(24)]


def test_a_client_that_leaves_ends_its_reader(server: Server) -> None:
    """Else those who send and run would take all turns, each for the whole 30 s."""
    raw = b"9" * 3_000_000  # as punycode, which takes the square of the length
    query = "file_name=a.txt&file_encoding=punycode"
    head = f"POST /file-to-text?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head.encode() + raw)
        wait_until(lambda: len(children(server, "document_reader")) == 1)
    wait_until(lambda: not children(server, "document_reader"), 15)
