"""How tokens are drawn: the options of one request, and the exact distribution they lead to.

Owns the translation of Sampling into the C struct. The drawing itself is native; its law is: bias,
penalties, forbidden tokens, softmax, top-p, top-k, min-p, then the temperature as a power of the
surviving probabilities. Called by engine/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ._ffi import check, ffi, float_pointer, id_array, lib
from .arguments import number, whole_number
from .errors import InvalidError

UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of one request. The defaults draw from the model's own distribution.

    Raises ValueError that names the field and its range; what depends on the model, such as whether
    it has a token id, Engine.submit and probabilities() check.
    """

    max_tokens: int | None = 4096
    """Tokens to draw at most; None: until the model ends its answer, which not every model does. 0:
    none; the prompt is read, and kept where the engine keeps states."""
    min_tokens: int = 0
    """An answer has so many tokens at least: before that no id that would end it is drawn, and no
    stop text ends it."""
    ignore_eos: bool = False
    """Never draw end_token_ids: the answer goes on until max_tokens or what it was told to stop
    at."""
    temperature: float = 1
    """The power 1/temperature of the surviving probabilities; 0: always the most likely token."""
    top_p: float = 1
    """Keep the most likely tokens until their sum reaches this, 0 to 1; 1: all."""
    top_k: int = 0
    """Keep this many of the most likely tokens; 0 or -1: all."""
    min_p: float = 0
    """Drop tokens below this share of the best probability, 0 to 1; 0: none."""
    presence_penalty: float = 0
    """Subtracted from the logit of every token drawn so far."""
    frequency_penalty: float = 0
    """Subtracted from a token's logit per time it was drawn, faded by penalty_decay."""
    penalty_decay: float = 0.996
    """What every count is multiplied by after each drawn token, 0 to 1."""
    global_penalty: bool = False
    """Prompt tokens count as drawn too, from the second drawn token on."""
    seed: int | None = None
    """Same seed, prompt and options: same answer. None: a new seed for each request."""
    stop: str | Sequence[str] = ()
    """Texts that end the answer; never part of it."""
    stop_token_ids: Sequence[int] = ()
    """Ids that end the answer; counted but without text."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids before everything else."""
    logprobs: int | None = None
    """None: no log-probabilities; 0 to 20: the drawn token's and those of so many most likely."""
    forbidden_token_ids: Sequence[int] = ()
    """Ids that are never drawn."""
    no_repeat_token_ids: Sequence[int] = ()
    """Ids that cannot follow themselves."""
    exempt_token_ids: Sequence[int] = ()
    """Prompt ids that global_penalty leaves out."""
    count_weights: Mapping[int, float] = field(default_factory=dict)
    """What these ids count as each time they are drawn, instead of 1, at least 0. For music models
    waits count less than notes."""
    bias_slopes: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids times the number of tokens drawn so far: with a logit_bias a
    line over the length of the answer, such as an end that becomes likelier."""
    end_token_ids: Sequence[int] | None = None
    """Ids that end the answer, not counted; None: those of the tokenizer, (): none."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = number(name, getattr(self, name))
            if not low <= value <= high:  # nor if it is a NaN
                raise InvalidError(f"{name} must be {_span(low, high)}, not {value!r}")
        whole_number("top_k", self.top_k, -1, (1 << 31) - 1)
        least, most = whole_number("min_tokens", self.min_tokens, 0, UNLIMITED), token_limit(self)
        if least > most:
            raise InvalidError(f"min_tokens must be at most max_tokens, {most}, not {least}")
        if self.logprobs is not None:
            whole_number("logprobs", self.logprobs, 0, 20)
        if self.seed is not None:
            seed_of(self)
        stop_texts(self)


_LARGEST = sys.float_info.max
# Of the numbers, both ends included.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, _LARGEST),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-_LARGEST, _LARGEST),
    "frequency_penalty": (-_LARGEST, _LARGEST),
    "penalty_decay": (0, 1),
}


