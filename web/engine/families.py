"""What a model family is called, how it samples by default, and which of its tokens are special.

Owns RWKV Runner's families and their rules: names of the roles, default sampling, penalties, ends,
marks that cannot follow themselves, characters that `global_penalty` leaves out. Called by
`web/engine/model_host.py` (which persona a model has), `web/engine/generation.py` and the commands.
Never renders a prompt: that is `web/chat/prompts/`. Text glue, such as the blank before each word
of music, is part of the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import rwkv_native as rn
from rwkv_native.formats import folder
from web.engine.requests import SamplingOptions

WORLD_ROWS = 65536
MAX_TOKENS = 102400  # of one answer, whoever asks: RWKV Runner's limit


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling where a request says nothing: RWKV Runner's values for text models."""

    max_tokens: int | None = None  # None: as its kind has it, see Lengths
    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 1.0
    penalty_decay: float = 0.996
    global_penalty: bool = False


_PENALTIES = ("presence_penalty", "frequency_penalty", "penalty_decay", "global_penalty")


@dataclass(frozen=True, slots=True)
class Persona:
    """One model family, fitted to one model by `persona_for`."""

    family: str
    user: str = "User"
    assistant: str = "Assistant"
    system: str = "System"
    tool: str = "Observation"
    defaults: Defaults = Defaults()
    length: int = 500  # tokens of a completion that does not say: a text may have no end
    chats: bool = True
    prompt: Literal["world", "version 4"] = "world"  # the form of its chats
    verbatim: bool = False  # messages are fed as they are, as RWKV Runner 1.9 does
    thinks: bool = False  # answers begin with <think> ... </think>, which later turns do not repeat
    fixed: tuple[str, ...] = ()  # fields of a request that have no effect
    start: str | None = None  # what a blank prompt means; None: itself
    end_ids: tuple[int, ...] | None = None  # None: those of the tokenizer
    no_repeat: tuple[int, ...] = ()
    exempt: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    slopes: Mapping[int, float] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)


WORLD = Persona("world")

# Reasoning models speak as World does and stop where it does. The prompt ends in `Assistant:`; a
# last message `<think` with `prefix` makes them think, as their makers advise.
G1 = replace(WORLD, family="g1", thinks=True)

# Pile and its Raven tunes: a conversation between two people.
RAVEN = Persona("raven", user="Bob", assistant="Alice")

# Music. The ids of both MIDI vocabularies: 0 <pad>, 2 <end>, 3 to 127 waits, then notes. Waits
# count less than notes (the last one, a whole second, as a note, but it is held down); the end
# becomes likelier, from -4 at the start to 0 at 2000 tokens. RWKV Runner goes on after <end>: here
# a piece ends with it.
MIDI = Persona(
    "midi",
    chats=False,
    defaults=Defaults(top_p=0.8, top_k=8, frequency_penalty=0.5, penalty_decay=0.997),
    fixed=_PENALTIES,
    start="<pad>",
    end_ids=(0, 2),
    bias={0: -4.0, 127: -1.0},
    slopes={0: 1 / 500},
    weights=dict.fromkeys(range(127), 0.3),
)
MIDI_PIANO = replace(MIDI, family="midi-piano")
ABC = Persona(
    "abc",
    chats=False,
    defaults=Defaults(top_p=0.8, top_k=8, frequency_penalty=0.0),
    fixed=_PENALTIES,
    start="\x02",  # the id that begins a tune
)
REMI = Persona(
    "remi",
    chats=False,
    defaults=Defaults(top_p=0.8, frequency_penalty=0.0),
    length=1000,
    fixed=_PENALTIES,
    start="",  # the tokenizer's begin id
)

FAMILIES = {p.family: p for p in (WORLD, G1, RAVEN, MIDI, MIDI_PIANO, ABC, REMI)}
_ALSO = {"pile": "raven", "midipiano": "midi-piano"}


@dataclass(frozen=True, slots=True)
class _Ids:
    """The tokens of one text vocabulary that rules speak of."""

    no_repeat: tuple[int, ...] = ()
    exempt: tuple[int, ...] = ()


def _ids(*parts: int | range) -> tuple[int, ...]:
    """Single ids and ranges (their last id included) as one sorted list."""
    lists: Iterable[Iterable[int]] = ((p,) if isinstance(p, int) else p for p in parts)
    return tuple(sorted(id for ids in lists for id in ids))


# no_repeat: the full-width comma, colon, question and exclamation mark; none can follow itself.
# exempt: punctuation, digits, blank and new line, ASCII and full width: frequent by nature, so a
# prompt full of them says nothing about what to avoid.
_WORLD_IDS = _Ids(
    (19137, 19151, 19156, 19126),
    _ids(
        *(11, range(33, 40), range(41, 66), range(92, 98), range(124, 128)),
        *(9822, 9823, 10080, 19126, 19137, 19151, 19152, 19156),
    ),
)
_TEXT_IDS = {
    "world": _WORLD_IDS,
    # The same ids for single bytes.
    "world-bytes": _Ids(exempt=tuple(id for id in _WORLD_IDS.exempt if id <= 256)),
    "20B": _Ids(
        (6238, 18140, 26443, 26680),
        _ids(
            *(range(2, 8), range(9, 34), range(60, 66), range(92, 96)),
            *(187, 209, 668, 1628, 4340, 6238, 18140, 26443, 26680),
        ),
    ),
}


