"""The fields that chat and completions share (runner-api 1.1 and OpenAI's), as one value.

Called by `schemas/chat.py` and `schemas/completions.py`. Fields that say which answers are right,
or ask for something beside the answer, and cannot be honoured are refused by name; hints (`user`,
`metadata`, `store`, samplers of other servers, ...) and what nobody knows are ignored.
docs/compatibility.md lists both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from web.engine.requests import CONFIGURABLE, SamplingOptions
from web.files.allowed_paths import LONGEST
from web.schemas.fields import TOKEN_ID, WIRE, Fields, as_integer, as_number

# Of a JSON number that every client can write: what is above a server's limit is cut down to it.
_LARGEST = 2**53 - 1
_LARGEST_K = 2**31 - 1
_MOST_STOPS = 128
_LONGEST_STOP = 4096
_MOST_STOP_IDS = 1024
_MOST_BIASES = 65536  # as many as World has rows


MaxTokens = Annotated[
    int,
    Meta(
        ge=-1,
        le=_LARGEST,
        description="The most tokens to generate, at most the server's limit; -1: as many as it "
        "gives those who do not say; 0: only the prompt is read. "
        "最多生成的 token 数，不超过服务器上限；-1 表示服务器的默认值，0 表示只读入提示词。",
        examples=[1000],
    ),
]
MinTokens = Annotated[
    int,
    Meta(
        ge=0,
        le=_LARGEST,
        description="The fewest tokens of an answer: before that nothing ends it. "
        "回答的最少 token 数，在此之前不会结束。",
    ),
]
IgnoreEnds = Annotated[
    bool,
    Meta(
        description="Never draw the token that ends an answer, nor end a chat at the next turn's "
        "label: it goes on for max_tokens. "
        "不生成结束 token，也不在下一轮的角色名处停止，直到 max_tokens 为止。"
    ),
]
Temperature = Annotated[
    float,
    Meta(
        ge=0,
        le=3,
        description="Higher is more random, lower more stable; 0 takes the most probable token, "
        "and what lies between acts as 0.1 at least. "
        "越高越随机，越低越稳定；0 表示总取概率最大的 token。",
        examples=[1],
    ),
]
TopP = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="Only the most probable tokens up to this share of the mass. "
        "只在累计概率达到该值的 token 中采样。",
        examples=[0.3],
    ),
]
TopK = Annotated[
    int,
    Meta(
        ge=-1,
        le=_LARGEST_K,
        description="Only so many of the most probable tokens; 0 or -1: all. "
        "只在概率最大的若干 token 中采样，0 或 -1 表示不限。",
    ),
]
MinP = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="Only tokens at least this share as probable as the first. "
        "丢弃概率低于最大概率乘以该值的 token。",
    ),
]
PresencePenalty = Annotated[
    float,
    Meta(
        ge=-2,
        le=2,
        description="Against every token that has been drawn. 对已出现过的 token 的惩罚。",
    ),
]
FrequencyPenalty = Annotated[
    float,
    Meta(
        ge=-2,
        le=2,
        description="The same, times how often it was drawn. 按出现次数惩罚，减少重复。",
    ),
]
PenaltyDecay = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="By which the counts shrink with every token. 出现次数每步的衰减系数。",
        examples=[0.996],
    ),
]
GlobalPenalty = Annotated[
    bool,
    Meta(description="Whether the prompt's tokens count, too. 提示词中的 token 是否也计入。"),
]
TunedState = Annotated[
    str,
    Meta(
        max_length=LONGEST,
        description="The file of a tuned state; empty: none. 状态微调文件的路径，空表示不使用。",
    ),
]
Seed = Annotated[
    int | None,
    Meta(
        description="Any integer of 64 bits makes the draws repeatable; "
        "-1 or null: others each time. "
        "随机种子，用于复现结果；-1 表示每次不同。",
        # Its bounds are no numbers of JavaScript: pages would show others.
        extra_json_schema={WIRE: {"type": ["integer", "null"]}},
    ),
]
Stop = Annotated[
    tuple[str, ...] | None,
    Meta(
        description="Texts that end the answer; empty ones are ignored. "
        "遇到这些文本时停止生成，空文本会被忽略。",
        extra_json_schema={
            WIRE: {
                "type": ["string", "array", "null"],
                "maxLength": _LONGEST_STOP,
                "maxItems": _MOST_STOPS,
                "items": {"type": "string", "maxLength": _LONGEST_STOP},
            }
        },
    ),
]
StopTokenIds = Annotated[
    tuple[int, ...],
    Meta(
        description="Tokens that end the answer. 遇到这些 token 时停止生成。",
        extra_json_schema={
            WIRE: {"type": ["array", "null"], "maxItems": _MOST_STOP_IDS, "items": TOKEN_ID}
        },
    ),
]
LogitBias = Annotated[
    dict[int, float],
    Meta(
        description="What is added to the logits of tokens. 加到指定 token 的 logit 上的值。",
        extra_json_schema={
            WIRE: {
                "type": ["object", "null"],
                "maxProperties": _MOST_BIASES,
                "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            }
        },
    ),
]


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of SamplingOptions on the wire: by it numbers, booleans and texts are read."""

    max_tokens: MaxTokens | None = None
    min_tokens: MinTokens | None = None
    ignore_eos: IgnoreEnds | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: PresencePenalty | None = None
    frequency_penalty: FrequencyPenalty | None = None
    penalty_decay: PenaltyDecay | None = None
    global_penalty: GlobalPenalty | None = None
    state: TunedState | None = None
    seed: Seed = None
    stop: Stop = None
    stop_token_ids: StopTokenIds = ()
    logit_bias: LogitBias = {}


