"""Hostile documents: read or refused within the limits, and nothing of them stays behind."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import documents
import gevent
import pytest
from documents import FONT, pdf, stream
from gevent.event import Event

from web import errors
from web.errors import Kind
from web.files.documents import Documents, Limits
from web.files.uploads import Upload
from web.sandbox import process

LIMITS = Limits(pages=50, seconds=4, memory=512 << 20, text=1 << 20)
ENDLESS = b"9" * 1_900_000  # as punycode, which takes the square of the length; 34 fit the limit
CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"


def read(raw: bytes, kind: str = "pdf", encoding: str = "utf-8", limits: Limits = LIMITS) -> bytes:
    return Documents(limits).read(Upload(f"a.{kind}", raw), kind, encoding)


def refused(raw: bytes, kind: str = "pdf", encoding: str = "utf-8", limits: Limits = LIMITS) -> str:
    with pytest.raises(errors.Refusal) as caught:
        read(raw, kind, encoding, limits)
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def one_page(content: bytes, resources: bytes = b"/Font << /F1 4 0 R >>") -> bytes:
    page = b"<< /Type /Page /Parent 2 0 R /Contents 5 0 R /Resources << %s >> >>" % resources
    return pdf([CATALOG, b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>", page, FONT, content])


def flate(data: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        data = zlib.compress(data, 1)
    return stream(data, b"/Filter [%s]" % (b"/FlateDecode " * times))


def deep_tree(depth: int) -> bytes:
    middle = [b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % (3 + i) for i in range(depth)]
    return pdf([CATALOG, *middle, b"<< /Type /Page >>"])


# Name -> a document that no parser should fail to survive.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "much in one stream": lambda: one_page(flate(bytes(200 << 20))),
    "much behind two filters": lambda: one_page(flate(bytes(200 << 20), 2)),
    "endless text": lambda: one_page(flate(b"BT /F1 1 Tf " + b"(aaaa) Tj " * 200_000 + b"ET")),
    "a page tree of itself": lambda: pdf(
        [CATALOG, b"<< /Type /Pages /Count 1 /Kids [2 0 R 2 0 R] >>"]
    ),
    "a deep page tree": lambda: deep_tree(20_000),
    "many pages": lambda: pdf(
        [
            CATALOG,
            b"<< /Type /Pages /Count 300000 /Kids [%s] >>" % (b"3 0 R " * 300_000),
            b"<< /Type /Page >>",
        ]
    ),
    "no pages": lambda: pdf([CATALOG, b"<< /Type /Pages /Count 2000000000 /Kids [] >>"]),
    "a catalogue of itself": lambda: pdf([b"1 0 R"]),
    "deep arrays": lambda: pdf([CATALOG, b"<< /Kids " + b"[" * 100_000 + b"]" * 100_000 + b">>"]),
    "deep dictionaries": lambda: pdf([CATALOG, b"<</a" * 100_000 + b">>" * 100_000]),
    "a form that draws itself": lambda: pdf(
        [
            CATALOG,
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Contents 4 0 R /Resources << /XObject << /X 4 0 R >> >> >>",
            stream(
                b"/X Do " * 10,
                b"/Type /XObject /Subtype /Form /Resources << /XObject << /X 4 0 R >> >>",
            ),
        ]
    ),
    "a content of itself": lambda: one_page(b"[5 0 R 5 0 R]"),
    "a length of itself": lambda: one_page(b"<< /Length 5 0 R >>\nstream\nBT (x) Tj ET\nendstream"),
    "an earlier table of itself": lambda: documents.pages("x").replace(
        b"/Root 1 0 R", b"/Root 1 0 R /Prev 9"
    ),
    "no table": lambda: documents.pages("x").replace(b"xref", b"x@#f"),
    "half of it": lambda: documents.pages("x" * 1000)[:700],
    "only a header": lambda: b"%PDF-1.7\n" + b"%%EOF\n" * 1000,
    "numbers without end": lambda: pdf([CATALOG, b"9" * 1_000_000]),
    "a name without end": lambda: pdf([b"<< /Type /" + b"A" * 5_000_000]),
    "noise": lambda: b"%PDF-1.4\n" + bytes(range(256)) * 4000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents(name: str) -> None:
    raw = HOSTILE[name]()
    begun = time.monotonic()
    try:
        assert read(raw).startswith(b'{"pages":[{')
    except errors.Refusal as problem:
        assert problem.kind is Kind.INVALID
        assert "Traceback" not in problem.message and "/" not in problem.message
    assert time.monotonic() - begun < LIMITS.seconds + 5


@pytest.mark.parametrize("algorithm", ["RC4-40", "RC4-128"])
def test_encrypted_documents(algorithm: str) -> None:
    plain = documents.pages("A secret")
    assert "encrypted" in refused(documents.encrypted(plain, "password", algorithm))
    # Without a password for reading every viewer opens it.
    assert b"A secret" in read(documents.encrypted(plain, "", algorithm))


def test_limits() -> None:
    few = Limits(pages=2, seconds=10, memory=512 << 20, text=1000)
    assert b'"total_pages":2' in read(documents.pages("a", "b"), limits=few)
    assert "3 pages; this server reads at most 2" in refused(
        documents.pages("a", "b", "c"), limits=few
    )
    assert "larger than 1000 bytes" in refused(b"x" * 1000, "txt", limits=few)
    assert "larger than 1000 bytes" in refused(documents.pages("y" * 1000), limits=few)
    hasty = Limits(pages=2, seconds=1, memory=512 << 20, text=1000)
    assert "within 1 s" in refused(ENDLESS, "txt", "punycode", hasty)
    tight = Limits(pages=2, seconds=10, memory=128 << 20, text=1 << 30)
    assert "memory" in refused(bytes(100 << 20), "txt", limits=tight)


def readers() -> list[str]:
    """The processes that read documents now, wherever they hang."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if mine(path)]
    return [command.decode() for command in commands if b"document_reader" in command]


