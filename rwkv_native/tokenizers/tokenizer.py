"""Tokenizers: text to token ids and back.

Owns the choice of a vocabulary: by a model's metadata, by the tokens or the number of rows that it
has, or by the name or file that a caller gives. The World file is the one of the `rwkv` wheel (read
as data; that package is never imported). Called by callers and engine.py. Never knows about prompts
or chat.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._ffi import check, ffi, id_array, lib
from ..errors import Error, FileError, InvalidError, MissingFileError, UnsupportedError
from ..model import Model
from ..printable import printable
from . import vocabularies
from .vocabularies import Vocabulary

WORLD_FILE = "rwkv_vocab_v20230424.txt"
_WORLD_IDS = 65530
_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
_LARGEST_FILE = 64 << 20
_ALIASES = {
    "rwkv_vocab_v20230424": "world",
    "abc_tokenizer": "abc",
    "tokenizer-midi": "midi",
    "tokenizer-midipiano": "midi-piano",
}


class Tokenizer:
    """A vocabulary and how text becomes its ids. Immutable; usable from every thread.

    Made by world(), named(), open() or for_model(); or from a table of bytes, which then match
    greedily, the longest first. An engine prints a drawn token as its bytes, glue included: a blank
    before each word of music, `, ` before each number of REMI; decode() joins by the same glue.
    """

    __slots__ = ("_decode", "_encode", "_handle", "_prompt", "end_ids", "name", "vocab_size")

    name: str
    """"world", "world-bytes", "20B", "abc", "midi", "midi-piano", "remi", or a file's stem."""
    end_ids: tuple[int, ...]
    """Ids that end an answer; they have no text."""
    vocab_size: int
    """One more than the largest id."""

    def __init__(
        self, tokens: Sequence[bytes], *, name: str = "custom", end_ids: Sequence[int] = (0,)
    ) -> None:
        """tokens[i] are the bytes of id i; b"" where there is no such token."""
        if not isinstance(tokens, Sequence) or not all(isinstance(t, bytes) for t in tokens):
            raise InvalidError("tokens must be a list of bytes, one for each id")
        self._adopt(Vocabulary(name, tokens, tuple(id_array("end_ids", end_ids))))

    def _adopt(self, vocabulary: Vocabulary) -> None:
        tokens = vocabulary.tokens
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
        self._set(out[0], vocabulary)

    def _set(self, handle: Any, vocabulary: Vocabulary) -> None:
        self._handle = ffi.gc(handle, lib.rwkv_vocab_free)
        self.name = vocabulary.name
        self.end_ids = vocabulary.end_ids
        self._encode = vocabulary.encode
        self._decode = vocabulary.decode
        self._prompt = vocabulary.prompt
        size = ffi.new("size_t *")
        check(lib.rwkv_vocab_size(size, self._handle))
        self.vocab_size = size[0]

    @classmethod
    def _of(cls, vocabulary: Vocabulary) -> Tokenizer:
        self = object.__new__(cls)
        self._adopt(vocabulary)
        return self

    def __repr__(self) -> str:
        return f"<rwkv_native.Tokenizer {self.name}, {self.vocab_size} ids>"

    def __copy__(self) -> Tokenizer:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> Tokenizer:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Tokenizer cannot be pickled; make one in the other process, by"
            " rn.Tokenizer.for_model, named or open"
        )

    # -- which one

    @classmethod
    def world(cls) -> Tokenizer:
        """The World vocabulary (65529 tokens), from the file that the `rwkv` wheel carries.

        Raises FileNotFoundError if that package is not installed.
        """
        return _world()

    @classmethod
    def world_bytes(cls) -> Tokenizer:
        """The first 257 ids of the World vocabulary: id = byte + 1, and 0 for end of document."""
        return _made("world-bytes")

    @classmethod
    def named(cls, name: str) -> Tokenizer:
        """A tokenizer that needs no file of yours: "world", "world-bytes", "abc", "midi" or
        "midi-piano"; RWKV Runner's names for them are understood, too.

        Raises UnsupportedError (a ValueError) for another name.
        """
        known = _ALIASES.get(name, name)
        if known == "world":
            return cls.world()
        if known not in _RULES:
            raise UnsupportedError(
                f"there is no tokenizer {name!r}; there are {', '.join(NAMES)}, and files:"
                " a .json of HuggingFace or REMI, or a .txt like World's"
            )
        return _made(known)

    @classmethod
    def open(cls, name_or_path: str | os.PathLike[str]) -> Tokenizer:
        """A tokenizer by its name, as named(), or from a file.

        .txt: a vocabulary in the form of World's. .json: HuggingFace's tokenizer.json, or the
        parameters of REMI that MidiTok saves.
        Raises FileNotFoundError, OSError, or ValueError that says what is wrong with the file.
        """
        given = os.fspath(name_or_path)
        if not isinstance(given, str):
            raise InvalidError(f"a tokenizer's name must be a str, not {type(given).__name__}")
        kind = _READERS.get(Path(given).suffix.lower())
        if kind is None:
            return cls.named(given)
        path = Path(given)
        if not path.exists() and _ALIASES.get(path.stem) == "world":
            return cls.world()  # the wheel's, by the name of its file
        raw = _contents(path)
        try:
            return kind(raw, path.stem)
        except Error as problem:
            raise type(problem)(f"{path}: {problem}") from None

    @classmethod
    def for_model(cls, model: Model) -> Tokenizer:
        """The tokenizer of a model: the one that the file's metadata `rwkv.tokenizer` names, else
        the tokens that the file carries (GGUF), else by the number R of its rows, as RWKV Runner:

            R < 129 abc, 129 to 257 world-bytes, < 2176 REMI, < 20096 midi-piano,
            < 50277 midi, < 65536 20B, 65536 and more world

        (129 to 257 is our own rule: a text model with so few rows knows single bytes.) REMI and 20B
        need a file that this package does not carry.
        Raises UnsupportedError (a ValueError) that says which.
        """
        info = model.info
        named = info.metadata.get("rwkv.tokenizer")
        if named is not None:
            # Only a name: a model's file does not choose which other files are opened.
            if _ALIASES.get(named, named) in NAMES:
                return cls.named(named)
            raise UnsupportedError(
                f"{info.path} asks for the tokenizer {named!a:.80}, which is not one of"
                f" {', '.join(NAMES)}; {_GIVE_FILE}"
            )
        if (tokens := getattr(model, "tokenizer_tokens", None)) is not None:
            # Id 0 ends a document in every RWKV vocabulary, whatever such a file calls it.
            vocabulary = Vocabulary(_name_of(tokens, "gguf"), [b"", *tokens[1:]])
            try:
                return cls._of(vocabulary)
            except InvalidError as problem:
                raise InvalidError(f"the tokens in {info.path}: {problem}") from None
        rows = info.vocab
        name = next((name for limit, name in _BY_ROWS if rows < limit), "world")
        if name in NAMES:
            return cls.named(name)
        raise UnsupportedError(
            f"the {rows} rows of {info.path} mean the tokenizer {name}, whose file is not part of"
            f" this package; {_GIVE_FILE}"
        )

    # -- what it does

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        World, and all that match greedily: special words such as <|endoftext|> are ordinary text.
        MIDI: lower case, split at white space, 0 for an unknown word.
        Raises ValueError for a lone surrogate, or a byte that starts no token.
        """
        raw = _utf8(text)
        return self.encode_bytes(raw) if self._encode is None else self._encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a whole prompt, as an engine takes it: encode(), except that for 20B two new lines
        at the very end stay two tokens, as they are inside a text."""
        ids = self.encode(text)
        return ids if self._prompt is None else self._prompt(ids)

    def encode_array(self, text: str) -> np.ndarray:
        """encode_prompt() as int32 [tokens]. Where the vocabulary is one of bytes no Python list is
        made and the GIL is free: for long prompts, and for calls from a thread."""
        if self._encode is None and self._prompt is None:
            return self._greedy(_utf8(text))
        return np.array(self.encode_prompt(text), np.int32)

    def encode_marked(self, text: str, marks: Iterable[int]) -> tuple[np.ndarray, list[int]]:
        """encode_array(), and how many tokens end before or at the marks, which are numbers of
        characters: ascending, each number once, without 0. There are none where tokens are not the
        text's own bytes, as in music.
        """
        ids = self.encode_array(text)
        return ids, self.marked(ids, text, marks)

    def marked(self, ids: np.ndarray, text: str, marks: Iterable[int]) -> list[int]:
        """The same of int32 ids that print a text, however it was encoded."""
        if self._decode is not None or self._size(ids, len(ids)) != len(text.encode()):
            return []
        counts = set()
        for mark in marks:
            size = len(text[:mark].encode())
            above = bisect_right(range(len(ids) + 1), size, key=lambda n: self._size(ids, n))
            counts.add(above - 1)
        return sorted(counts - {0})

    def fitting(self, ids: np.ndarray, text: str) -> tuple[int, int]:
        """How many of the first int32 ids print what a text begins with, in whole characters; and
        how many characters these are. None where tokens are not the text's own bytes, as in music.
        """
        if self._decode is not None or not len(ids):
            return 0, 0
        printed, wanted = self.decode_bytes(ids), _utf8(text)
        count = len(ids)
        if not wanted.startswith(printed):
            count = bisect_right(
                range(1, count + 1), 0, key=lambda n: _differ(printed, wanted, self._size(ids, n))
            )
        while count:
            size = self._size(ids, count)
            if size == len(wanted) or wanted[size] & 0xC0 != 0x80:
                return count, len(wanted[:size].decode())
            count -= 1
        return 0, 0

    def _size(self, ids: np.ndarray, n: int) -> int:
        """Bytes of the first n ids."""
        size = ffi.new("size_t *")
        array = ffi.from_buffer("int32_t[]", ids)
        check(lib.rwkv_vocab_decode(ffi.NULL, 0, size, self._handle, array, n))
        return size[0]

    def encode_bytes(self, raw: bytes) -> list[int]:
        """Ids of a byte string, which need not be UTF-8 where the vocabulary is one of bytes."""
        if self._encode is not None:
            try:
                return self._encode(bytes(raw).decode())
            except UnicodeDecodeError as error:
                raise InvalidError(
                    f"the tokenizer {self.name} takes UTF-8 only: byte {error.start} is not"
                ) from None
        return self._greedy(raw).tolist()

    def _greedy(self, raw: bytes) -> np.ndarray:
        ids, n = ffi.new("int32_t **"), ffi.new("size_t *")
        check(lib.rwkv_vocab_encode(ids, n, self._handle, ffi.from_buffer(raw), len(raw)))
        try:
            out = np.empty(n[0], np.int32)
            ffi.memmove(ffi.from_buffer(out), ids[0], out.nbytes)
            return out
        finally:
            lib.rwkv_ids_free(ids[0])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. End ids add nothing."""
        if self._decode is not None:
            return self._decode(list(id_array("ids", ids, self.vocab_size)))
        return str(self._view(ids), "utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids. Raises ValueError for an id outside the vocabulary."""
        return self._printed(ids) if self._decode is None else self.decode(ids).encode()

    def _printed(self, ids: Iterable[int]) -> bytes:
        """What an engine prints when it draws these ids, one after the other."""
        return bytes(self._view(ids))

    def _view(self, ids: Iterable[int]) -> Any:
        """The same in memory of C's."""
        array = id_array("ids", ids, self.vocab_size)
        size = ffi.new("size_t *")
        capacity = 16 * len(array) + 16  # World's average is 7 bytes, its longest token 128
        while True:
            out = _new_uncleared("char[]", capacity)
            check(lib.rwkv_vocab_decode(out, capacity, size, self._handle, array, len(array)))
            if size[0] <= capacity:
                return ffi.buffer(out, size[0])
            capacity = size[0]


