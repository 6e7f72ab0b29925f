"""The ids that a model drew for an answer, in the place of encoding its text again.

Many texts have several encodings: a model may have written `。` and a blank line where the
tokenizer makes `。\\n` and `\\n` of the same text. The state after an answer is kept under the ids
that were drawn, so the next turn finds it only if its prompt holds these. Made by
`web/engine/model_host.py`, one per model; called by `chat/turn.py`.

Whatever is kept here, a prompt's ids print its very text: ids are used as far as they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache

import rwkv_native as rn
from web.engine.requests import MarkedText
from web.threadpool import in_thread_if

_MOST_BYTES = 16 << 20  # of ids: some four million
_OVERHEAD = 256  # bytes of one entry beside its ids
# Characters of a prompt, and answers in it, above which the work goes to a thread: some 10 ms.
_LONG, _MANY = 200_000, 500


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """A conversation as ids."""

    ids: np.ndarray
    """int32 [tokens]."""
    save_at: list[int]
    """The marks of the conversation as numbers of tokens."""
    begun: np.ndarray
    """int32: the last of the ids, those of the answer that the model continues."""
    place: Any
    """The hash of all before the answer to come."""


class KnownAnswers:
    """Used from the hub, or from one thread."""

    def __init__(self, tokenizer: rn.Tokenizer, most_bytes: int = _MOST_BYTES) -> None:
        self._tokenizer = tokenizer
        self._kept: LRUCache[bytes, np.ndarray] = LRUCache(
            most_bytes, getsizeof=lambda ids: ids.nbytes + _OVERHEAD
        )

    @property
    def bytes(self) -> int:
        return int(self._kept.currsize)

    def encode(self, prompt: MarkedText, client: int = 0) -> Fed:
        """The ids of a conversation, those of known answers as they were drawn. The ids of a prompt
        begin those of the next one in the same conversation. Raises ValueError for a text that
        cannot be encoded. `client`: who asks, see `web/transport/caller.py`. Its own answers are
        known only: others' ids would tell what they have been answered, and a bias on tokens makes
        a model write a text in ids that serve nobody."""
        large = len(prompt.text) > _LONG or len(prompt.answers) > _MANY
        keys, place = in_thread_if(large, _keys, prompt, client)
        known = [self._kept.get(key) for key in keys]
        return in_thread_if(large, _encoded, self._tokenizer, prompt, known, place)

    def keep(self, fed: Fed, text: str, drawn: Sequence[int]) -> None:
        """The answer to `fed` will be `text` in later prompts, and `drawn` are its ids, which may
        begin or end otherwise: as many are kept as print what the text and a blank line print."""
        ids = np.concatenate([fed.begun, np.array(drawn, np.int32)])
        count, _ = self._tokenizer.fitting(ids, f"{text}\n\n")
        if count == 0 or 4 * count + _OVERHEAD > self._kept.maxsize:
            return
        self._kept[_key(fed.place, text)] = ids[:count].copy()


def _key(place: Any, text: str) -> bytes:
    """An answer in its place."""
    key = place.copy()
    key.update(b"\0" + text.encode())
    return key.digest()


def _keys(prompt: MarkedText, client: int) -> tuple[list[bytes], Any]:
    """The keys of all answers, also of one that is to be continued, and the hash of what is before
    the answer to come."""
    place = hashlib.blake2b(digest_size=16, key=client.to_bytes(8, "big"))
    keys, at = [], 0
    for start, end in prompt.answers:
        place.update(prompt.text[at:start].encode())
        at = start
        keys.append(_key(place, prompt.text[start:end]))
    if not prompt.goes_on:
        place.update(prompt.text[at:].encode())
    return keys, place


def _encoded(
    tokenizer: rn.Tokenizer, prompt: MarkedText, known: Sequence[np.ndarray | None], place: Any
) -> Fed:
    text, pieces, at, begun = prompt.text, [], 0, 0
    for number, ((start, end), ids) in enumerate(zip(prompt.answers, known, strict=True), 1):
        # Cut behind every label, where the prompt of that answer ended.
        pieces.append(tokenizer.encode_array(text[at:start]))
        begun, at = len(pieces), start
        if ids is not None:
            open_end = number == len(known) and prompt.goes_on
            count, characters = tokenizer.fitting(ids, text[start : end if open_end else end + 2])
            pieces.append(ids[:count])
            at += characters
    pieces.append(tokenizer.encode_array(text[at:]))
    ids = np.concatenate(pieces).astype(np.int32, copy=False)
    if tokenizer.decode_bytes(ids) == text.encode():
        own = np.concatenate(pieces[begun:]) if prompt.goes_on else ids[:0]
    else:  # one that changes texts, and each piece for itself
        ids, own = tokenizer.encode_array(text), np.empty(0, np.int32)
    return Fed(ids, tokenizer.marked(ids, text, prompt.marks), own, place)
