"""What OpenAI's Python client gets, of whatever version. Prints one JSON object."""

import json
import sys

import openai

TOLD = json.loads(sys.argv[1])
ASK = {"model": "any", "messages": TOLD["messages"], "temperature": 0}


def told(problem):
    return {
        "kind": type(problem).__name__,
        "status": problem.status_code,
        "message": problem.message,
        "param": problem.param,
        "code": problem.code,
    }


def error_of(call):
    try:
        call()
    except openai.APIStatusError as problem:
        return told(problem)


def calls_of(message):
    calls = message.tool_calls or []
    return [[call.function.name, json.loads(call.function.arguments)] for call in calls]


def client_of(name, key="any"):
    return openai.OpenAI(base_url=TOLD[name] + "/v1", api_key=key, max_retries=0)


client, keyed, scripted = client_of("plain"), client_of("keyed", "wrong"), client_of("scripted")
report = {"version": openai.__version__}
report["models"] = [model.id for model in client.models.list()]

answer = client.chat.completions.create(**ASK)
report["chat"] = answer.choices[0].message.content
report["reason"] = answer.choices[0].finish_reason
report["usage"] = [answer.usage.prompt_tokens, answer.usage.completion_tokens]

report["streamed"] = ""
for chunk in client.chat.completions.create(
    **ASK, stream=True, stream_options={"include_usage": True}
):
    for choice in chunk.choices:
        report["streamed"] += choice.delta.content or ""
        report["streamed_reason"] = choice.finish_reason
    if chunk.usage is not None:
        report["streamed_usage"] = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]

answer = client.completions.create(model="any", prompt="x", max_tokens=5, logit_bias={"91": 100})
report["completed"] = answer.choices[0].text

report["bad"] = error_of(lambda: client.chat.completions.create(**{**ASK, "temperature": 5}))
report["missing"] = error_of(lambda: client.models.retrieve("nope"))
report["unknown"] = error_of(lambda: keyed.models.list())

texts = ["hello", "goodbye"]
coded = client.embeddings.create(model="any", input=texts)  # asks for base64, and decodes it
plain = client.embeddings.create(model="any", input=texts, encoding_format="float")
report["embedded"] = [one.embedding for one in coded.data]
report["embedded_plain"] = [one.embedding for one in plain.data]

tools = {**ASK, "tools": TOLD["tools"]}
report["tools"] = calls_of(scripted.chat.completions.create(**tools).choices[0].message)
pieces = {}
for chunk in scripted.chat.completions.create(**tools, stream=True):
    for call in chunk.choices[0].delta.tool_calls or []:
        name, arguments = pieces.get(call.index, ("", ""))
        named = name + (call.function.name or "")
        pieces[call.index] = (named, arguments + (call.function.arguments or ""))
report["tools_streamed"] = [[name, json.loads(text)] for name, text in pieces.values()]
print(json.dumps(report))
