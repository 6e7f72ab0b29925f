"""Vocabularies that follow from a rule, without a file: plain bytes, music in words, ABC, and the
numbers of REMI.

Each is a Vocabulary: the text of every id as an engine prints it, and how text becomes ids where
greedy longest match does not do it. Called by tokenizer.py. Never touches C or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidError

PAD, START, END = 0, 1, 2
"""The first three ids of both MIDI vocabularies."""
LONGEST_WAIT = 125  #: t125 is a second; tN has the id 2 + N
NOTES_FROM = 128

# Short names in the order of their bins: percussion, drum, tuba, marimba, bass, guitar, violin,
# trumpet, piano, sax, flute, lead, pad.
MIDI_INSTRUMENTS = ("p", "d", "t", "m", "b", "g", "v", "tr", "pi", "s", "f", "l", "pa")
MIDI_VELOCITIES = 12
PIANO_INSTRUMENTS = ("p",)
PIANO_VELOCITIES = 16
_PITCHES = 128

# 5.2 calls fewer rows than these REMI; a file that does not list its words says no more.
_REMI_IDS = 2176
_MOST_REMI_IDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a Tokenizer is made of.

    tokens: the bytes of each id as they follow other text, glue included; b"" where an id has none,
    and an engine then never draws it, unless it ends the answer.
    encode: ids of a text; None: greedy longest match over the tokens.
    decode: text of ids; None: their bytes, one after the other.
    prompt: what the ids of a whole prompt become before a model sees them.
    """

    name: str
    tokens: Sequence[bytes]
    end_ids: tuple[int, ...] = (0,)
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    prompt: Callable[[list[int]], list[int]] | None = None


def world_bytes() -> Vocabulary:
    """The first 257 ids of the World vocabulary: id = byte + 1, and 0 for end of document."""
    return Vocabulary("world-bytes", [b"", *(bytes([b]) for b in range(256))])


def midi() -> Vocabulary:
    """20096 ids: 0 <pad>, 1 <start>, 2 <end>, 2 + N for tN, 128 + (bin * 128 + pitch) * 12 +
    velocity for a note `instrument:pitch:velocity` in hexadecimal."""
    return _music("midi", MIDI_INSTRUMENTS, MIDI_VELOCITIES)


def midi_piano() -> Vocabulary:
    """2176 ids: the same, with one instrument and 16 velocities."""
    return _music("midi-piano", PIANO_INSTRUMENTS, PIANO_VELOCITIES)


def _music(name: str, instruments: Sequence[str], velocities: int) -> Vocabulary:
    words = ["<pad>", "<start>", "<end>", *(f"t{n}" for n in range(1, LONGEST_WAIT + 1))]
    words += [
        f"{instrument}:{pitch:x}:{velocity:x}"
        for instrument in instruments
        for pitch in range(_PITCHES)
        for velocity in range(velocities)
    ]
    ids = {word: id for id, word in enumerate(words)}

    def encode(text: str) -> list[int]:
        return [ids.get(word, PAD) for word in text.lower().split()]

    def decode(drawn: Sequence[int]) -> str:
        return " ".join(words[id] for id in drawn if id > END)

    # A blank before every word, so that pieces of a stream join; of <start>, the blank alone.
    # RWKV Runner goes on after a drawn <end>; whoever asks for a piece wants it to end there.
    tokens = [b"", b" ", b" ", *(b" " + word.encode() for word in words[END + 1 :])]
    return Vocabulary(name, tokens, (PAD, END), encode, decode)


def abc() -> Vocabulary:
    """ABC notation: 128 ids, each character its code point; 0 pad, 2 begin and 3 end have no
    text. `\\x02` in a prompt is the begin id."""

    def encode(text: str) -> list[int]:
        try:
            return list(text.encode("ascii"))
        except UnicodeEncodeError as error:
            raise InvalidError(
                f"ABC notation is ASCII: character {error.start} of the text,"
                f" {text[error.start]!a}, has no token"
            ) from None

    return Vocabulary("abc", [b""] * 4 + [bytes([b]) for b in range(4, 128)], (3,), encode)


def remi(parameters: dict[str, Any]) -> Vocabulary:
    """REMI from the parameters that MidiTok saves: only the number of ids and the two that begin
    and end a piece matter, for its text is the ids themselves, `, 17, 254`, for a decoder of
    REMI to read. An empty text is the begin id.

    Raises ValueError for parameters that do not fit together.
    """
    words = parameters.get("_vocab_base") or parameters.get("vocab")
    special = _special_words(parameters)
    if isinstance(words, dict):
        found = {word: id for word, id in words.items() if type(id) is int}
        if len(found) < len(words) or not all(0 <= id < _MOST_REMI_IDS for id in found.values()):
            raise InvalidError("its vocabulary must map words to ids")
        size = max(found.values(), default=0) + 1
    else:
        found = {word: id for id, word in enumerate(special)}
        size = _REMI_IDS
    begin, end = (
        next((found[w] for w in (f"{name}_None", name) if w in found), None)
        for name in ("BOS", "EOS")
    )
    if begin is None or end is None:
        raise InvalidError("its vocabulary has no BOS and EOS")

    def encode(text: str) -> list[int]:
        numbers = [n for n in re.split(r"[\s,]+", text) if n]
        if wrong := next((n for n in numbers if not _is_id(n, size)), None):
            raise InvalidError(
                f"a prompt for REMI is ids from 0 to {size - 1} and commas, not {wrong!a:.40}"
            )
        return [int(n) for n in numbers] or [begin]

    def decode(drawn: Sequence[int]) -> str:
        return ", ".join(map(str, drawn))

    return Vocabulary("remi", [f", {n}".encode() for n in range(size)], (end,), encode, decode)


def _special_words(parameters: dict[str, Any]) -> list[str]:
    """The words that MidiTok puts first, where the file does not list them all."""
    config = parameters.get("config")
    words = config.get("special_tokens") if isinstance(config, dict) else None
    if words is None:
        return ["PAD", "BOS", "EOS", "MASK"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidError("its special_tokens must be a list of words")
    return words


def _is_id(text: str, size: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < size
