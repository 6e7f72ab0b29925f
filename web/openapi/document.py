"""/openapi.json: what the server takes and gives, for machines and for `/docs`.

Made from the structs and ranges by which requests are read and answers written
(`web/schemas/`), and from the table of operations (`web/openapi/operations.py`). Called by
`resources/server/openapi.py`, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from web.openapi.descriptions import WORDS
from web.schemas.fields import WIRE

Schema = dict[str, Any]
JSON = "application/json"

_TEMPLATE = "#/components/schemas/{name}"

# Status -> when, in both languages.
_ERRORS = {
    304: "A model is being loaded. 正在加载模型。",
    400: "A field is wrong; the error names it. 字段有误，错误信息会指出字段名。",
    401: "The server wants an API key. 需要 API 密钥。",
    403: "The server is in deploy mode, or does not know the web page. "
    "服务器处于部署模式，或不允许该网页访问。",
    404: "There is no such model. 没有这个模型。",
    408: "The body arrives too slowly. 请求体到达过慢。",
    413: "The body is too large. 请求体过大。",
    415: "The body is compressed. 不支持压缩的请求体。",
    429: "The queue is full; try again later. 队列已满，请稍后重试。",
    500: "The server failed. 服务器内部错误。",
    501: "What it needs was left out when the server was built or installed; the error names it. "
    "构建或安装服务器时未包含所需组件，错误信息会指出名称。",
    503: "The model is being loaded, or the server stops. 模型正在加载，或服务器正在停止。",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path, or on several that mean the same."""

    method: str
    paths: tuple[str, ...]
    tag: str
    said: str  # in both languages
    takes: Schema | None = None  # content type -> OpenAPI's media type object
    parameters: tuple[Schema, ...] = ()
    gives: Mapping[str, Schema]  # the same of the answer
    errors: tuple[int, ...] = ()


class Error(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Of every error: OpenAI's object, and the text that RWKV Runner's clients read."""

    error: Error
    detail: Any


class Shapes:
    """The schemas of structs, by reference."""

    def __init__(self, structs: Iterable[type]) -> None:
        structs = list(structs)
        schemas, self.components = msgspec.json.schema_components(structs, ref_template=_TEMPLATE)
        self._of = dict(zip(structs, schemas, strict=True))
        for schema in self.components.values():
            _simplify(schema)

    def of(self, struct: type) -> Schema:
        return self._of[struct]

    def properties(self, struct: type, *names: str) -> Schema:
        """Those of a struct's fields, or all."""
        known = self.components[struct.__name__]["properties"]
        return {name: known[name] for name in names or known}


def _simplify(schema: Any) -> None:
    """`anyOf` of something and null -> one type; a default of null says nothing; what clients may
    send replaces what the struct holds."""
    if isinstance(schema, list):
        for one in schema:
            _simplify(one)
    if not isinstance(schema, dict):
        return
    for one in schema.values():
        _simplify(one)
    if schema.get("default", ...) is None:
        del schema["default"]
    wire = schema.pop(WIRE, None)
    if wire is not None:
        kept = {key: schema[key] for key in ("description", "examples") if key in schema}
        schema.clear()
        schema |= kept | wire
    choices = schema.get("anyOf", [])
    if {"type": "null"} in choices and len(choices) == 2:
        (other,) = [one for one in choices if one != {"type": "null"}]
        if isinstance(other.get("type"), str):
            del schema["anyOf"]
            schema |= other | {"type": [other["type"], "null"]}


def _describe(schema: Any, where: str = "") -> None:
    """Gives words to every field that has none."""
    if isinstance(schema, list):
        for one in schema:
            _describe(one, where)
    if not isinstance(schema, dict):
        return
    fields = schema.get("properties")
    for name, field in fields.items() if isinstance(fields, dict) else ():
        path = f"{where}.{name}"
        known = WORDS.get(path) or WORDS.get(name) or WORDS.get(where)
        if known:
            field.setdefault("description", known)
        _describe(field, path)
    for key, one in schema.items():
        if key != "properties":
            _describe(one, where)


def document(
    operations: Iterable[Operation], shapes: Shapes, version: str, about: str
) -> dict[str, Any]:
    """The whole of /openapi.json."""
    paths: dict[str, dict[str, Any]] = {}
    for name, schema in shapes.components.items():
        _describe(schema, name)
    for operation in operations:
        _describe([operation.takes, operation.gives])
        for path in operation.paths:
            paths.setdefault(path, {})[operation.method] = _operation(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rwkv-native",
            "version": version,
            "description": about,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": shapes.components,
            "responses": {
                str(status): _answer(said, {} if status == 304 else _error(shapes))
                for status, said in _ERRORS.items()
            },
        },
    }


def _operation(operation: Operation, path: str) -> Schema:
    words = [word for word in path.replace("{", "").replace("}", "").split("/") if word]
    answers: Schema = {"200": _answer("The answer. 应答。", dict(operation.gives))}
    # Of every request: keys, origins, and a body, which is measured before it is looked at.
    for status in sorted({*operation.errors, 401, 403, 408, 413, 415, 500}):
        answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    made: Schema = {
        "operationId": "_".join([operation.method, *words]).replace("-", "_"),
        "tags": [operation.tag],
        "summary": operation.said,
        "responses": answers,
    }
    if operation.parameters:
        made["parameters"] = list(operation.parameters)
    if operation.takes is not None:
        made["requestBody"] = {"required": True, "content": operation.takes}
    return made


def _answer(said: str, content: Schema) -> Schema:
    return {"description": said} | ({"content": content} if content else {})


def _error(shapes: Shapes) -> Schema:
    return {JSON: {"schema": shapes.of(ErrorAnswer)}}