def _differ(one: bytes, other: bytes, size: int) -> bool:
    """Whether two byte strings begin otherwise."""
    return len(other) < size or one[:size] != other[:size]


def _utf8(text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidError(f"text must be a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(
            f"the text holds a lone surrogate at position {error.start}, which is no character"
        ) from None


# -- World


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
    return _listed(world_file().read_bytes(), "world")


def _listed(raw: bytes, name: str) -> Tokenizer:
    """A vocabulary in the form of World's file."""
    out = ffi.new("rwkv_vocab **")
    check(lib.rwkv_vocab_parse(out, ffi.from_buffer(raw), len(raw)))
    tokenizer = object.__new__(Tokenizer)
    tokenizer._set(out[0], Vocabulary(name, ()))
    if tokenizer.vocab_size == _WORLD_IDS and all(
        tokenizer.decode_bytes([id]) == word for id, word in _WORLD_WORDS.items()
    ):
        tokenizer.name = "world"
    return tokenizer


# Enough of World to know it by: its ids are what a family's rules about single tokens speak of.
_WORLD_WORDS = {
    11: b"\n",
    261: b"\n\n",
    24281: b"User",
    5585: b"Ass",
    41693: b"istant",
    19137: "\uff0c".encode(),
    65529: b" " * 128,
}


def _is_world(tokens: Sequence[bytes]) -> bool:
    """Whether these are World's words, id by id; beyond them ids are reserved. False without its
    file."""
    if not all(tokens[id] == word for id, word in _WORLD_WORDS.items()):
        return False
    try:
        world, lines = Tokenizer.world(), world_file().read_bytes().splitlines()
    except MissingFileError:
        return False
    # All of them in a row, and the length of each, which its line ends in: a hundred times as fast
    # as one by one.
    words = tokens[1:_WORLD_IDS]
    same = world.decode_bytes(range(1, _WORLD_IDS)) == b"".join(words)
    return same and [int(line.rpartition(b" ")[2]) for line in lines] == list(map(len, words))


def _name_of(tokens: Sequence[bytes], otherwise: str) -> str:
    world = len(tokens) >= _WORLD_IDS and all(tokens[id] == w for id, w in _WORLD_WORDS.items())
    return "world" if world else otherwise


# -- rules


_RULES: dict[str, Callable[[], Vocabulary]] = {
    "world-bytes": vocabularies.world_bytes,
    "abc": vocabularies.abc,
    "midi": vocabularies.midi,
    "midi-piano": vocabularies.midi_piano,
}
NAMES = ("world", *_RULES)
_BY_ROWS = (
    (129, "abc"),
    (258, "world-bytes"),
    (2176, "REMI"),
    (20096, "midi-piano"),
    (50277, "midi"),
    (65536, "20B"),
)
_GIVE_FILE = "give its .json or .txt file, with --tokenizer on a command line"


@functools.cache
def _made(name: str) -> Tokenizer:
    return Tokenizer._of(_RULES[name]())


# -- files


def _contents(path: Path) -> bytes:
    try:
        if not path.exists():
            raise MissingFileError(f"{path}: there is no such file")
        if not path.is_file():
            raise InvalidError(f"{path}: not a file")
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, Error):
            raise
        raise FileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _LARGEST_FILE:
        raise InvalidError(f"{path}: larger than {_LARGEST_FILE >> 20} MiB, so not a tokenizer")
    return raw


def _from_json(raw: bytes, stem: str) -> Tokenizer:
    try:
        text = raw.decode()
        description = json.loads(text)
    except RecursionError:
        raise InvalidError("nested too deeply for a tokenizer") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of too many digits
        raise InvalidError(f"not JSON: {printable(error, 200)}") from None
    if isinstance(description, dict):
        if description.get("tokenization") == "REMI":
            return Tokenizer._of(vocabularies.remi(description))
        if isinstance(description.get("model"), dict):
            from . import huggingface

            # The package would compile one expression of 65,529 alternatives, and match by it.
            words = huggingface.words_of_bytes(description)
            if len(words) >= _WORLD_IDS and _is_world(words):
                return Tokenizer.world()
            return Tokenizer._of(huggingface.vocabulary(text, description, stem))
    raise InvalidError(
        "neither HuggingFace's tokenizer.json, which has a `model`, nor the parameters of"
        ' REMI, which say "tokenization": "REMI"'
    )


_READERS: dict[str, Callable[[bytes, str], Tokenizer]] = {".txt": _listed, ".json": _from_json}
