"""Every way to be wrong gets a 4xx that says what is wrong, in one shape, and never a hang."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import pytest
from serving import Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
TEXT: dict[str, Any] = {"prompt": "x", "max_tokens": 1}


def check_shape(body: Any) -> Any:
    error = body["error"]
    assert set(body) == {"error", "detail"}
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert "Traceback" not in json.dumps(body)
    return error


def refused(server: Server, path: str, body: Any, field: str, status: int = 400) -> str:
    answer = server.post(path, body, expect=status)
    error = check_shape(answer)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == field, answer
    assert error["message"].startswith(field), answer
    assert answer["detail"] == error["message"]
    return error["message"]


# Field -> wrong values, and the range that the message has to name.


def called(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def deep(levels: int) -> dict[str, Any]:
    return {} if levels == 0 else {"x": deep(levels - 1)}


SHARED = [
    ("max_tokens", [-2, 2**53, 1.5, "1e2", " 12 ", "0x10", "many", [], {}], "-1 and 9007"),
    ("max_completion_tokens", [-2, 2**53, "x"], "-1 and 9007"),
    ("min_tokens", [-1, 2**53, 1.5, "x", []], "0 and 9007"),
    ("ignore_eos", [2, "maybe", []], "true or false"),
    ("temperature", [-0.1, 3.1, "hot", [], "NaN", "Infinity", 10**400], "0 and 3"),
    ("top_p", [-0.1, 1.1, "x", {}], "0 and 1"),
    ("min_p", [-1, 2], "0 and 1"),
    ("top_k", [-2, 2**31, 1.5, "x"], "-1 and 2147483647"),
    ("presence_penalty", [-2.1, 2.1, "x"], "-2 and 2"),
    ("frequency_penalty", [-2.1, 2.1, "x"], "-2 and 2"),
    ("penalty_decay", [-0.1, 1.1, "x"], "0 and 1"),
    ("global_penalty", [2, "maybe", []], "true or false"),
    ("stream", [2, "maybe", []], "true or false"),
    ("seed", [2**64, -(2**63) - 1, 1.5, "x"], "integer"),
    ("stop", [5, ["a", 5], {}, ["x"] * 200, ["y" * 5000]], "string"),
    ("stop_token_ids", ["x", ["x"], [-1], [1.5], [2**40]], ""),
    ("logit_bias", ["x", [], {"a": 1}, {"5": 101}, {"5": "x"}, {"-1": 1}, {"5": None}], ""),
    ("n", [2, 0, "x"], ""),
    ("best_of", [2], "above 1"),
    ("top_logprobs", [3], "not supported"),
    ("response_format.type", [], ""),
    ("state", ["models/a.pth", "/etc/passwd", "README.md", "a\0", "x" * 5000, 5], ""),
    ("stream_options", [5, [], {"include_usage": True}], ""),
    ("model", [5, ["x"]], "string"),
]
CASES = [(field, value, words) for field, values, words in SHARED for value in values]


@pytest.mark.parametrize(("field", "value", "words"), CASES)
def test_wrong_fields_are_named(server: Server, field: str, value: Any, words: str) -> None:
    for path, body in (("/chat/completions", CHAT), ("/v1/completions", TEXT)):
        assert words in refused(server, path, {**body, field: value}, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "foo", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "tool_call_id": "c"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "poem", "poem": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
                ]
            },
            "messages[1].tool_calls[0].function",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [called("f", "no JSON")]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (  # as deep as can be read and not be written
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [called("f", '{"a": ' + "[" * 964 + "]" * 964 + "}")],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [called("f", "[" * 9999)]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [called("", "{}")]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]},
            "messages[0].tool_call_id",
        ),
        ({**CHAT, "tools": [{"type": "function"}]}, "tools[0].function"),
        ({**CHAT, "tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type"),
        ({**CHAT, "tools": [{"function": {}}]}, "tools[0].function.name"),
        ({**CHAT, "tools": [{"function": {"name": "x" * 65}}]}, "tools[0].function.name"),
        (
            {**CHAT, "tools": [{"function": {"name": "f", "parameters": 5}}]},
            "tools[0].function.parameters",
        ),
        ({**CHAT, "tools": [{"function": {"name": "f", "parameters": deep(40)}}]}, "tools"),
        ({**CHAT, "tools": [{"function": {"name": "f", "description": "x" * 140_000}}]}, "tools"),
        ({**CHAT, "tools": [{"function": {"name": "f"}}] * 129}, "tools"),
        ({**CHAT, "tools": 5}, "tools"),
        ({**CHAT, "tool_choice": {"function": {"name": "f"}}}, "tool_choice"),
        ({**CHAT, "tool_choice": "sometimes"}, "tool_choice"),
        ({**CHAT, "parallel_tool_calls": "some"}, "parallel_tool_calls"),
        ({**CHAT, "function_call": {"name": "f"}}, "function_call"),
        ({**CHAT, "functions": [{"name": "f"}]}, "functions"),
        ({**CHAT, "tool_choice": "required"}, "tool_choice"),
        ({**CHAT, "logprobs": True}, "logprobs"),
        ({**CHAT, "modalities": ["text", "audio"]}, "modalities"),
        ({**CHAT, "audio": {"voice": "x"}}, "audio"),
        ({**CHAT, "response_format": {"type": "json_object"}}, "response_format.type"),
        ({**CHAT, "response_format": "json"}, "response_format"),
        ({**CHAT, "user_name": ""}, "user_name"),
        ({**CHAT, "assistant_name": 5}, "assistant_name"),
        ({**CHAT, "presystem": "perhaps"}, "presystem"),
    ],
)
def test_chat_is_refused_by_field(server: Server, body: Any, field: str) -> None:
    refused(server, "/chat/completions", body, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[1], ["a"]]}, "prompt"),
        ({"prompt": [300]}, "prompt"),  # no such token in the demo model
        ({**TEXT, "echo": "loud"}, "echo"),
        ({**TEXT, "suffix": "end"}, "suffix"),
        ({**TEXT, "logprobs": 0}, "logprobs"),
        ({**TEXT, "logprobs": 3}, "logprobs"),
        ({"prompt": ["x"] * 2049}, "prompt"),
        ({**TEXT, "logit_bias": {"300": 1}}, "logit_bias"),
    ],
)
def test_completions_are_refused_by_field(server: Server, body: Any, field: str) -> None:
    refused(server, "/completions", body, field)


@pytest.mark.parametrize("messages", [None, []])
def test_no_messages(server: Server, messages: Any) -> None:
    answer = server.post("/chat/completions", {"messages": messages}, expect=400)
    check_shape(answer)
    assert answer["detail"] == "messages not found"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"  ", b"{", b'{"messages": [', b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}',
        b'{"a": 1e999}', b'{"a":1} x', b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"\x00",
        b"[" * 100_000, b'{"a":' * 50_000, b"<xml/>", b"a=b", b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)  # fmt: skip
def test_bad_json(server: Server, body: bytes) -> None:
    for path in ("/chat/completions", "/completions"):
        answer = server.post(path, body, expect=400)
        error = check_shape(answer)
        assert error["code"] == "invalid_json" and "JSON" in error["message"]


@pytest.mark.parametrize("body", [b"null", b"5", b'"x"', b"[]", b"true"])
def test_json_that_is_no_object(server: Server, body: bytes) -> None:
    assert "object" in refused(server, "/chat/completions", body, "body")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_content_type_does_not_matter(server: Server, kind: str) -> None:
    status, _, _ = server.request("POST", "/completions", TEXT, {"Content-Type": kind})
    assert status == 200


def test_compressed_bodies_are_refused(server: Server) -> None:
    status, _, body = server.request("POST", "/completions", TEXT, {"Content-Encoding": "gzip"})
    assert status == 415
    check_shape(json.loads(body))


def test_unknown_path_and_method(server: Server) -> None:
    for method, path in (("GET", "/nope"), ("POST", "/v1/nope"), ("GET", "/v2/models")):
        status, _, body = server.request(method, path)
        assert status == 404
        check_shape(json.loads(body))
        assert json.loads(body)["detail"] == "Not Found"
    for method, path in (("GET", "/chat/completions"), ("POST", "/status"), ("DELETE", "/models")):
        status, headers, body = server.request(method, path)
        assert status == 405
        assert "OPTIONS" in headers["allow"]
        check_shape(json.loads(body))
        assert json.loads(body)["detail"] == "Method Not Allowed"


def test_errors_repeat_little(server: Server) -> None:
    part = {"type": "x" * 1_000_000}
    body = {"messages": [{"role": "user", "content": [part]}]}
    told = refused(server, "/chat/completions", body, "messages[0].content[0].type")
    assert len(told) < 200 and "xxx..." in told
    status, _, raw = server.request("GET", "/models/" + "x" * 3000)
    assert status == 404 and len(raw) < 1000


def test_headers_change_no_path(server: Server) -> None:
    """gunicorn would take these from any peer on loopback."""
    for name in ("SCRIPT_NAME", "PATH_INFO"):
        status, _, body = server.request("GET", "/status", headers={name: "/x"})
        assert status == 200 and json.loads(body)["status"] == 3


def test_unknown_model(server: Server) -> None:
    for path in ("/models/nope", "/v1/models/a/b"):
        status, _, body = server.request("GET", path)
        answer = json.loads(body)
        assert status == 404
        error = check_shape(answer)
        name = path.partition("models/")[2]
        assert error == {
            "message": f"The model '{name}' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        assert answer["detail"] == {"error": error}  # RWKV Runner's own


def exchange(server: Server, *parts: bytes, end: bool = False) -> bytes:
    """Sends raw bytes and reads one answer, until its length is complete or the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        for part in parts:
            sock.sendall(part)
        if end:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(65536):
            got += piece
            head, mark, rest = got.partition(b"\r\n\r\n")
            length = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
            if mark and length and len(rest) >= int(length[0].split(b":")[1]):
                break
        return got


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


