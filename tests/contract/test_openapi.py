"""GET /openapi.json: complete and true. Its examples, ranges and shapes hold for the server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import documents
import falcon.inspect
import jsonschema
import pytest
from serving import Server

from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime
from web.transport.deploy_guard import CLOSED


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return server.get("/openapi.json")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def test_every_route_is_described(document: dict[str, Any]) -> None:
    config = Config()
    routes = falcon.inspect.inspect_routes(create_app(Runtime(config), config))
    routed = {
        (method.method.lower(), re.sub(r"{(\w+):path}", r"{\1}", route.path))
        for route in routes
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }
    described = {(method, path) for method, path, _ in operations(document)}
    assert routed == described | {("get", "/static/{path}")}  # no part of the API


def test_the_document_is_well_formed(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document)
    for reference in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        assert reference[1] in document["components"][reference[0]]
    assert "x-wire" not in text
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def fields(part: Any, where: str) -> Iterator[tuple[str, str]]:
    """(place, description) of every field of every schema."""
    if isinstance(part, dict):
        named = part.get("properties", {})
        for name, field in named.items() if isinstance(named, dict) else ():
            yield f"{where}.{name}", field.get("description", "")
        for key, one in part.items():
            yield from fields(one, f"{where}/{key}")
    elif isinstance(part, list):
        for number, one in enumerate(part):
            yield from fields(one, f"{where}/{number}")


def test_all_words_are_in_both_languages(document: dict[str, Any]) -> None:
    said = {"/": document["info"]["description"]}
    for method, path, operation in operations(document):
        said[f"{method} {path}"] = operation["summary"]
        for parameter in operation.get("parameters", ()):
            said[f"{path}?{parameter['name']}"] = parameter["description"]
    for status, answer in document["components"]["responses"].items():
        said[status] = answer["description"]
    said |= dict(fields(document, ""))
    assert len(said) > 200
    for where, words in said.items():
        assert re.search("[a-z]", words) and re.search("[\u4e00-\u9fff]", words), where


def examples(document: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for _, path, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        gives = operation["responses"]["200"]["content"]
        closed = {*CLOSED, "/text-to-wav"}  # which leaves files
        if body and path not in closed and "application/json" in gives:
            for example in body["examples"].values():
                yield path, example["value"], operation


def test_examples_are_answered_as_described(server: Server, document: dict[str, Any]) -> None:
    seen = 0
    for path, value, operation in examples(document):
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        check(document, schema, value)
        answer = server.post(path, {**value, "max_tokens": 4})
        check(
            document, operation["responses"]["200"]["content"]["application/json"]["schema"], answer
        )
        seen += 1
    assert seen == 17


def test_reading_is_answered_as_described(server: Server, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if method != "get":
            continue
        status, headers, raw = server.request("GET", path.replace("{model_id}", "gpt-3.5-turbo"))
        if status == 501 and path in ("/docs", "/redoc"):
            continue  # built without a network
        assert status == 200
        kind = headers["content-type"].partition(";")[0]
        schema = operation["responses"]["200"]["content"][kind]["schema"]
        check(document, schema, json.loads(raw) if kind == "application/json" else raw.decode())
    path = "/file-to-text?file_name=a.pdf"
    schema = document["paths"]["/file-to-text"]["post"]["responses"]["200"]["content"]
    raw = server.request("POST", path, documents.pages("A page"))[2]
    check(document, schema["application/json"]["schema"], json.loads(raw))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completions", {"prompt": 5}),
        ("/tokenize", {}),
        ("/nope", {}),
        ("/status", {}),
        ("/completions", None),
    ],
)
def test_errors_are_as_described(
    server: Server, document: dict[str, Any], path: str, body: Any
) -> None:
    status, _, raw = server.request("POST", path, body)
    assert status in (400, 404, 405)
    schema = document["components"]["responses"]["400"]["content"]["application/json"]["schema"]
    check(document, schema, json.loads(raw))


def test_ranges_are_those_of_the_server(server: Server, document: dict[str, Any]) -> None:
    """A number on a bound is taken, one beyond it is refused by name."""
    seen = 0
    base: dict[str, Any] = {"prompt": "x", "logit_bias": {"0": 100}, "top_p": 0}
    fields = document["components"]["schemas"]["CompletionRequest"]["properties"]
    for name, field in fields.items():
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound not in field or (name, bound) == ("min_tokens", "maximum"):
                continue  # 100 000 tokens would be drawn
            seen += 1
            edge, step = field[bound], 1 if "integer" in field["type"] else 1e-6
            server.post("/completions", {**base, name: edge})
            answer = server.post("/completions", {**base, name: edge + beyond * step}, expect=400)
            assert answer["error"]["param"] == name
    assert seen == 19
