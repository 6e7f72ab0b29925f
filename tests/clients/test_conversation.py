"""A conversation over OpenAI's own client, messages appended as it returns them: every turn costs
its new tokens only, and what the model is fed is the form that it has learnt.

The model has the World vocabulary and writes paragraphs, code and emoji at random, in encodings
that its tokenizer would not choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import bigrams
import openai
import pytest
from serving import Server, serving

import rwkv_native as rn

TURNS = 20
WORLD = rn.Tokenizer.named("world")
END = 0

# What may follow each token, the likelier one first. Emoji are three tokens each; the last byte of
# one chooses what follows. An answer ends with the end of the text or with the next label, after a
# blank line as one token, as two, or as part of the token before.
FOLLOWS: dict[str | bytes, tuple[str | bytes, ...]] = {
    ":": (" Yes", " Well"),
    " Yes": (",", "."),
    " Well": (",",),
    ",": (" it", " and"),
    " it": (" is", "\n"),
    " is": (".", "\u3002"),
    " and": (" ", " it"),
    " ": ("\u4f60",),
    "\u4f60": ("\u597d", "\u4eec"),
    "\u597d": ("\u3002", "\u3002\n"),
    "\u4eec": ("\u3002\n", "\u3002"),
    "\u3002": ("\n\n", "``"),
    "\u3002\n": ("\n",),
    "``": ("`",),
    "`": ("\n", "python"),
    "python": ("\n",),
    ".": ("\n\n", b"\xf0\x9f"),
    "\n": ("\n\n", "User"),
    "\n\n": ("User", "But"),
    "But": (" it", ","),
    "User": (":",),
    b"\xf0\x9f": (b"\x98",),
    b"\x98": (b"\x80",),
    b"\x80": ("", "\n\n"),
}
# As hot as can be: with logits near 80, of which successors of many tokens have a few less.
SAMPLING: dict[str, Any] = {"temperature": 3, "top_p": 1, "frequency_penalty": 0, "max_tokens": 200}


def id_of(token: str | bytes) -> int:
    raw = token.encode() if isinstance(token, str) else token
    (id,) = WORLD.encode_bytes(raw) if raw else [END]
    return id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("model") / "says.safetensors"
    after = {id_of(token): id_of(then[0]) for token, then in FOLLOWS.items()}
    second = {id_of(token): id_of(then[1]) for token, then in FOLLOWS.items() if len(then) > 1}
    bigrams.write(path, after, second=second, weight=10)
    with serving(access_log=0, model=path, strategy="cpu fp32", cache_mb=64) as server:
        yield server
    path.unlink()


@pytest.fixture(scope="module")
def client(world: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key="any", max_retries=0) as one:
        yield one


def rule(messages: list[Any]) -> str:
    """The prompt of a conversation, said once more and independently."""
    prompt = ""
    for message in messages:
        plain = message if isinstance(message, dict) else message.model_dump()
        text = plain["content"].replace("\r\n", "\n")
        if plain["role"] != "assistant":
            text = re.sub("\n+", "\n", text)
        prompt += f"{plain['role'].capitalize()}: {text.strip()}\n\n"
    return f"{prompt}Assistant:"


def asked(client: openai.OpenAI, messages: list[Any], seed: int, stream: bool) -> tuple[Any, Any]:
    """The message to append, and the usage."""
    request: dict[str, Any] = {"model": "any", "messages": messages, "seed": seed, **SAMPLING}
    if not stream:
        answer = client.chat.completions.create(**request)
        return answer.choices[0].message, answer.usage
    text, usage = "", None
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(**request, stream=True, stream_options=options):
        usage = chunk.usage or usage
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            assert text == text.strip()  # at every moment
    return {"role": "assistant", "content": text}, usage


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_every_turn_costs_its_new_tokens_only(
    world: Server, client: openai.OpenAI, stream: bool
) -> None:
    messages: list[Any] = [{"role": "system", "content": f"Be kind.\r\n\r\nStream: {stream}"}]
    said, known, reworded = "", 0, 0
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f" Turn {turn}:\n\n\nwhat now?\n"})
        told = world.post("/tokenize", {"messages": [plain(one) for one in messages]})
        assert told["prompt"] == rule(messages)
        assert WORLD.decode(told["tokens"]) == told["prompt"]
        answer, usage = asked(client, messages, 1000 + turn, stream)
        assert usage.prompt_tokens == told["count"]
        if turn:
            # The state behind the last answer, of which a token may have been both answer and
            # blank line; what follows it is new.
            new = usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
            least = len(WORLD.encode(f"User: Turn {turn}:\nwhat now?\n\nAssistant:"))
            assert least <= new <= least + 2
            assert usage.prompt_tokens_details.cached_tokens >= known
        reworded += told["tokens"] != WORLD.encode(told["prompt"])
        known = usage.prompt_tokens + 1
        messages.append(answer)
        said += plain(answer)["content"]
    # The answers were worth it.
    assert reworded > TURNS // 2
    for seen in ("\n\n", "\u3002", "```", "\U0001f600", "python"):
        assert seen in said


def plain(message: Any) -> dict[str, Any]:
    if isinstance(message, dict):
        return message
    return message.model_dump(exclude_unset=True)


def test_an_answer_that_was_cut_goes_on_where_it_ended(
    world: Server, client: openai.OpenAI
) -> None:
    """A last message of the assistant is continued, from its own state."""
    begun: list[Any] = [{"role": "user", "content": "Go on."}]
    body = {**SAMPLING, "temperature": 0}
    whole = client.chat.completions.create(model="any", messages=begun, **body)
    text = whole.choices[0].message.content
    assert text is not None and whole.usage is not None
    for most in (1, 2, 5):  # not inside of the emoji
        cut = client.chat.completions.create(
            model="any", messages=begun, **{**body, "max_tokens": most}
        )
        message = cut.choices[0].message
        assert cut.choices[0].finish_reason == "length" and message.content
        rest = client.chat.completions.create(model="any", messages=[*begun, message], **body)
        assert rest.usage is not None and rest.usage.prompt_tokens_details is not None
        joined = message.content + (rest.choices[0].message.content or "")
        assert re.sub(r"\s+", " ", joined) == re.sub(r"\s+", " ", text)
        new = rest.usage.prompt_tokens - (rest.usage.prompt_tokens_details.cached_tokens or 0)
        assert new == 1  # the last token drawn has not been read
