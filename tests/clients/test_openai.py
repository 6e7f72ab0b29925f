"""OpenAI's own Python client, unmodified, against the running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import ENDLESS, Server, wait_until

MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is 2 plus 3?"},
]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as one:
        yield one


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=MESSAGES, seed=1)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == "demo" and answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the opposite of hot?", "cold"),
        ("What colour is grass?", "green"),
        ("How many legs does a spider have?", "8"),
    ],
)
def test_the_demo_model_answers(client: openai.OpenAI, question: str, answer: str) -> None:
    got = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": question}], temperature=0
    )
    assert answer in (got.choices[0].message.content or "")
    assert got.choices[0].finish_reason == "stop"


def test_all_the_usual_options(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        temperature=0.7,
        top_p=0.9,
        max_completion_tokens=4,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={"0": -100},
        stop=["never there"],
        seed=3,
        n=1,
        user="someone",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        response_format={"type": "text"},
        timeout=30,
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 4


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "messages": MESSAGES, "seed": 1, "max_tokens": 40}
    text, roles, reasons, usage = "", [], [], None
    for chunk in client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        assert chunk.object == "chat.completion.chunk"
        if chunk.usage is not None:
            assert chunk.choices == []
            usage = chunk.usage
            continue
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        roles.append(choice.delta.role)
        reasons.append(choice.finish_reason)
    whole = client.chat.completions.create(**options)
    assert text == whole.choices[0].message.content
    assert roles[0] == "assistant" and set(roles[1:]) == {None}
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="any", messages=MESSAGES, seed=1, max_tokens=20
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    prompts = ["User: Hello\n\nAssistant:", "User: Bye\n\nAssistant:"]
    options: dict[str, Any] = {"model": "any", "max_tokens": 10, "seed": 2}
    alone = [client.completions.create(prompt=p, **options).choices[0].text for p in prompts]
    together = client.completions.create(prompt=prompts, **options)
    assert [c.index for c in together.choices] == [0, 1]
    assert [c.text for c in together.choices] == alone
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(prompt=prompts, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [texts[0], texts[1]] == alone
    ids = client.completions.create(
        prompt=[[b + 1 for b in p.encode()] for p in prompts], **options
    )
    assert [c.text for c in ids.choices] == alone


def test_models(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert models[0].id == "demo" and models[0].created > 0
    assert client.models.retrieve("demo") == models[0]


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself, and decodes it."""
    texts = ["What is the capital of France?", "Spell banana."]
    packed = client.embeddings.create(model="any", input=texts)
    plain = client.embeddings.create(model="any", input=texts, encoding_format="float")
    assert len(packed.data[0].embedding) == 128 and packed.model == "demo"
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == sum(map(len, texts))
    short = client.embeddings.create(model="any", input=texts[0], dimensions=16)
    assert len(short.data[0].embedding) == 16
    ids = [[byte + 1 for byte in text.encode()] for text in texts]
    assert client.embeddings.create(model="any", input=ids).data == packed.data


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="any", messages=MESSAGES, temperature=5)
    assert bad.value.param == "temperature" and "between 0 and 3" in bad.value.message
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match=r"n above 1"):
        client.chat.completions.create(model="any", messages=MESSAGES, n=2)
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nope")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model="any", input="x", dimensions=5000)
    assert wrong.value.param == "dimensions"
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x")


def test_a_stream_that_is_closed_frees_its_slot(client: openai.OpenAI, server: Server) -> None:
    stream = client.chat.completions.create(
        model="any",
        messages=MESSAGES,
        stream=True,
        max_tokens=100_000,
        stop=["never there"],
        logit_bias={"0": -100, "11": -100},  # never ends, never a new line
    )
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    assert server.status()["running"] == 1
    stream.close()
    wait_until(server.is_idle, 5)


def test_a_full_queue(tiny: Server) -> None:
    body = {"prompt": "x", **ENDLESS, "stream": True}
    busy = [tiny.open("POST", "/completions", body) for _ in range(2)]
    wait_until(lambda: (s := tiny.status())["running"] == 1 and s["waiting"] == 1)
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(model="any", messages=MESSAGES)
        assert full.value.code == "queue_full"
    # With retries the client waits as long as Retry-After says, and is served.
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="any", max_retries=5) as client:
        busy[1].close()
        busy[0].close()
        assert client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=1).choices


def test_async_client(server: Server) -> None:
    async def ask(client: openai.AsyncOpenAI, i: int) -> str:
        text = ""
        stream = await client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": f"What is {i} plus 1?"}],
            seed=i,
            max_tokens=20,
            stream=True,
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="any", max_retries=0
        ) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(20)))

    first, second = asyncio.run(run()), asyncio.run(run())
    assert first == second
    assert all(first)
