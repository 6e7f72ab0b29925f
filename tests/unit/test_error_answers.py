"""Errors at the edge: a status for every kind, and a body in the words of the route's API."""

from __future__ import annotations

from typing import Any

import falcon
import pytest
from falcon import testing

from web import errors
from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime
from web.errors import Kind, Refusal
from web.transport.error_answers import STATUSES


def toy(refusal: Refusal) -> dict[str, Any]:
    return {"kind": refusal.kind.name, "says": refusal.message}


class Toy:
    """A resource of another API."""

    error_body = staticmethod(toy)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise {
            b"refused": errors.invalid("colour", "must be red"),
            b"gone": errors.ClientGone(),
            b"fault": KeyError("secret"),
            b"falcon": falcon.HTTPInvalidHeader("must be red", "Colour"),
        }[req.bounded_stream.read()]


@pytest.fixture(scope="module")
def client() -> testing.TestClient:
    config = Config(model="none", api_key=("key",))
    app = create_app(Runtime(config), config)
    app.add_route("/toy", Toy())
    return testing.TestClient(app, headers={"Authorization": "Bearer key"})


def test_every_kind_has_a_status() -> None:
    assert STATUSES.keys() == set(Kind)
    assert len(set(STATUSES.values())) == len(STATUSES)


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ("refused", 400, {"kind": "INVALID", "says": "colour must be red"}),
        ("fault", 500, {"kind": "FAULT", "says": "Internal Server Error"}),
        (
            "falcon",
            400,
            {"kind": "INVALID", "says": 'The value provided for the "Colour" header is invalid. '},
        ),
    ],
)
def test_a_resource_chooses_the_body(
    client: testing.TestClient, body: str, status: int, answer: dict[str, str]
) -> None:
    got = client.simulate_post("/toy", body=body)
    assert got.status_code == status and got.json["kind"] == answer["kind"]
    assert got.json["says"].startswith(answer["says"])


def test_so_it_does_where_it_was_not_asked(client: testing.TestClient) -> None:
    """Keys, bodies and methods are refused before a resource runs."""
    got = client.simulate_post("/toy", headers={"Authorization": "Bearer other"})
    assert (got.status_code, got.json["kind"]) == (401, "NO_KEY")
    got = client.simulate_post("//toy/", headers={"Content-Encoding": "gzip"})
    assert (got.status_code, got.json["kind"]) == (415, "BAD_ENCODING")
    got = client.simulate_get("/toy")
    assert (got.status_code, got.json["kind"]) == (405, "NO_METHOD")
    assert got.headers["allow"] == "POST, OPTIONS"
    got = client.simulate_post("/no")
    assert got.status_code == 404 and got.json["error"]["code"] == "unknown_url"


def test_who_has_gone_gets_nothing(client: testing.TestClient) -> None:
    got = client.simulate_post("/toy", body="gone")
    assert (got.status_code, got.content) == (499, b"")


def test_a_refusal_names_the_field_as_its_reader_does() -> None:
    assert str(errors.invalid("top_p", "must be 1")) == "top_p must be 1"
    assert errors.invalid("top_p", "must be 1").named("--top-p") == "--top-p must be 1"
    long = errors.of_tools(errors.prompt_too_long("messages", 9, 4), 3)
    assert long.named("chat").startswith("chat ") and long.message.endswith(
        "3 of them describe the tools"
    )
    assert errors.stopping().named("x") == errors.stopping().message
    assert errors.unreadable("file", "is empty").detail == "is empty"
