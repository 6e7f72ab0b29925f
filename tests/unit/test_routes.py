"""Paths in other clients' spellings, and what is said of those that are not here."""

from __future__ import annotations

import falcon.testing
import pytest

from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime
from web.transport.api_keys import ApiKeys


def client(**settings: object) -> falcon.testing.TestClient:
    config = Config(model="none", **settings)
    app = create_app(Runtime(config), config)
    return falcon.testing.TestClient(app, headers={"Host": "localhost"})


PLAIN = client()
KEYS = client(api_key=("a-key",))
CHAT = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/deployments/my-gpt.4/chat/completions?api-version=2024-10-21", CHAT),
        ("/openai/deployments/x/completions", {"prompt": "x"}),
        ("/openai/deployments/x/embeddings", {"input": "x"}),
        ("/openai/v1/chat/completions", CHAT),
        ("//v1/chat/completions", CHAT),
        ("/v1//chat/completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("//v1//v1/v1///chat//completions/", CHAT),
    ],
)
def test_other_spellings(path: str, body: dict[str, object]) -> None:
    answer = PLAIN.simulate_post(path, json=body)
    assert (answer.status_code, answer.json["detail"]) == (400, "model not loaded")
    assert KEYS.simulate_post(path, json=body).status_code == 401


@pytest.mark.parametrize("path", ["/v1/v1/models", "/v1//models", "//models/", "/openai/models"])
def test_other_spellings_of_the_list(path: str) -> None:
    assert PLAIN.simulate_get(path).json == {"object": "list", "data": []}


@pytest.mark.parametrize(
    "path",
    ["//exit", "/openai/exit", "/openai/deployments/x/exit", "/v1/v1/exit", "/openai//exit"],
)
def test_no_spelling_is_a_way_past_the_guards(path: str) -> None:
    """Keys and deploy mode see the path that is routed."""
    assert KEYS.simulate_post(path).status_code == 401
    closed = client(deploy=True).simulate_post(path)
    assert closed.status_code in (403, 404)
    assert KEYS.simulate_get("//health").status_code == 503  # open as it is


@pytest.mark.parametrize(
    ("method", "path", "instead"),
    [
        ("POST", "/v1/responses", "chats are at /v1/chat/completions"),
        ("POST", "/v1/messages/count_tokens", "chats are at /v1/chat/completions"),
        ("POST", "/api/chat", "chats are at /v1/chat/completions"),
        ("POST", "/api/generate", "completions are at /v1/completions"),
        ("POST", "/api/embed", "embeddings are at /v1/embeddings"),
        ("GET", "/api/tags", "models are listed at /v1/models"),
        ("POST", "/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/audio/speech", "/docs shows what there is"),
        ("GET", "/" + "x" * 3000, "/docs shows what there is"),
    ],
)
def test_what_is_not_here(method: str, path: str, instead: str) -> None:
    answer = PLAIN.simulate_request(method, path)
    assert answer.status_code == 404 and answer.json["detail"] == "Not Found"
    message = answer.json["error"]["message"]
    assert message == f"no {method} {path[:80]}{'...' * (len(path) > 80)} here: {instead}"
    assert answer.json["error"]["code"] == "unknown_url"


def test_a_path_is_repeated_in_print() -> None:
    message = PLAIN.simulate_get("/a%0A%1B[31mb").json["error"]["message"]
    assert message.startswith("no GET /a\\n\\x1b[31mb here")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/status", "GET"),
        ("DELETE", "/models", "GET"),
    ],
)
def test_methods_that_are_not_here(method: str, path: str, allow: str) -> None:
    answer = PLAIN.simulate_request(method, path)
    assert answer.status_code == 405 and answer.json["detail"] == "Method Not Allowed"
    assert allow in answer.headers["allow"] and "OPTIONS" in answer.headers["allow"]
    assert answer.json["error"]["message"].startswith(f"no {method} {path} here: it takes {allow}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "a-key"}, 200),  # Anthropic's
        ({"api-key": " a-key "}, 200),  # Azure's
        ({"api-key": "a-ke"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "Bearer a-key"}, 401),
        ({"Authorization": "Bearer no", "x-api-key": "a-key"}, 200),
        ({"Authorization": "Basic a-key"}, 401),
    ],
)
def test_keys_in_other_headers(headers: dict[str, str], status: int) -> None:
    assert KEYS.simulate_get("/status", headers=headers).status_code == status


def test_a_client_is_known_by_its_key_in_any_header() -> None:
    """Whose turn it is in the engine does not depend on how the key came."""
    numbers = {}
    for key in ("one", "two"):
        for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}, {"api-key": key}):
            headers = {"Authorization": "Bearer none", **headers}
            req = falcon.testing.create_req(path="/status", headers=headers)
            ApiKeys(["one", "two"]).process_request(req, falcon.Response())
            numbers.setdefault(key, set()).add(req.context.caller.number)
    assert len(numbers["one"]) == len(numbers["two"]) == 1
    assert numbers["one"] != numbers["two"]