def _span(low: float, high: float) -> str:
    if low == -high:
        return "a finite number"
    return f"{low} to {high}" if high < _LARGEST else f"a finite number from {low} up"


def with_options(
    sampling: Sampling | PreparedSampling | None, options: Mapping[str, Any]
) -> Sampling | PreparedSampling:
    """`sampling`, or the defaults, with these fields changed. Raises TypeError for other names."""
    if sampling is None:
        sampling = _DEFAULT
    if isinstance(sampling, PreparedSampling):
        if not options:
            return sampling
        sampling = sampling.sampling
    if not isinstance(sampling, Sampling):
        raise InvalidError(f"sampling must be a Sampling, not {type(sampling).__name__}")
    if not options:
        return sampling
    if unknown := options.keys() - _NAMES:
        raise TypeError(
            f"{min(unknown)!r} is neither an argument nor a field of Sampling, which has"
            f" {', '.join(sorted(_NAMES))}"
        )
    return replace(sampling, **options)


_NAMES = {f.name for f in fields(Sampling)}
_ID_FIELDS = (
    ("forbidden_token_ids", "forbidden", "n_forbidden"),
    ("no_repeat_token_ids", "no_repeat", "n_no_repeat"),
    ("exempt_token_ids", "exempt", "n_exempt"),
)
_NUMBER_FIELDS = (
    ("logit_bias", "float[]", "bias_ids", "bias_values", "n_bias"),
    ("count_weights", "double[]", "weight_ids", "weights", "n_weights"),
    ("bias_slopes", "double[]", "slope_ids", "slopes", "n_slopes"),
)


def fill(c: Any, s: Sampling, vocab: int, keep: list[Any], ends: Any = ()) -> Any:
    """Writes `s` into an initialised rwkv_sampling; `keep` holds what C will read. Returns the ids
    that end the answer: `ends`, unless `s` has others."""
    if not isinstance(s, Sampling):
        raise InvalidError(f"sampling must be a Sampling, not {type(s).__name__}")
    if s.end_token_ids is not None:
        ends = id_array("end_token_ids", s.end_token_ids, vocab)
    c.temperature = number("temperature", s.temperature)
    c.top_p = number("top_p", s.top_p)
    c.min_p = number("min_p", s.min_p)
    c.top_k = whole_number("top_k", s.top_k, -1, (1 << 31) - 1)
    c.presence_penalty = number("presence_penalty", s.presence_penalty)
    c.frequency_penalty = number("frequency_penalty", s.frequency_penalty)
    c.penalty_decay = number("penalty_decay", s.penalty_decay)
    c.global_penalty = bool(s.global_penalty)
    c.seed = seed_of(s)
    if s.logprobs is not None:
        c.logprobs = whole_number("logprobs", s.logprobs, 0, 20)
    for name, kind, ids_field, values_field, count in _NUMBER_FIELDS:
        if table := getattr(s, name):
            ids, values = _table(name, kind, table, vocab)
            keep += [ids, values]
            setattr(c, ids_field, ids)
            setattr(c, values_field, values)
            setattr(c, count, len(ids))
    c.min_tokens = whole_number("min_tokens", s.min_tokens, 0, UNLIMITED)
    for name, pointer, count in _ID_FIELDS:
        array = id_array(name, getattr(s, name), vocab)
        if pointer == "forbidden" and s.ignore_eos:
            array = id_array(name, [*array, *ends], vocab)
        if len(array):
            keep.append(array)
            setattr(c, pointer, array)
            setattr(c, count, len(array))
    return ends


