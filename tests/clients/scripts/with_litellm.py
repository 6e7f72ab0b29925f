"""What LiteLLM gets. Prints one JSON object."""

import json
import os
import sys
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks another host for prices
import litellm

TOLD = json.loads(sys.argv[1])
ASK = {"messages": TOLD["messages"], "temperature": 0}


def ask(name, path="/v1", key="any", **options):
    where = {"model": "openai/any", "api_base": TOLD[name] + path, "api_key": key}
    return litellm.completion(**where, max_retries=0, **{**ASK, **options})


def error_of(name, **options):
    try:
        ask(name, **options)
    except litellm.exceptions.APIError as problem:
        raise SystemExit(f"not told apart: {problem!r}") from problem
    except Exception as problem:
        return {
            "kind": type(problem).__name__,
            "status": problem.status_code,
            "message": problem.message,
        }


def usage_of(answer):
    return [answer.usage.prompt_tokens, answer.usage.completion_tokens]


def calls_of(answer):
    calls = answer.choices[0].message.tool_calls or []
    return [[call.function.name, json.loads(call.function.arguments)] for call in calls]


report = {"version": version("litellm")}
listed = litellm.get_valid_models(
    check_provider_endpoint=True,
    custom_llm_provider="openai",
    api_base=TOLD["plain"],
    api_key="any",
)
report["models"] = [name.removeprefix("openai/") for name in listed]

answer = ask("plain")
report["chat"] = answer.choices[0].message.content
report["reason"] = answer.choices[0].finish_reason
report["usage"] = usage_of(answer)

chunks = list(ask("plain", stream=True, stream_options={"include_usage": True}))
whole = litellm.stream_chunk_builder(chunks, messages=TOLD["messages"])
report["streamed"] = whole.choices[0].message.content
report["streamed_reason"] = whole.choices[0].finish_reason
report["streamed_usage"] = usage_of(whole)

where = {"model": "text-completion-openai/any", "api_base": TOLD["plain"] + "/v1", "api_key": "any"}
answer = litellm.text_completion(**where, prompt="x", max_tokens=5, logit_bias={"91": 100})
report["completed"] = answer.choices[0].text

where = {"model": "openai/any", "api_base": TOLD["plain"] + "/v1", "api_key": "any"}
answer = litellm.embedding(**where, input=["hello", "goodbye"])
report["embedded"] = [one["embedding"] for one in answer.data]

report["bad"] = error_of("plain", temperature=5)
report["missing"] = error_of("plain", path="/nope")
report["unknown"] = error_of("keyed", key="wrong")

report["tools"] = calls_of(ask("scripted", tools=TOLD["tools"]))
chunks = list(ask("scripted", tools=TOLD["tools"], stream=True))
report["tools_streamed"] = calls_of(litellm.stream_chunk_builder(chunks))
print(json.dumps(report))
