"""`rwkv-native tokenize`: text to token ids and back."""

from __future__ import annotations

import argparse
import sys

from web.cli.terminal import Refused, tokenizer_named

SUMMARY = "convert text to token ids and back"
EPILOG = """\
examples:
  rwkv-native tokenize "Hello world"
  rwkv-native tokenize --count < book.txt
  rwkv-native tokenize --decode 33155 40213
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text", nargs="*", help="text, or ids with --decode (default, and -: standard input)"
    )
    parser.add_argument(
        "--tokenizer",
        default="world",
        metavar="NAME",
        help="world, world-bytes, abc, midi, midi-piano, or a .json or .txt file (default: world)",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--decode", action="store_true", help="convert token ids to text")
    kind.add_argument("--count", action="store_true", help="print only the number of tokens")
    kind.add_argument("--pieces", action="store_true", help="print a line per token: id and bytes")


def run(args: argparse.Namespace) -> int:
    from rwkv_native.printable import printable

    tokenizer = tokenizer_named(args.tokenizer)
    # Bytes that are not UTF-8 have tokens as well.
    given = args.text not in ([], ["-"])
    raw = " ".join(args.text).encode("utf-8", "surrogateescape") if given else _input()
    if args.decode:
        words = raw.decode(errors="replace").replace(",", " ").strip("[] \n").split()
        for word in words:
            if not word.isdecimal():
                raise Refused(
                    f"--decode takes token ids, which are numbers, not {printable(word, 40)!r}"
                )
        ids = [int(word) for word in words]
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
        sys.stdout.buffer.write(b"\n" if sys.stdout.isatty() else b"")
        sys.stdout.flush()
        return 0
    ids = tokenizer.encode_bytes(raw)
    if args.count:
        print(len(ids))
    elif args.pieces:
        for token in ids:
            print(f"{token:>6} {tokenizer.decode_bytes([token])!r}")
    else:
        print(*ids)
    return 0


def _input() -> bytes:
    return sys.stdin.buffer.read()