class StreamFields(msgspec.Struct, frozen=True):
    stream: bool
    include_usage: bool


def defaults_of(fields: Fields) -> SamplingOptions:
    """The fields that /update-config sets, and that a request may replace."""
    given = _shared(fields)
    if given.max_tokens == 0:
        raise fields.wrong("max_tokens", "must be at least 1, or every answer would be empty")
    return given


def _shared(fields: Fields) -> SamplingOptions:
    """The same of a request. What others mean by -1 is "not said" of a length, "off" of a cut."""
    given = fields.plain(SamplingFields, *CONFIGURABLE)
    if given["max_tokens"] == -1:
        given["max_tokens"] = None
    if given["top_k"] == -1:
        given["top_k"] = 0
    return SamplingOptions(**given)


def sampling_of(fields: Fields, forms: Sequence[str] = ("text",)) -> SamplingOptions:
    """`forms` are those that `response_format` may ask for."""
    _refuse_what_changes_answers(fields)
    form_of(fields, forms)
    shared = _shared(fields)
    newer = fields.integer("max_completion_tokens", -1, _LARGEST)
    longest = shared.max_tokens if newer in (None, -1) else newer
    more = fields.plain(SamplingFields, "min_tokens", "ignore_eos")
    if longest is not None and (more["min_tokens"] or 0) > longest:
        raise fields.wrong("min_tokens", f"must not be above max_tokens, which is {longest}")
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    return msgspec.structs.replace(
        shared,
        **more,
        max_tokens=longest,
        seed=None if seed == -1 else seed,
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


def form_of(fields: Fields, known: Sequence[str]) -> str:
    """The type of `response_format`, one of those known; the first if there is none."""
    form = fields.table("response_format")
    if form is None:
        return known[0]
    kind = form.text("type")
    if kind not in known:
        words = " or ".join(f'"{one}"' for one in known)
        raise form.refuse("type", f"must be {words}: other formats are not supported yet")
    return kind


# What says which answers are right, by the names of vLLM, SGLang, llama.cpp, Ollama and text UIs.
CONSTRAINTS = (
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
    *("json_schema", "regex", "ebnf", "structural_tag", "grammar", "grammar_string", "format"),
    *("allowed_token_ids", "bad_words", "banned_strings", "banned_tokens", "custom_token_bans"),
    *("logits_processors", "include_stop_str_in_output"),
)
# What asks for another prompt than the one that is given, or for numbers beside the answer.
EXTRAS = (
    *("prompt_logprobs", "n_probs", "use_beam_search", "num_beams", "truncate_prompt_tokens"),
    *("prompt_embeds", "chat_template", "documents"),
)
# Some ask for nothing with these: one beam, no numbers, and as much of the prompt as there is.
_HARMLESS: dict[str, tuple[int, ...]] = {
    "n_probs": (0,),
    "num_beams": (0, 1),
    "truncate_prompt_tokens": (-1,),
}


def _refuse_what_changes_answers(fields: Fields) -> None:
    for name in ("n", "best_of"):
        if (fields.integer(name, 1, 128) or 1) > 1:
            raise fields.refuse(name, "above 1 is not supported yet")
    if fields.raw("top_logprobs") not in (None, 0):
        raise fields.refuse("top_logprobs", "is not supported yet")
    for name in (*CONSTRAINTS, *EXTRAS):
        if fields.has(name) and not _asks_for_nothing(name, fields.raw(name)):
            raise fields.refuse(name, "is not supported yet")


def refuse_truncation(fields: Fields) -> None:
    """400 for who wants a text cut: what is too long is refused, and nothing is left out unseen."""
    name = "truncate_prompt_tokens"
    if not _asks_for_nothing(name, fields.raw(name)):
        raise fields.refuse(name, "is not supported yet")


def _asks_for_nothing(name: str, value: Any) -> bool:
    """Clients send their defaults. An empty schema is one that any JSON fits: it does ask."""
    if isinstance(value, dict) and name == "structured_outputs":
        return all(one is None for one in value.values())
    if value is None or value is False or value in ("", []):
        return True
    return not isinstance(value, bool) and value in _HARMLESS.get(name, ())


def _stop(fields: Fields) -> tuple[str, ...] | None:
    value = fields.raw("stop")
    if value is None:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise fields.wrong("stop", "must be a string or an array of strings")
    if len(stops) > _MOST_STOPS or any(len(s) > _LONGEST_STOP for s in stops):
        raise fields.wrong(
            "stop", f"must have at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters"
        )
    kept = tuple(stop for stop in stops if stop)
    # Whoever names nothing but empty ones has not said; an empty list says that there are none.
    return None if stops and not kept else kept


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