def mine(cmdline: Path) -> bool:
    try:
        return f"PPid:\t{os.getpid()}\n" in cmdline.with_name("status").read_text()
    except OSError:  # it has just ended
        return False


def outcome(reader: Documents, raw: bytes, encoding: str) -> bytes | errors.Refusal:
    try:
        return reader.read(Upload("a.txt", raw), "txt", encoding)
    except errors.Refusal as problem:
        return problem


def test_nothing_stays_behind() -> None:
    """Neither descriptors nor processes, however a reading ends."""
    reader = Documents(Limits(pages=2, seconds=1, memory=512 << 20, text=1000))
    outcome(reader, b"x", "utf-8")  # gevent opens its own
    before = len(list(Path("/proc/self/fd").iterdir()))
    for raw, encoding in ((b"x", "utf-8"), (b"\xff", "utf-8"), (ENDLESS, "punycode")):
        outcome(reader, raw, encoding)
    cut = gevent.spawn(outcome, reader, ENDLESS, "punycode")
    gevent.sleep(0.3)
    assert len(readers()) == 1
    cut.kill()  # as a server does that stops
    assert not readers()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_many_at_once_wait_or_are_sent_away() -> None:
    reader = Documents(Limits(pages=2, seconds=5, memory=512 << 20, text=1000))
    reading = [gevent.spawn(outcome, reader, ENDLESS, "punycode") for _ in range(60)]
    with gevent.Timeout(4):
        while sum(one.ready() for one in reading) < 60 - 2 - 32:
            gevent.sleep(0.01)
    over = [one.value for one in reading if one.ready()]
    assert len(over) == 60 - 2 - 32 and len(readers()) <= 2
    assert {problem.kind for problem in over} == {Kind.BUSY}
    gevent.killall(reading)
    assert not readers()


def test_a_child_leaves_no_bytecode(tmp_path: Path) -> None:
    """Cut off by the limit on its output, it would break every import after it."""
    (tmp_path / "other.py").write_text("VALUE = 1\n")
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import other\n")
    with process.memory_file("a") as given, process.memory_file("b") as got:
        allowance = process.Allowance(seconds=10, memory=512 << 20, output=16)
        assert process.run(script, (), given, got, allowance) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.py", "script.py"]


def test_documents_that_wait_have_a_limit_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in memory: of large ones fewer may wait."""
    monkeypatch.setattr("web.files.documents._MOST_BYTES", 5 << 20)
    turn = Event()
    reader = Documents(LIMITS)
    monkeypatch.setattr(Documents, "_read", lambda *_: turn.wait() and b"")
    large = Upload("a.txt", b"x" * (2 << 20))
    at_work = [gevent.spawn(reader.read, large, "txt", "utf-8") for _ in range(2 + 2)]
    gevent.sleep(0.01)
    with pytest.raises(errors.Refusal) as refusal:
        reader.read(large, "txt", "utf-8")
    assert refusal.value.kind is Kind.BUSY
    small = gevent.spawn(reader.read, Upload("b.txt", b"x"), "txt", "utf-8")
    turn.set()
    gevent.joinall([*at_work, small], timeout=10, raise_error=True)
    assert all(one.ready() for one in [*at_work, small])
    assert reader.read(large, "txt", "utf-8") == b""
