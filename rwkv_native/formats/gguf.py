"""The GGUF container: typed keys and values, then the tensors.

Owns every check of what the file claims and the way values are written; layouts.py knows the names.
Called by checkpoint.py and convert.py. Types that the engine cannot read are refused by name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from .tensor import (
    BLOCKS,
    MAX_NAME,
    Refused,
    Tensor,
    check_name,
    contiguous,
    is_extent,
    nbytes_of,
)

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32  # where general.alignment does not say another one
# A vocabulary of 150 000 words and its merges take 8 MB. The limits keep the refusal of a hostile
# file below a second.
MAX_HEADER = 64 << 20
MAX_STRINGS = 600_000
MAX_KEYS = 10_000
MAX_TENSORS = 50_000
MAX_STRING = 1 << 20

STRING, ARRAY = 8, 9
# Value types of a fixed size.
FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
         11: "<q", 12: "<d"}  # fmt: skip
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 28: "F64", 30: "BF16",
}  # fmt: skip
_OTHERS = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """A GGUF file. `values` holds numbers, texts as bytes, and arrays of both as lists."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else None

    def number(self, key: str) -> int | None:
        value = self.values.get(key)
        return value if type(value) is int else None


def read(file: BinaryIO, path: str, size: int) -> Contents:
    """The index and the values, checked against the size of the file."""
    return _Reader(file, path, size).run()


def facts(found: Contents) -> dict[str, str]:
    """The values that are numbers, flags or short texts, as metadata for people."""
    out = {}
    for key, value in found.values.items():
        shown = found.text(key) if isinstance(value, bytes) else str(value)
        if not isinstance(value, list) and shown is not None and len(shown) <= 200:
            out[key] = "".join(c if c.isprintable() else " " for c in shown)
    return out


