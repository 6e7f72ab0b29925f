"""POST /embeddings: vectors in both forms, under every path, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from serving import ENDLESS, Server, wait_until
from test_metrics import Change

PATHS = [
    prefix + path
    for prefix in ("", "/v1")
    for path in ("/embeddings", "/engines/text-embedding-ada-002/embeddings")
]
TEXT = "What is the capital of France?"


def vectors(server: Server, body: dict[str, Any], path: str = "/embeddings") -> np.ndarray:
    answer = server.post(path, body)
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return np.array([one["embedding"] for one in answer["data"]], np.float32)


@pytest.mark.parametrize("path", PATHS)
def test_every_path(server: Server, path: str) -> None:
    answer = server.post(path, {"input": TEXT, "model": "text-embedding-ada-002"})
    assert answer["object"] == "list" and answer["model"] == "demo"
    assert answer["usage"] == {"prompt_tokens": len(TEXT), "total_tokens": len(TEXT)}
    (one,) = answer["data"]
    assert one["object"] == "embedding" and len(one["embedding"]) == 128
    assert all(isinstance(number, float) for number in one["embedding"])
    assert np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-6)


def test_every_form_of_input(server: Server) -> None:
    ids = [byte + 1 for byte in TEXT.encode()]
    (alone,) = vectors(server, {"input": TEXT})
    for given in ([TEXT], ids, [ids]):
        assert np.array_equal(vectors(server, {"input": given})[0], alone)
    several = vectors(server, {"input": ["x", TEXT, ids, "\n"]})
    assert np.array_equal(several[1], alone) and np.array_equal(several[2], alone)
    assert not np.array_equal(several[0], several[3])
    answer = server.post("/embeddings", {"input": ["abc", [1, 2]]})
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_base64_holds_the_same(server: Server) -> None:
    for fields in ({}, {"dimensions": 300}, {"fast_mode": True}):
        body = {"input": [TEXT, "x"], **fields}
        floats = vectors(server, body)
        packed = server.post("/embeddings", {**body, "encoding_format": "base64"})
        raw = [base64.b64decode(one["embedding"]) for one in packed["data"]]
        assert np.array_equal([np.frombuffer(one, "<f4") for one in raw], floats)


def test_dimensions_and_fast_mode(server: Server) -> None:
    for size in (1, 64, 1536, 4096, "256"):
        (vector,) = vectors(server, {"input": TEXT, "dimensions": size})
        assert len(vector) == int(size)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    usual, fast = (vectors(server, {"input": TEXT, "fast_mode": f})[0] for f in (False, True))
    assert abs(usual @ fast) < 0.9


def test_it_finds_what_is_alike(server: Server) -> None:
    texts = ["Name the capital of France.", "Spell banana.", "What is 3 plus 4?"]
    question, *found = vectors(server, {"input": [TEXT, *texts]})
    assert np.argmax([question @ one for one in found]) == 0


def test_it_takes_nothing_from_streams(server: Server) -> None:
    body = {"prompt": "x", "max_tokens": 300, "seed": 3, "logit_bias": {"0": -100}}
    alone = server.post("/completions", body)["choices"]
    wanted = vectors(server, {"input": TEXT})
    sock = server.open("POST", "/completions", {"prompt": "y", **ENDLESS, "stream": True})
    wait_until(lambda: server.status()["running"] == 1)
    assert np.abs(vectors(server, {"input": TEXT}) - wanted).max() < 1e-5
    assert server.post("/completions", body)["choices"] == alone
    sock.close()
    wait_until(server.is_idle)


@pytest.mark.parametrize("nothing", [None, "", [], [[]]])
def test_no_input(server: Server, nothing: Any) -> None:
    answer = server.post("/embeddings", {"input": nothing}, expect=400)
    assert answer["detail"] == "input not found" and answer["error"]["param"] == "input"
    assert server.post("/embeddings", {}, expect=400)["detail"] == "input not found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": ["a", 1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [257]}, "input"),
        ({"input": [[1], [-1]]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": 4097}, "dimensions"),
        ({"input": "x", "dimensions": "many"}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "encoding_format": 1}, "encoding_format"),
        ({"input": "x", "fast_mode": "perhaps"}, "fast_mode"),
    ],
)
def test_what_is_wrong_is_named(server: Server, body: dict[str, Any], param: str) -> None:
    answer = server.post("/embeddings", body, expect=400)
    assert answer["error"]["param"] == param
    assert answer["detail"].startswith(param)


def test_a_client_that_leaves_frees_its_slots(narrow: Server) -> None:
    """Also while its texts wait; 1.6 million tokens would take a while."""
    before = narrow.status()["prompt_tokens"]
    texts = ["many words " * 150_000, "many words " * 150_000, "one", "two"]
    sock = narrow.open("POST", "/embeddings", {"input": texts})
    wait_until(lambda: (s := narrow.status())["running"] == 2 and s["waiting"] == 2)
    wait_until(lambda: narrow.status()["prompt_tokens"] > before)
    sock.close()
    wait_until(narrow.is_idle, 20)
    assert narrow.status()["prompt_tokens"] - before < 3_000_000
    assert vectors(narrow, {"input": TEXT}).shape == (1, 128)


def test_a_full_queue(narrow: Server) -> None:
    body = {"prompt": "x", **ENDLESS, "stream": True}
    busy = [narrow.open("POST", "/completions", body) for _ in range(6)]
    wait_until(lambda: narrow.status()["running"] == 2 and narrow.status()["waiting"] == 4)
    status, headers, _ = narrow.request("POST", "/embeddings", {"input": TEXT})
    assert status == 429 and headers["retry-after"]
    for sock in busy:
        sock.close()
    wait_until(narrow.is_idle)


def test_its_tokens_are_counted(server: Server) -> None:
    change = Change(server)
    server.post("/embeddings", {"input": ["abc", "de"]})
    assert change.of_model("prompt_tokens_total") == 5
    assert change.of_model("request_prompt_tokens_sum") == 5
    assert change.of_model("generation_tokens_total") == 0
    assert change.of_model("request_success_total", finished_reason="stop") == 2
    assert change.of_model("time_to_first_token_seconds_count") == 0


@pytest.mark.parametrize("ids", [[1, 2], [[1], [2]], ["a", [5]], [9906, 1917]])
def test_ids_of_other_vocabularies(narrow: Server, ids: Any) -> None:
    """Clients send OpenAI's unasked, which a World model would take for other words."""
    answer = narrow.post("/embeddings", {"input": ids}, expect=400)
    assert answer["error"]["param"] == "input"
    assert "check_embedding_ctx_length=False" in answer["detail"]


def test_what_would_cut_a_text(server: Server) -> None:
    for harmless in (None, -1):
        server.post("/embeddings", {"input": "abc", "truncate_prompt_tokens": harmless})
    answer = server.post("/embeddings", {"input": "abc", "truncate_prompt_tokens": 2}, expect=400)
    assert answer["error"]["param"] == "truncate_prompt_tokens"
