"""HuggingFace's tokenizer.json as a Vocabulary, through the `tokenizers` package.

That package encodes; this module derives the bytes of every id, which an engine needs to print
drawn tokens one by one. Called by tokenizer.py for files that a user names, which may be hostile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidError, UnsupportedError
from ..printable import printable
from .vocabularies import Vocabulary

if TYPE_CHECKING:
    import tokenizers

_MOST_IDS = 1 << 20
# What ends a text in the files that people hold. Id 0 does in RWKV's own, whatever it is called.
_END_WORDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
# In 20B these mean one new line and two. Inside a text two come out as 187 187, but as 535 at its
# end, which Raven models never saw in training.
_NEW_LINE, _TWO_NEW_LINES = 187, 535


def vocabulary(text: str, description: dict[str, Any], name: str) -> Vocabulary:
    """text: of the file; description: the same, parsed. A 20B vocabulary is called "20B".

    Raises ValueError saying what is wrong, without the file's name.
    """
    made = _made(text)
    words: dict[str, int] = made.get_vocab(with_added_tokens=True)
    if not words:
        raise InvalidError("it has no tokens")
    if max(words.values()) >= _MOST_IDS:
        raise InvalidError(f"its ids must be below {_MOST_IDS}")
    added = {
        entry["id"]: entry for entry in description.get("added_tokens") or () if _is_added(entry)
    }
    special = {id for id, entry in added.items() if entry.get("special") is True}
    tokens = [b""] * (max(words.values()) + 1)
    with _told("cannot decode its own tokens"):
        bytes_of, by_bytes = _speller(made, description)
        for word, id in words.items():
            if id in added:
                tokens[id] = b"" if id in special else _utf8(added[id]["content"])
            else:
                tokens[id] = bytes_of(word, id)
    ends = {words[word] for word in _END_WORDS if words.get(word) in special}
    if 0 in special or not ends:
        ends.add(0)
    is_20b = words.get("\u010a") == _NEW_LINE and words.get("\u010a\u010a") == _TWO_NEW_LINES

    def encode(asked: str) -> list[int]:
        # Without what a template would add: a prompt says itself what it begins with.
        with _told("cannot encode this text"):
            return made.encode(asked, add_special_tokens=False).ids

    def decode(ids: Sequence[int]) -> str:
        with _told("cannot decode these ids"):
            return made.decode(ids, skip_special_tokens=True)

    return Vocabulary(
        "20B" if is_20b else name,
        tokens,
        tuple(sorted(ends)),
        encode,
        None if by_bytes else decode,
        _as_inside_a_text if is_20b else None,
    )


def words_of_bytes(description: dict[str, Any]) -> list[bytes]:
    """The bytes of every id of a file whose tokens are words of GPT-2's characters for bytes, as
    transformers holds World's; [] of any other. What has another id than its own is reserved.
    """
    model = description.get("model")
    if type(model) is not dict or model.get("type") != "WordLevel":
        return []
    vocab = model.get("vocab")
    if type(vocab) is not dict or "ByteLevel" not in _decoders(description.get("decoder")):
        return []
    if any(type(id) is not int or not 0 <= id < _MOST_IDS for id in vocab.values()):
        return []
    alphabet = byte_alphabet()
    words = [b""] * (max(vocab.values(), default=-1) + 1)
    for word, id in vocab.items():
        if all(char in alphabet for char in word):
            words[id] = bytes(alphabet[char] for char in word)
    return words


def _made(text: str) -> tokenizers.Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UnsupportedError(
            "it needs the package `tokenizers`, which is not installed"
        ) from None
    with _told("not a tokenizer of HuggingFace"):
        return Tokenizer.from_str(text)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns what the package raises, panics of its Rust code included, into an InvalidError."""
    try:
        yield
    except BaseException as problem:
        # A panic is no Exception.
        if isinstance(problem, Exception) or type(problem).__name__ == "PanicException":
            raise InvalidError(f"{what}: {printable(problem, 200)}") from None
        raise


def _is_added(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("id")) is int
        and type(entry.get("content")) is str
    )


def _as_inside_a_text(ids: list[int]) -> list[int]:
    return [*ids[:-1], _NEW_LINE, _NEW_LINE] if ids[-1:] == [_TWO_NEW_LINES] else ids


def _utf8(word: str) -> bytes:
    return word.encode("utf-8", "replace")


# -- the bytes of one token


def _speller(
    made: tokenizers.Tokenizer, description: dict[str, Any]
) -> tuple[Callable[[str, int], bytes], bool]:
    """(what gives the bytes of a word that has an id, whether these bytes in a row are a text)."""
    kinds = _decoders(description.get("decoder"))
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def by_bytes(word: str, id: int) -> bytes:
            if all(c in alphabet for c in word):
                return bytes(alphabet[c] for c in word)
            return _utf8(word)

        return by_bytes, True
    anchor = _anchor(made)
    before = made.decode(anchor) if anchor else ""

    def by_decoding(word: str, id: int) -> bytes:
        """What the token adds after another: a blank that joins words, no `##`, ..."""
        if "ByteFallback" in kinds and (byte := _fallback_byte(word)) is not None:
            return byte
        both = made.decode([*anchor, id])
        return _utf8(both[len(before) :] if both.startswith(before) else made.decode([id]))

    return by_decoding, False


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: themselves where they are visible, the others from
    U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(visible)]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


def _decoders(decoder: Any) -> set[str]:
    """The kinds of a decoder and of those it is made of."""
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get("decoders")
    kinds = {str(decoder.get("type"))}
    for one in inner if isinstance(inner, list) else ():
        kinds |= _decoders(one)
    return kinds


def _anchor(made: tokenizers.Tokenizer) -> list[int]:
    """An id with visible text, for others to follow."""
    size = made.get_vocab_size(with_added_tokens=True)
    return next(([id] for id in range(min(size, 4096)) if made.decode([id]).strip().isalnum()), [])


def _fallback_byte(word: str) -> bytes | None:
    """`<0xE4>` is one byte of a character that has no token."""
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        try:
            return bytes([int(word[3:5], 16)])
        except ValueError:
            return None
    return None
