"""Reading requests: lenient in type, strict in range, errors by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.errors import Refusal
from web.schemas.chat import chat_request
from web.schemas.completions import completion_request
from web.schemas.fields import Fields, as_integer, as_number, decode


@pytest.mark.parametrize(
    ("value", "number"),
    [(12, 12), (12.0, 12), ("12", 12), ("12.0", 12), ("-3", -3), ("+4", 4), (True, 1), (False, 0)],
)
def test_integers_are_lenient(value: Any, number: int) -> None:
    assert as_integer(value) == number


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        "1.5",
        "1e2",
        " 12 ",
        "0x10",
        "",
        "x",
        None,
        [],
        {},
        float("nan"),
        float("inf"),
        "1" * 50,
    ],
)
def test_what_is_no_integer(value: Any) -> None:
    assert as_integer(value) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.5, 0.5), ("0.5", 0.5), (".5", 0.5), ("1e-1", 0.1), ("-2", -2.0), (True, 1.0)],
)
def test_numbers_are_lenient(value: Any, number: float) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize(
    "value",
    ["NaN", "nan", "Infinity", "inf", "1e999", 10**400, " 1", "1_0", "", None, [], float("nan")],
)
def test_what_is_no_number(value: Any) -> None:
    assert as_number(value) is None


@pytest.mark.parametrize("true", [True, 1, 1.0, "1", "true", "TRUE", "T", "yes", "Y", "on"])
@pytest.mark.parametrize("false", [False, 0, 0.0, "0", "false", "F", "No", "n", "OFF"])
def test_booleans_are_lenient(true: Any, false: Any) -> None:
    fields = Fields({"a": true, "b": false, "c": None})
    assert fields.boolean("a") is True
    assert fields.boolean("b") is False
    assert fields.boolean("c") is None and fields.boolean("absent") is None


def test_nulls_are_absent() -> None:
    names = (
        *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
        *("frequency_penalty", "penalty_decay", "global_penalty", "seed", "stop"),
        *("stop_token_ids", "logit_bias", "n", "best_of", "top_logprobs", "response_format"),
        *("state", "stream", "stream_options", "model", "tools", "tool_choice", "functions"),
        *("modalities", "audio", "logprobs", "user_name", "presystem", "max_completion_tokens"),
    )
    message = {"role": "user", "content": "x"}
    plain = chat_request(Fields({"messages": [message]}))
    assert chat_request(Fields({"messages": [message], **dict.fromkeys(names)})) == plain
    assert plain.sampling.max_tokens is None and plain.sampling.stop is None
    prompt = completion_request(Fields({"prompt": "x"}))
    nulls = dict.fromkeys((*names, "echo", "suffix"))
    assert completion_request(Fields({"prompt": "x", **nulls})) == prompt


def test_what_asks_for_nothing_is_accepted() -> None:
    chat_request(
        Fields(
            {
                "messages": [], "n": 1, "best_of": 1, "tools": [], "tool_choice": "auto",
                "response_format": {"type": "text"}, "modalities": ["text"], "logprobs": False,
                "state": "", "functions": [], "top_logprobs": 0, "parallel_tool_calls": True,
                "user": "u", "store": False, "metadata": {}, "service_tier": "auto",
            }
        )
    )  # fmt: skip
    chat_request(Fields({"messages": [], "state": "models/"}))  # a folder: no tuned state


def test_ids_of_logit_bias_are_read_from_strings() -> None:
    request = completion_request(Fields({"prompt": "x", "logit_bias": {"5": -100, "7": "1.5"}}))
    assert request.sampling.logit_bias == {5: -100.0, 7: 1.5}


def test_stops() -> None:
    def stop(value: Any) -> Any:
        return completion_request(Fields({"prompt": "x", "stop": value})).sampling.stop

    assert stop("a") == ("a",)
    assert stop(["a", "b"]) == ("a", "b")
    assert stop([]) == ()
    for wrong in ("", [""], 5, [5], {}):
        with pytest.raises(Refusal, match="stop"):
            stop(wrong)


def test_the_last_of_two_keys_wins() -> None:
    assert decode(b'{"a": 1, "a": 2}').raw("a") == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KNOWN = st.sampled_from(
    [
        *("messages", "prompt", "max_tokens", "temperature", "top_p", "top_k", "stop", "stream"),
        *("stop_token_ids", "logit_bias", "seed", "n", "tools", "tool_choice", "response_format"),
        *(
            "stream_options",
            "state",
            "echo",
            "suffix",
            "logprobs",
            "model",
            "user_name",
            "modalities",
        ),
    ]
)


@given(st.dictionaries(KNOWN, JSON))
def test_anything_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    for read in (chat_request, completion_request):
        try:
            read(Fields(body))
        except Refusal as refusal:
            assert refusal.status.startswith("400")
            assert refusal.param and refusal.message.startswith(refusal.param)


@given(st.lists(st.fixed_dictionaries({}, optional={
    "role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "x"]) | JSON,
    "content": JSON, "prefix": JSON, "tool_calls": JSON, "name": JSON,
})))  # fmt: skip
def test_any_messages_are_read_or_refused_by_name(messages: list[Any]) -> None:
    try:
        chat_request(Fields({"messages": messages}))
    except Refusal as refusal:
        assert refusal.param and refusal.param.startswith("messages[")