class PreparedSampling:
    """A Sampling as C takes it, for any number of requests: Engine.prepare() makes it. With a large
    logit_bias this is most of what a request costs."""

    __slots__ = ("_keep", "c", "end_ids", "max_tokens", "sampling", "stop_ids", "stops", "vocab")

    def __init__(self, sampling: Sampling, vocab: int, end_ids: Any = ()) -> None:
        self._keep: list[Any] = []  # what `c` points to
        self.c = ffi.new("rwkv_sampling *")
        lib.rwkv_sampling_init(self.c)
        self.end_ids = fill(self.c, sampling, vocab, self._keep, end_ids)
        self.stop_ids = id_array("stop_token_ids", sampling.stop_token_ids, vocab)
        self.stops = stop_texts(sampling)
        self.max_tokens = token_limit(sampling)
        self.sampling = sampling
        self.vocab = vocab


def _table(name: str, kind: str, table: Mapping[int, float], vocab: int) -> tuple[Any, Any]:
    """(ids, values) as C takes them."""
    if not isinstance(table, Mapping):
        raise InvalidError(f"{name} must map token ids to numbers")
    ids = id_array(name, list(table), vocab)
    return ids, ffi.new(kind, [number(name, v) for v in table.values()])


def seed_of(s: Sampling) -> int:
    """The seed as C takes it; negative ones, which OpenAI's API allows, wrap around."""
    if s.seed is None:
        return int.from_bytes(os.urandom(8), "little")
    return whole_number("seed", s.seed, -(1 << 63), (1 << 64) - 1) & ((1 << 64) - 1)


def token_limit(s: Sampling) -> int:
    """max_tokens as C takes it."""
    return (
        UNLIMITED
        if s.max_tokens is None
        else whole_number("max_tokens", s.max_tokens, 0, UNLIMITED)
    )


def stop_texts(s: Sampling) -> list[bytes]:
    """The stop texts as UTF-8."""
    if s.stop is None or (isinstance(s.stop, str) and not s.stop):
        return []
    try:
        stops = [s.stop] if isinstance(s.stop, str) else list(s.stop)
    except (TypeError, ValueError):
        raise InvalidError(f"stop must be a text or a list of texts, not {s.stop!r:.80}") from None
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise InvalidError(f"stop must be texts that are not empty, not {stop!r:.80}")
    try:
        return [stop.encode() for stop in stops]
    except UnicodeEncodeError:
        raise InvalidError("stop holds a lone surrogate, which is no character") from None


_DEFAULT = Sampling()


def probabilities(logits: np.ndarray, sampling: Sampling = _DEFAULT) -> np.ndarray:
    """The exact distribution that the sampler draws the first token from, after every cut.

    logits: float32 [vocab]. Returns float64 [vocab], which sums to 1. Raises ValueError.
    """
    return probe(logits, sampling)[0]


def probe(
    logits: np.ndarray,
    sampling: Sampling,
    drawn: Iterable[int] = (),
    prompt: Iterable[int] = (),
) -> tuple[np.ndarray, int]:
    """(distribution after the tokens `drawn`, the token that the seed then draws from it)."""
    try:
        values = np.ascontiguousarray(logits, np.float32)
    except (TypeError, ValueError):
        raise InvalidError("logits must be a vector of numbers") from None
    if values.ndim != 1 or not values.size or not np.isfinite(values.max()):
        raise InvalidError("logits must be a vector of numbers with a finite maximum")
    keep: list[Any] = []
    c = ffi.new("rwkv_sampling *")
    lib.rwkv_sampling_init(c)
    ends = fill(c, sampling, values.size, keep)
    late = id_array("stop_token_ids", [*sampling.stop_token_ids, *ends], values.size)
    c.late, c.n_late = late, len(late)
    out = np.empty(values.size, np.float64)
    token = ffi.new("int32_t *")
    history, before = id_array("drawn", drawn), id_array("prompt", prompt)
    check(
        lib.rwkv_sampling_probe(
            ffi.from_buffer("double[]", out),
            token,
            c,
            float_pointer(values),
            values.size,
            history,
            len(history),
            before,
            len(before),
        )
    )
    return out, token[0]
