"""The fields that chat and completions share (runner-api 1.1 and OpenAI's), as one value.

Called by `schemas/chat.py` and `schemas/completions.py`. Fields that would change the answer and
cannot be honoured are refused by name; those that cannot change it (`user`, `metadata`, `store`,
`service_tier`, ...) and those that nobody knows are ignored.
"""

from __future__ import annotations

import msgspec

from web.paths import LONGEST
from web.schemas.fields import Fields, as_integer, as_number

MAX_TOKENS = 102400
_MOST_STOPS = 128
_LONGEST_STOP = 4096
_MOST_STOP_IDS = 1024
_MOST_BIASES = 65536  # as many as World has rows


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about sampling; None: it says nothing, so the model's default holds."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_decay: float | None = None
    global_penalty: bool | None = None
    state: str | None = None  # path of a tuned state; "": none, whatever the default is
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: dict[int, float] = {}


class StreamFields(msgspec.Struct, frozen=True):
    stream: bool
    include_usage: bool


def defaults_of(fields: Fields) -> SamplingFields:
    """The fields that /update-config sets, and that a request may replace."""
    return SamplingFields(
        max_tokens=fields.integer("max_tokens", 1, MAX_TOKENS),
        temperature=fields.number("temperature", 0, 3),
        top_p=fields.number("top_p", 0, 1),
        top_k=fields.integer("top_k", 0, 100),
        min_p=fields.number("min_p", 0, 1),
        presence_penalty=fields.number("presence_penalty", -2, 2),
        frequency_penalty=fields.number("frequency_penalty", -2, 2),
        penalty_decay=fields.number("penalty_decay", 0.99, 0.999),
        global_penalty=fields.boolean("global_penalty"),
        state=fields.text("state", longest=LONGEST),
    )


def over(given: SamplingFields, below: SamplingFields) -> SamplingFields:
    """`below`, replaced by what is given."""
    values = msgspec.structs.asdict(given)
    return msgspec.structs.replace(
        below, **{name: value for name, value in values.items() if value is not None}
    )


def sampling_of(fields: Fields) -> SamplingFields:
    _refuse_what_changes_answers(fields)
    shared = defaults_of(fields)
    newer = fields.integer("max_completion_tokens", 1, MAX_TOKENS)
    return msgspec.structs.replace(
        shared,
        max_tokens=shared.max_tokens if newer is None else newer,
        seed=fields.integer("seed", -(2**63), 2**64 - 1),
        stop=_stop(fields),
        stop_token_ids=_stop_token_ids(fields),
        logit_bias=_logit_bias(fields),
    )


def stream_of(fields: Fields) -> StreamFields:
    stream = bool(fields.boolean("stream"))
    options = fields.table("stream_options")
    if options is None:
        return StreamFields(stream, False)
    if not stream:
        raise fields.wrong("stream_options", "is only allowed when stream is true")
    return StreamFields(stream, bool(options.boolean("include_usage")))


def _refuse_what_changes_answers(fields: Fields) -> None:
    for name in ("n", "best_of"):
        if (fields.integer(name, 1, 128) or 1) > 1:
            raise fields.refuse(name, "above 1 is not supported yet")
    if fields.raw("top_logprobs") not in (None, 0):
        raise fields.refuse("top_logprobs", "is not supported yet")
    form = fields.table("response_format")
    if form is not None and form.text("type") != "text":
        raise form.refuse("type", 'must be "text": other formats are not supported yet')


def _stop(fields: Fields) -> tuple[str, ...] | None:
    value = fields.raw("stop")
    if value is None:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise fields.wrong("stop", "must be a string or an array of strings")
    if not all(stops):
        raise fields.wrong("stop", "must not contain an empty string: it would stop everything")
    if len(stops) > _MOST_STOPS or any(len(s) > _LONGEST_STOP for s in stops):
        raise fields.wrong(
            "stop", f"must have at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters"
        )
    return tuple(stops)


def _stop_token_ids(fields: Fields) -> tuple[int, ...]:
    ids = []
    for value in fields.items("stop_token_ids", _MOST_STOP_IDS) or ():
        number = as_integer(value)
        if number is None or not 0 <= number < 2**31:
            raise fields.wrong("stop_token_ids", "must be an array of token ids")
        ids.append(number)
    return tuple(ids)


def _logit_bias(fields: Fields) -> dict[int, float]:
    table = fields.table("logit_bias")
    pairs = table.pairs() if table is not None else []
    if len(pairs) > _MOST_BIASES:
        raise fields.wrong("logit_bias", f"must have at most {_MOST_BIASES} entries")
    bias = {}
    for key, value in pairs:
        token, amount = as_integer(key), as_number(value)
        if token is None or not 0 <= token < 2**31:
            raise fields.wrong("logit_bias", "must map token ids to numbers")
        if amount is None or not -100 <= amount <= 100 or isinstance(value, bool):
            raise fields.wrong("logit_bias", "must have values between -100 and 100")
        bias[token] = amount
    return bias