HEAD = b"POST /completions HTTP/1.1\r\nHost: x\r\n"


def test_chunked_bodies(server: Server) -> None:
    body = json.dumps({"prompt": "abc", "max_tokens": 1}).encode()
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in ([body], [bytes([b]) for b in body], [body[:5], body[5:]]):
        got = exchange(server, head + chunked(*pieces))
        assert got.startswith(b"HTTP/1.1 200 ") and b'"prompt_tokens":3' in got
    large = json.dumps({"prompt": "a", "max_tokens": 1, "pad": "p" * 3_000_000}).encode()
    got = exchange(server, head, chunked(large))
    assert got.startswith(b"HTTP/1.1 200 ") and b'"prompt_tokens":1' in got


def test_malformed_chunks(server: Server) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for bad in (b"zz\r\nabc\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\n\r\n"):
        got = exchange(server, head + bad)
        assert got.startswith(b"HTTP/1.1 400 "), got
        check_shape(json.loads(got.partition(b"\r\n\r\n")[2]))


def test_bodies_that_end_early(server: Server) -> None:
    # A client that half closes its side is gone for running work, but may read its error.
    got = exchange(server, HEAD + b"Content-Length: 100\r\n\r\n{", end=True)
    assert got.startswith(b"HTTP/1.1 400 ") and b"ended early" in got
    got = exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", end=True)
    assert got.startswith(b"HTTP/1.1 400 ") and b"ended early" in got