class _Reader:
    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._left = min(size, MAX_HEADER)  # bytes that the header may still take
        self._strings = 0
        file.seek(0)

    def run(self) -> Contents:
        self._take(4)
        version = self._number("<I")
        if version not in (2, VERSION):
            if version in (2 << 24, 3 << 24):
                raise Refused("is a big-endian GGUF; little-endian is read")
            raise Refused(f"is a GGUF of version {version}; 2 and 3 are read")
        n_tensors, n_values = self._number("<Q"), self._number("<Q")
        # The least that an entry takes, so that a count is believed only if it can be true.
        for what, n, least, most in (
            ("tensors", n_tensors, 24, MAX_TENSORS),
            ("keys", n_values, 13, MAX_KEYS),
        ):
            if n > most or n * least > self._left:
                raise Refused(f"claims {n} {what}, more than it can hold or than {most}")
        values: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._key()
            if key in values:
                raise Refused(f"has the key {key[:80]!a} twice")
            values[key] = self._value(key, self._number("<I"))
        alignment = values.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment % 8:
            raise Refused(
                f"has the alignment {str(alignment)[:20]}, not a multiple of 8 up to 2**20"
            )
        parts = values.get("split.count", 0)
        if type(parts) is int and parts > 1:
            raise Refused(f"is one of {parts} parts; join them with `llama-gguf-split --merge`")
        return Contents(self._tensors(n_tensors, alignment), values)

    # -- input

    def _take(self, n: int) -> bytes:
        if n > self._left:
            if self._size > MAX_HEADER:
                raise Refused(f"has a header of more than {MAX_HEADER} bytes")
            raise Refused("is cut off or damaged: the header ends beyond the file")
        raw = self._file.read(n)
        if len(raw) != n:
            raise Refused("is cut off: the header ends beyond the file")
        self._left -= n
        return raw

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self, most: int = MAX_STRING) -> bytes:
        self._strings += 1
        if self._strings > MAX_STRINGS:
            raise Refused(f"has more than {MAX_STRINGS} texts in its header")
        (n,) = _U64.unpack(self._take(8))
        if n > most:
            raise Refused(f"has a text of {n} bytes in its header, more than {most}")
        return self._take(n)

    def _key(self) -> str:
        try:
            key = self._string(MAX_NAME).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("has a name that is not UTF-8") from None
        if not key or not key.isprintable():
            raise Refused(f"has a name that cannot be printed: {key[:80]!a}")
        return key

    def _value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in FIXED:
            if kind == 7 and (flag := self._take(1)) not in (b"\0", b"\1"):
                raise Refused(f"the value of {key!a} is neither true nor false")
            return flag == b"\1" if kind == 7 else self._number(FIXED[kind])
        if kind != ARRAY:
            raise Refused(f"the value of {key!a} has the unknown type {kind}")
        inner, n = self._number("<I"), self._number("<Q")
        if inner == ARRAY:
            raise Refused(f"the value of {key!a} is an array of arrays")
        if inner != STRING and inner not in FIXED:
            raise Refused(f"the value of {key!a} is an array of the unknown type {inner}")
        size = 8 if inner == STRING else struct.calcsize(FIXED[inner])
        if n * size > self._left:
            raise Refused(f"the value of {key!a} claims {n} elements and ends beyond the file")
        if inner == STRING:
            return [self._string() for _ in range(n)]
        return list(struct.unpack(f"<{n}{FIXED[inner][1]}", self._take(n * size)))

    # -- tensors

    def _tensors(self, n: int, alignment: int) -> dict[str, Tensor]:
        rows: dict[str, tuple[tuple[int, ...], str, int]] = {}
        for _ in range(n):
            name = self._key()
            check_name(name)
            if name in rows:
                raise Refused(f"has the tensor {name[:80]!a} twice")
            rank = self._number("<I")
            if not 1 <= rank <= 4:
                raise Refused(f"tensor {name!a} has {rank} dimensions, not 1 to 4")
            extents = struct.unpack(f"<{rank}Q", self._take(8 * rank))
            if not all(is_extent(e) for e in extents):
                raise Refused(f"tensor {name!a} has the impossible shape {list(extents)}")
            kind, offset = self._number("<I"), self._number("<Q")
            rows[name] = (tuple(reversed(extents)), self._dtype(name, kind, extents), offset)
        at = self._file.tell()
        start = at + -at % alignment

        tensors: dict[str, Tensor] = {}
        for name, (shape, dtype, offset) in rows.items():
            tensor = Tensor(name, dtype, shape, contiguous(shape), self._path, start + offset, 0)
            nbytes = nbytes_of(dtype, tensor.count)
            if offset % alignment:
                raise Refused(f"tensor {name!a} starts at {offset}, not a multiple of {alignment}")
            if start + offset + nbytes > self._size:
                raise Refused(f"tensor {name!a} ends beyond the file, which is cut off or damaged")
            tensors[name] = Tensor(
                name, dtype, shape, tensor.strides, self._path, start + offset, nbytes
            )
        end, before = 0, ""
        for tensor in sorted(tensors.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise Refused(f"tensors {before!a} and {tensor.name!a} overlap")
            end, before = tensor.offset + tensor.nbytes, tensor.name
        return tensors

    @staticmethod
    def _dtype(name: str, kind: int, extents: tuple[int, ...]) -> str:
        if kind not in TYPES:
            known = _OTHERS.get(kind, f"number {kind}")
            read = ", ".join(TYPES.values())
            raise Refused(f"tensor {name!a} has the type {known}; read are {read}")
        dtype = TYPES[kind]
        if dtype in BLOCKS and extents[0] % BLOCKS[dtype][0]:
            raise Refused(
                f"tensor {name!a} has rows of {extents[0]}, which are not whole blocks of"
                f" {dtype} ({BLOCKS[dtype][0]} elements)"
            )
        return dtype


_U64 = struct.Struct("<Q")


# -- writing


def header(values: dict[str, Any], rows: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """All that stands before the bytes of tensors (name, dtype, shape), each of which must start at
    the next multiple of ALIGNMENT.

    values: bool, int (as uint32), float (as float32), str, list of int (as int32) or of bytes.
    """
    numbers = {name: kind for kind, name in TYPES.items()}
    out = [MAGIC, struct.pack("<IQQ", VERSION, len(rows), len(values))]
    for key, value in values.items():
        out += [_written(key.encode()), _written_value(value)]
    at = 0
    for name, dtype, shape in rows:
        out.append(_written(name.encode()))
        out.append(struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        out.append(struct.pack("<IQ", numbers[dtype], at))
        at += padded(nbytes_of(dtype, _product(shape)))
    raw = b"".join(out)
    return raw + bytes(padded(len(raw)) - len(raw))


def padded(n: int) -> int:
    return n + -n % ALIGNMENT


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _written(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _written_value(value: Any) -> bytes:
    if type(value) is bool:
        return struct.pack("<I?", 7, value)
    if type(value) is int:
        return struct.pack("<II", 4, value)
    if type(value) is float:
        return struct.pack("<If", 6, value)
    if type(value) is str:
        return struct.pack("<I", STRING) + _written(value.encode())
    if all(type(v) is bytes for v in value):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_written, value))
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, 5, len(value), *value)


# -- the tokenizer that a file carries


def tokens(values: dict[str, Any]) -> list[bytes] | None:
    """The bytes of every id of a World-style vocabulary ("rwkv"); None if there is another or none.

    Words are escaped as Python prints bytes. Control and unused ids have no bytes.
    """
    words = values.get("tokenizer.ggml.tokens")
    if values.get("tokenizer.ggml.model") != b"rwkv" or type(words) is not list:
        return None
    if not all(type(w) is bytes for w in words):
        raise Refused("tokenizer.ggml.tokens is not a list of texts")
    kinds = values.get("tokenizer.ggml.token_type")
    if type(kinds) is not list or len(kinds) != len(words):
        kinds = None
    found = []
    for i, word in enumerate(words):
        special = word == b"<s>" and i == 0 if kinds is None else kinds[i] in (3, 5)
        if special or word == b"[PAD%d]" % i:
            found.append(b"")
        else:
            found.append(_unescaped(word))
    return found


_ESCAPES = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("\\"): b"\\",
            ord("'"): b"'", ord('"'): b'"'}  # fmt: skip


_HEX = frozenset(b"0123456789abcdefABCDEF")


def _unescaped(word: bytes) -> bytes:
    if b"\\" not in word:
        return word
    out = bytearray()
    at = 0
    while (found := word.find(b"\\", at)) >= 0:
        out += word[at:found]
        code = word[found + 1] if found + 1 < len(word) else -1
        if code == ord("x"):
            digits = word[found + 2 : found + 4]
            if len(digits) != 2 or not set(digits) <= _HEX:
                raise Refused(f"the word {word[:40]!a} has an escape that is not \\xHH")
            out.append(int(digits, 16))
            at = found + 4
        elif code in _ESCAPES:
            out += _ESCAPES[code]
            at = found + 2
        else:
            raise Refused(f"the word {word[:40]!a} has an unknown escape")
    return bytes(out + word[at:])


def escaped(token: bytes) -> bytes:
    """A token as the format writes it: Python's bytes literal without quotes."""
    return repr(token)[2:-1].encode()
