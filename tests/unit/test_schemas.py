"""Reading requests: lenient in type, strict in range, errors by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.errors import Kind, Refusal
from web.schemas.chat import chat_request
from web.schemas.completions import completion_request
from web.schemas.fields import Fields, _values, as_integer, as_number, decode, read
from web.schemas.sampling import CONSTRAINTS, EXTRAS

ROOT = Path(__file__).resolve().parents[2]


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


def test_ids_of_logit_bias_are_read_from_strings() -> None:
    request = completion_request(Fields({"prompt": "x", "logit_bias": {"5": -100, "7": "1.5"}}))
    assert request.sampling.logit_bias == {5: -100.0, 7: 1.5}


def test_stops() -> None:
    def stop(value: Any) -> Any:
        return completion_request(Fields({"prompt": "x", "stop": value})).sampling.stop

    assert stop("a") == ("a",)
    assert stop(["a", "b"]) == ("a", "b")
    assert stop([]) == ()
    assert stop("") is None and stop([""]) is None and stop(["", "a", ""]) == ("a",)
    for wrong in (5, [5], {}, ["", 5]):
        with pytest.raises(Refusal, match="stop"):
            stop(wrong)


def test_lists_are_bounded() -> None:
    """A long list is refused before anything walks through it."""
    for wrong, field in (
        ({"logit_bias": {str(i): 1 for i in range(65537)}}, "logit_bias"),
        ({"stop_token_ids": list(range(1025))}, "stop_token_ids"),
    ):
        with pytest.raises(Refusal, match=f"^{field} must have at most"):
            completion_request(Fields({"prompt": "x", **wrong}))
    for name in ("user_name", "assistant_name", "system_name"):
        chat_request(Fields({"messages": [], name: "x" * 256}))
        with pytest.raises(Refusal, match=f"^{name} must have at most 256"):
            chat_request(Fields({"messages": [], name: "x" * 257}))


@pytest.mark.parametrize(
    "value", [{}, [], [[]], "", "a\\", '\\"[{', ["a", {"b": ["{", "[", '"']}], [1, 2, None, True]]
)
def test_values_of_a_body_are_counted(value: Any) -> None:
    def count(one: Any) -> int:
        if isinstance(one, dict):
            return 1 + len(one) + sum(count(inner) for inner in one.values())
        if isinstance(one, list):
            return 1 + sum(count(inner) for inner in one)
        return int(isinstance(one, str))

    assert _values(json.dumps(value).encode())[0] == count(value)
    assert _values(json.dumps(value, indent=1).encode())[0] == count(value)


def test_bodies_of_millions_of_values_are_refused() -> None:
    many = b"[]," * 600_000
    with pytest.raises(Refusal, match=r"^body must have at most 524288"):
        read(b'{"prompt":"x","metadata":[' + many + b"[]]}", completion_request)
    with pytest.raises(Refusal, match=r"^body must have at most 2097152 numbers"):
        read(b'{"prompt":[' + b"1," * 2_097_152 + b"1]}", completion_request)
    text = json.dumps({"prompt": '"[]{},\\' * 600_000}).encode()
    assert read(text, completion_request).prompts == ['"[]{},\\' * 600_000]


def test_long_lists_of_ids_become_arrays() -> None:
    ids = [i % 60000 for i in range(100_000)]
    (prompt,) = read(json.dumps({"prompt": ids}).encode(), completion_request).prompts
    assert isinstance(prompt, np.ndarray) and prompt.dtype == np.int32 and prompt.tolist() == ids
    for wrong in (-1, 2**31, 1.5, True, "x", None):
        with pytest.raises(Refusal, match=r"^prompt must be"):
            completion_request(Fields({"prompt": [*ids, wrong]}))
    two = completion_request(Fields({"prompt": [ids, [5], []]})).prompts
    assert (len(two[0]), two[1], two[2]) == (100_000, [5], "\n")


def test_what_json_cannot_say() -> None:
    for body in (b'{"a": "\\ud800"}', b'{"a": {"b": "\\uDBFFx"}}', b'{"a": "\\udc00"}'):
        with pytest.raises(Refusal, match="half of a surrogate pair"):
            decode(body)
    assert decode(b'{"a": "\\ud83d\\ude00"}').raw("a") == "\U0001f600"
    assert decode(b'\xef\xbb\xbf{"a": 1}').raw("a") == 1


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
    for schema in (chat_request, completion_request):
        try:
            schema(Fields(body))
        except Refusal as refusal:
            assert refusal.kind is Kind.INVALID
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


# Value -> whether it asks for something; of every field that constrains an answer.
ASKS = [("x", True), ({"a": 1}, True), (["x"], True), (5, True), (True, True)]
ASKS_NOT = [None, "", [], False]


@pytest.mark.parametrize("name", [*CONSTRAINTS, *EXTRAS])
def test_what_constrains_an_answer_is_refused_by_name(name: str) -> None:
    bodies = ({"messages": [{"role": "user", "content": "x"}]}, {"prompt": "x"})
    for body, schema in zip(bodies, (chat_request, completion_request), strict=True):
        for value, asks in [*ASKS, *((value, False) for value in ASKS_NOT)]:
            if not asks:
                assert schema(Fields({**body, name: value})) == schema(Fields(body))
                continue
            with pytest.raises(Refusal, match=f"^{name} is not supported yet") as caught:
                schema(Fields({**body, name: value}))
            assert caught.value.kind is Kind.INVALID and caught.value.param == name
            assert caught.value.code == "unsupported_value"


@pytest.mark.parametrize(
    ("field", "value", "asks"),
    [
        ("guided_json", {}, True),  # any JSON
        ("json_schema", {}, True),
        ("prompt_logprobs", 0, True),  # those of the prompt itself
        ("structured_outputs", {}, False),
        ("structured_outputs", {"json": None, "regex": None}, False),
        ("structured_outputs", {"choice": ["yes", "no"]}, True),
        ("format", "json", True),
        ("num_beams", 1, False),
        ("n_probs", 0, False),
        ("n_probs", 10, True),
        ("truncate_prompt_tokens", -1, False),
        ("truncate_prompt_tokens", 512, True),
    ],
)
def test_defaults_of_clients_constrain_nothing(field: str, value: Any, asks: bool) -> None:
    body = {"prompt": "x", field: value}
    if not asks:
        assert completion_request(Fields(body)) == completion_request(Fields({"prompt": "x"}))
        return
    with pytest.raises(Refusal, match=f"^{field} is not supported yet"):
        completion_request(Fields(body))


def test_constraints_are_in_the_documentation() -> None:
    table = (ROOT / "docs" / "compatibility.md").read_text().partition("## Fields of other")[2]
    for name in (*CONSTRAINTS, *EXTRAS):
        assert f"`{name}`" in table, name


F, G = ({"type": "function", "function": {"name": name}} for name in "fg")


def offered(choice: Any, *tools: Any) -> list[str]:
    body = {"messages": [], "tools": list(tools or (F, G)), "tool_choice": choice}
    return [function.name for function in chat_request(Fields(body)).conversation.tools.functions]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        *((word, "fg") for word in (None, "auto", "required", "any")),
        ("none", ""),
        *(({"type": word}, "fg") for word in ("auto", "required", "any")),
        ({"type": "none"}, ""),
        ({"type": "function", "function": {"name": "g"}}, "g"),
        ({"function": {"name": "g"}}, "g"),
        ({"type": "function", "name": "g"}, "g"),
        ({"type": "tool", "name": "f"}, "f"),
        ({"type": "custom", "custom": {"name": "f"}}, "f"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [G]}}, "g"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [G, F]}}, "fg"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}, "f"),
    ],
)
def test_choices_of_tools(choice: Any, names: str) -> None:
    assert offered(choice) == list(names)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        *((word, "tool_choice") for word in ("sometimes", "", 5, [], ["auto"], True)),
        ({}, "tool_choice.function"),
        ({"type": "sometimes"}, "tool_choice.type"),
        ({"type": 5}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "function": "f"}, "tool_choice.function"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
        ({"type": "function", "function": {"name": "h"}}, "tool_choice"),
        ({"type": "custom", "custom": {"name": "h"}}, "tool_choice"),
        ({"type": "tool", "name": 5}, "tool_choice.name"),
        ({"type": "allowed_tools"}, "tool_choice.tools"),
        ({"type": "allowed_tools", "allowed_tools": {}}, "tool_choice.allowed_tools.tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": [F]}},
            "tool_choice.allowed_tools.mode",
        ),
        ({"type": "allowed_tools", "tools": ["f"]}, "tool_choice.tools[0]"),
        (
            {"type": "allowed_tools", "tools": [{"type": "file_search"}]},
            "tool_choice.tools[0].type",
        ),
        ({"type": "allowed_tools", "tools": [F, {**F, "function": {"name": "h"}}]}, "tool_choice"),
    ],
)
def test_wrong_choices_of_tools_are_named(choice: Any, param: str) -> None:
    with pytest.raises(Refusal) as caught:
        offered(choice)
    assert caught.value.kind is Kind.INVALID and caught.value.param == param
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize("word", ["required", "any"])
def test_nothing_can_be_required_of_no_tools(word: str) -> None:
    for choice in (word, {"type": word}):
        with pytest.raises(Refusal, match=r"^tool_choice must not be .* without tools"):
            chat_request(Fields({"messages": [], "tool_choice": choice}))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "data:,"}}, "images: remove the picture"),
        ({"type": "input_image", "image_url": "data:,"}, "images: remove the picture"),
        ({"type": "input_audio", "input_audio": {}}, "sound: remove the recording"),
        ({"type": "file", "file": {}}, "files: remove the file"),
    ],
)
def test_what_a_model_of_text_cannot_read(part: Any, said: str) -> None:
    """In words for people, wherever in a chat it is: the history of a chat window keeps it."""
    for place in range(3):
        messages: list[Any] = [{"role": "user", "content": "x"} for _ in range(3)]
        messages[place]["content"] = [{"type": "text", "text": "look"}, part]
        with pytest.raises(Refusal, match=f"^this model reads no {said}, or begin") as caught:
            chat_request(Fields({"messages": messages}))
        assert caught.value.param == f"messages[{place}].content[1].type"


def test_echo_is_for_completions() -> None:
    chat_request(Fields({"messages": [], "echo": False}))
    assert completion_request(Fields({"prompt": "x", "echo": True})).echo
    with pytest.raises(Refusal, match=r"^echo is not supported in chats"):
        chat_request(Fields({"messages": [], "echo": True}))
