"""Foreign text in messages and logs: one line, no codes, always UTF-8."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest

from rwkv_native.printable import printable
from web import errors


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("model-7B.pth", "model-7B.pth"),
        ("模型　一号 é😀", "模型　一号 é😀"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("1.0\x7f\x1b[31m", r"1.0\x7f\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2028c\u2066", r"a\u202eb\u2028c\u2066"),
        (os.fsdecode(b"rwkv-\xe9.pth"), r"rwkv-\xe9.pth"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        (ValueError("x\0"), r"x\x00"),
        (12, "12"),
        ("", ""),
    ],
)
def test_what_is_shown(given, shown):
    assert printable(given) == shown


def test_all_characters_are_one_line_of_utf8():
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))
    shown.encode()
    assert len(shown.splitlines()) == 1
    kinds = {unicodedata.category(char) for char in set(shown)}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_long_text_is_cut():
    assert printable("x" * 80, 80) == "x" * 80
    assert printable("x" * 81, 80) == "x" * 80 + "..."
    assert printable("\n" * 1000, 3) == r"\n\n\n..."


def test_errors_show_values_of_clients_so():
    assert errors.clip("a\x1b\n" + "b" * 100) == r"a\x1b\n" + "b" * 77 + "..."
