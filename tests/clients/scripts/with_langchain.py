"""What LangChain's ChatOpenAI gets. Prints one JSON object."""

import json
import sys
from importlib.metadata import version

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

TOLD = json.loads(sys.argv[1])
ASK = [(message["role"], message["content"]) for message in TOLD["messages"]]


def model_of(name, path="/v1", key="any", **options):
    options = {"temperature": 0, "max_retries": 0, "model": "any", **options}
    return ChatOpenAI(base_url=TOLD[name] + path, api_key=key, **options)


def error_of(model):
    try:
        model.invoke(ASK)
    except openai.APIStatusError as problem:
        kinds = [kind for kind in type(problem).__mro__ if kind.__module__ == "openai"]
        return {
            "kind": kinds[0].__name__,
            "status": problem.status_code,
            "message": problem.message,
            "param": problem.param,
            "code": problem.code,
        }


def usage_of(message):
    return [message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]]


def calls_of(message):
    return [[call["name"], call["args"]] for call in message.tool_calls]


report = {"version": version("langchain-openai")}
answer = model_of("plain").invoke(ASK)
report["chat"] = answer.content
report["reason"] = answer.response_metadata["finish_reason"]
report["usage"] = usage_of(answer)

whole = None
for chunk in model_of("plain", stream_usage=True).stream(ASK):
    whole = chunk if whole is None else whole + chunk
report["streamed"] = whole.content
report["streamed_reason"] = whole.response_metadata["finish_reason"]
report["streamed_usage"] = usage_of(whole)

report["bad"] = error_of(model_of("plain", temperature=5))
report["missing"] = error_of(model_of("plain", path="/nope"))
report["unknown"] = error_of(model_of("keyed", key="wrong"))

embeddings = OpenAIEmbeddings(
    base_url=TOLD["plain"] + "/v1",
    api_key="any",
    model="any",
    check_embedding_ctx_length=False,  # else it sends the tokens of an OpenAI model
)
report["embedded"] = embeddings.embed_documents(["hello", "goodbye"])

tools = model_of("scripted").bind_tools(TOLD["tools"])
report["tools"] = calls_of(tools.invoke(ASK))
whole = None
for chunk in tools.stream(ASK):
    whole = chunk if whole is None else whole + chunk
report["tools_streamed"] = calls_of(whole)
print(json.dumps(report))