def tokenizer_for(model: rn.Model, name: str | None) -> rn.Tokenizer:
    """The tokenizer that is asked for by name or file, or else by the model. ValueError for one
    whose ids the model lacks."""
    if name is None:
        return rn.Tokenizer.for_model(model)
    tokenizer = rn.Tokenizer.open(name)
    if tokenizer.vocab_size > model.info.vocab:
        raise rn.InvalidError(
            f"the tokenizer {name} has {tokenizer.vocab_size} ids, the model {model.info.vocab}"
            " rows: it was made for another vocabulary"
        )
    return tokenizer


def persona_for(info: rn.ModelInfo, tokenizer: rn.Tokenizer) -> Persona:
    """The persona of a model: the family that its metadata `rwkv.family` names, else by its
    tokenizer, its rows and its file's name."""
    persona = FAMILIES[_family(info, tokenizer)]
    if persona.chats:
        ids = _TEXT_IDS.get(tokenizer.name, _Ids())
        persona = replace(persona, no_repeat=ids.no_repeat, exempt=ids.exempt)
        if tokenizer.name == "world-bytes":
            # Letters come back all the time, so a penalty on what has been drawn already would
            # forbid spelling: penalties are off by default.
            persona = replace(persona, defaults=replace(persona.defaults, frequency_penalty=0.0))
        if info.version.startswith("4"):
            persona = replace(persona, prompt="version 4")
    return _within(persona, info.vocab)


def _family(info: rn.ModelInfo, tokenizer: rn.Tokenizer) -> str:
    named = info.metadata.get("rwkv.family", "").lower()
    if (known := _ALSO.get(named, named)) in FAMILIES:
        return known
    name = tokenizer.name.lower()
    if name in FAMILIES and not FAMILIES[name].chats:
        return name
    # Runner's rule for files of one's own.
    if "piano" in name and "midi" in name:
        return "midi-piano"
    if "music" in name or "midi" in name:
        return "midi"
    if "abc" in name:
        return "abc"
    if info.vocab < WORLD_ROWS and name not in ("world", "world-bytes"):
        return "raven"
    return "g1" if info.version.startswith("7") and _thinks(info) else "world"


def _thinks(info: rn.ModelInfo) -> bool:
    """Whether a World model was trained to think: as the chat template beside it says, else its
    name, else the length of its texts, which no older one shares."""
    if info.metadata.get("rwkv.thinks") == "yes":
        return True
    path = Path(info.path)
    named = path
    if folder.is_of_hub(path):  # called as all are: the folder has a name, or its place in a cache
        cached = (p for p in path.parents if p.name.startswith("models--"))
        named = next(cached, path.parent)
    if _G1.search(named.name.lower()):
        return True
    return (info.context_length or 0) >= _LONG_CONTEXT


# rwkv7-g1-1.5b, rwkv-g1k-13b-5228, RWKV7-G0-7.2B: the generations of reasoning models.
_LONG_CONTEXT = 8192
_G1 = re.compile(r"(?<![a-z0-9])g[0-9][a-z]?(?![a-z0-9])")


def _within(persona: Persona, rows: int) -> Persona:
    """Without ids that the model lacks: a tokenizer may be chosen that is larger than it."""

    def known(table: Mapping[int, float]) -> dict[int, float]:
        return {id: value for id, value in table.items() if id < rows}

    ends = persona.end_ids
    return replace(
        persona,
        no_repeat=tuple(id for id in persona.no_repeat if id < rows),
        exempt=tuple(id for id in persona.exempt if id < rows),
        end_ids=None if ends is None else tuple(id for id in ends if id < rows),
        bias=known(persona.bias),
        slopes=known(persona.slopes),
        weights=known(persona.weights),
    )


def configured(persona: Persona, given: SamplingOptions) -> Persona:
    """The persona with other defaults, where something is given that its requests may set."""
    names = Defaults.__dataclass_fields__.keys() - set(persona.fixed)
    values = {name: value for name in names if (value := getattr(given, name)) is not None}
    return replace(persona, defaults=replace(persona.defaults, **values))


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long answers may be, in tokens."""

    most: int = MAX_TOKENS
    unset: int = 4096  # where a request does not say: a chat ends by itself, or is cut here

    def of(self, asked: SamplingOptions, persona: Persona, chat: bool) -> int:
        """What a request asks for, else what /update-config has set, else the default of its kind;
        no less than it must have at least, and never above the limit."""
        length = asked.max_tokens
        if length is None:
            kind = self.unset if chat else min(persona.length, self.unset)
            length = max(persona.defaults.max_tokens or kind, asked.min_tokens or 0)
        return min(length, self.most)


_LENGTHS = Lengths()


def effective(
    asked: SamplingOptions, persona: Persona, lengths: Lengths = _LENGTHS, chat: bool = False
) -> Defaults:
    """The request's values over the persona's defaults; `max_tokens` is always said. A temperature
    below 0.1 acts as 0.1, as in RWKV Runner, except 0, which is greedy."""

    def pick(name: str) -> float:
        value = None if name in persona.fixed else getattr(asked, name)
        return getattr(persona.defaults, name) if value is None else value

    values = {name: pick(name) for name in Defaults.__dataclass_fields__}
    if 0 < values["temperature"] < 0.1:
        values["temperature"] = 0.1
    values["max_tokens"] = lengths.of(asked, persona, chat)
    return Defaults(**values)
