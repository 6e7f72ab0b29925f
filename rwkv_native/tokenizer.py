"""Tokenizers: text to token ids and back, by the vocabularies that C++ holds.

Owns the choice of a vocabulary: the World file of the `rwkv` wheel (read as data; that package is
never imported) or plain bytes. Called by callers and engine.py. Never knows about prompts or chat.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._ffi import check, ffi, id_array, lib
from .errors import InvalidError, MissingFileError, UnsupportedError

if TYPE_CHECKING:
    from .model import Model

WORLD_FILE = "rwkv_vocab_v20230424.txt"
WORLD_ROWS = 65536


class Tokenizer:
    """A vocabulary with greedy longest match over bytes. Immutable; usable from every thread.

    name: "world" or "world-bytes". end_ids: ids that mean end of document; they have no text.
    """

    __slots__ = ("_handle", "end_ids", "name", "vocab_size")

    name: str
    end_ids: tuple[int, ...]
    vocab_size: int  #: one more than the largest id

    def __init__(
        self, tokens: Sequence[bytes], *, name: str = "custom", end_ids: Sequence[int] = (0,)
    ) -> None:
        """tokens[i] are the bytes of id i; b"" where there is no such token."""
        offsets = np.zeros(len(tokens) + 1, np.uint64)
        np.cumsum([len(t) for t in tokens], out=offsets[1:])
        out = ffi.new("rwkv_vocab **")
        check(
            lib.rwkv_vocab_new(
                out,
                ffi.from_buffer("uint8_t[]", b"".join(tokens)),
                ffi.from_buffer("uint64_t[]", offsets),
                len(tokens),
            )
        )
        self._set(out[0], name, end_ids)

    def _set(self, handle: Any, name: str, end_ids: Sequence[int]) -> None:
        self._handle = ffi.gc(handle, lib.rwkv_vocab_free)
        self.name = name
        self.end_ids = tuple(end_ids)
        size = ffi.new("size_t *")
        check(lib.rwkv_vocab_size(size, self._handle))
        self.vocab_size = size[0]

    def __repr__(self) -> str:
        return f"<rwkv_native.Tokenizer {self.name}, {self.vocab_size} ids>"

    @classmethod
    def world(cls) -> Tokenizer:
        """The World vocabulary (65529 tokens), from the file that the `rwkv` wheel carries.

        Raises FileNotFoundError if that package is not installed.
        """
        return _world()

    @classmethod
    def world_bytes(cls) -> Tokenizer:
        """The first 257 ids of the World vocabulary: id = byte + 1, and 0 for end of document."""
        return _world_bytes()

    @classmethod
    def for_model(cls, model: Model) -> Tokenizer:
        """The tokenizer of a model.

        The file's metadata `rwkv.tokenizer` ("world" or "world-bytes") decides where it is present,
        otherwise the number of rows: 65536 or more means World; 257 or fewer means world-bytes,
        because a model with so few rows can only have been trained on single bytes.
        Raises UnsupportedError (a ValueError) where neither tells.
        """
        named = model.info.metadata.get("rwkv.tokenizer")
        if named is not None:
            return cls.named(named)
        rows = model.info.vocab
        if rows >= WORLD_ROWS:
            return cls.world()
        if rows <= 257:
            return cls.world_bytes()
        raise UnsupportedError(
            f"nothing in {model.info.path} tells the tokenizer of its {rows} rows;"
            f" name one: {', '.join(NAMES)}"
        )

    @classmethod
    def named(cls, name: str) -> Tokenizer:
        """A tokenizer by its name: "world" or "world-bytes"."""
        if name not in NAMES:
            raise UnsupportedError(f"there is no tokenizer {name!r}; there are {', '.join(NAMES)}")
        return NAMES[name]()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special words such as <|endoftext|> are ordinary text.

        Raises ValueError for a lone surrogate, or a byte that starts no token.
        """
        if not isinstance(text, str):
            raise InvalidError(f"text must be a str, not {type(text).__name__}")
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidError(
                f"the text holds a lone surrogate at position {error.start}, which is no character"
            ) from None
        return self.encode_bytes(raw)

    def encode_bytes(self, raw: bytes) -> list[int]:
        """Ids of a byte string, which need not be UTF-8."""
        ids, n = ffi.new("int32_t **"), ffi.new("size_t *")
        check(lib.rwkv_vocab_encode(ids, n, self._handle, ffi.from_buffer(raw), len(raw)))
        try:
            return ffi.unpack(ids[0], n[0]) if n[0] else []
        finally:
            lib.rwkv_ids_free(ids[0])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. End ids add nothing."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids. Raises ValueError for an id outside the vocabulary."""
        array = id_array("ids", ids, self.vocab_size)
        size = ffi.new("size_t *")
        capacity = 16 * len(array) + 16  # World's average is 7 bytes, its longest token 128
        while True:
            out = ffi.new("char[]", capacity)
            check(lib.rwkv_vocab_decode(out, capacity, size, self._handle, array, len(array)))
            if size[0] <= capacity:
                return ffi.unpack(out, size[0])
            capacity = size[0]


def world_file() -> Path:
    """Where the World vocabulary lies; the package that carries it is found but not imported."""
    spec = importlib.util.find_spec("rwkv")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / WORLD_FILE).is_file():
            return path
    raise MissingFileError(
        f"{WORLD_FILE} was not found: install the package `rwkv`, whose wheel carries it"
    )


@functools.cache
def _world() -> Tokenizer:
    raw = world_file().read_bytes()
    out = ffi.new("rwkv_vocab **")
    check(lib.rwkv_vocab_parse(out, ffi.from_buffer(raw), len(raw)))
    tokenizer = object.__new__(Tokenizer)
    tokenizer._set(out[0], "world", (0,))
    return tokenizer


@functools.cache
def _world_bytes() -> Tokenizer:
    return Tokenizer([b"", *(bytes([b]) for b in range(256))], name="world-bytes")


NAMES = {"world": Tokenizer.world, "world-bytes": Tokenizer.world_bytes}