def test_too_large_bodies(narrow: Server) -> None:
    limit = 4 << 20
    # Refused by its header, without a byte of the body.
    for size in (limit + 1, 10**12):
        got = exchange(narrow, HEAD + b"Content-Length: %d\r\n\r\n" % size)
        assert got.startswith(b"HTTP/1.1 413 ")
        error = check_shape(json.loads(got.partition(b"\r\n\r\n")[2]))
        assert str(limit) in error["message"] and error["code"] == "body_too_large"
    got = exchange(
        narrow, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * (limit + 1))
    )
    assert got.startswith(b"HTTP/1.1 413 ")
    # A client that sends it all, as most do, reads the answer too, and the connection goes on.
    status, _, _ = narrow.request("POST", "/completions", b"x" * (limit + 1000))
    assert status == 413
    fits = json.dumps({"prompt": "a", "max_tokens": 1, "pad": "p" * (limit - 1000)}).encode()
    assert len(fits) <= limit
    assert narrow.post("/completions", fits)["usage"]["prompt_tokens"] == 1


def test_http_1_0(server: Server) -> None:
    body = json.dumps({"prompt": "abc", "max_tokens": 2, "stream": True}).encode()
    head = b"POST /completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(head + body)
        got = b"".join(iter(lambda: sock.recv(65536), b""))  # ends with the connection
    header, _, answer = got.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.0 200 ") and b"chunked" not in header.lower()
    assert answer.endswith(b"data: [DONE]\n\n")


def test_not_http(server: Server) -> None:
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"hello\r\n\r\n", b"GET\r\n\r\n"):
        got = exchange(server, junk, end=True)
        assert got == b"" or got.startswith(b"HTTP/1.1 400 ")
    assert server.status()["status"] == 3


MALFORMED = {
    "no request line": (b"nonsense\r\n\r\n", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "another protocol": (b"GET / HTTP/7.7\r\nHost: x\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "a control character": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
    "a length of letters": (b"POST /exit HTTP/1.1\r\nHost: x\r\nContent-Length: no\r\n\r\n", 400),
    "two lengths": (
        b"POST /exit HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "a line without end": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "too many headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    "an unknown coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", 501),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_no_request(server: Server, name: str) -> None:
    sent, expected = MALFORMED[name]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(sent)
        got = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = got.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == expected, got
    assert b"\r\nContent-Type: application/json" in head and b"Connection: close" in head
    assert f"Content-Length: {len(body)}".encode() in head
    answer = json.loads(body)
    error = check_shape(answer)
    assert error["code"] == "malformed_request" and answer["detail"] == error["message"]
    assert error["message"].startswith("the request is malformed: ") and len(body) < 500


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"prompt": "x"}'.encode("utf-16"), "must be UTF-8, and seems to be UTF-16"),
        ('{"prompt": "x"}'.encode("utf-16-be"), "must be UTF-8, and seems to be UTF-16"),
        ('{"prompt": "x"}'.encode("utf-16-le"), "must be UTF-8, and seems to be UTF-16"),
        ('{"prompt": "x"}'.encode("utf-32"), "must be UTF-8, and seems to be UTF-16 or UTF-32"),
        (gzip.compress(b'{"prompt": "x"}', mtime=0), "must be UTF-8, and is packed by gzip"),
    ],
)
def test_other_codings_of_a_body_are_named(server: Server, raw: bytes, words: str) -> None:
    status, _, body = server.request("POST", "/completions", raw)
    assert status == 400 and words in json.loads(body)["error"]["message"]
