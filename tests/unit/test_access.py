"""Who may use the server: keys, the origins of web pages; and what the access log says."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import falcon.testing
import msgspec
import pytest

from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime
from web.transport import exposure
from web.transport.access_log import BODY, REQUEST_ID, line


def client(**settings: Any) -> falcon.testing.TestClient:
    """Who asks names localhost, unless a request says another host."""
    config = Config(model="none", **settings)
    app = create_app(Runtime(config), config)
    return falcon.testing.TestClient(app, headers={"Host": "localhost"})


KEYS = client(api_key=("first-key", "sécond"))


@pytest.mark.parametrize("sent", ["Bearer first-key", "bearer first-key", "Bearer  first-key"])
def test_a_key_opens(sent: str) -> None:
    answer = KEYS.simulate_get("/status", headers={"Authorization": sent})
    assert answer.status_code == 200


def test_a_key_of_any_bytes_opens() -> None:
    raw = "sécond".encode().decode("latin-1")
    answer = KEYS.simulate_get("/status", extras={"HTTP_AUTHORIZATION": f"Bearer {raw}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-keyy"),
        *("Basic first-key", "first-key", "Bearer first-key,second", "Bearer First-key"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status"), ("POST", "/v1/chat/completions"), ("POST", "/exit"), ("GET", "/nowhere")],
)
def test_no_key_no_answer(sent: str | None, method: str, path: str) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    answer = KEYS.simulate_request(method, path, headers=headers, body=b"not json")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert "key" not in answer.text.replace("API key", "").replace("api_key", "")
    assert answer.headers["x-request-id"]


def test_what_is_open_without_a_key() -> None:
    assert KEYS.simulate_get("/").status_code == 200
    assert KEYS.simulate_get("/health").status_code == 503  # there is no model
    asked = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    assert KEYS.simulate_options("/completions", headers=asked).status_code == 200


OPEN = client()
STRICT = client(cors_origin=("https://chat.example.com/", "http://Tool.example:8080"))


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost", "http://localhost:3000", "https://localhost", "http://a.localhost:5"),
        *("http://127.0.0.1:8000", "http://127.9.9.9", "http://[::1]:5173"),
        *("wails://wails", "http://wails.localhost", "tauri://localhost", "app://rwkv"),
    ],
)
def test_local_pages_and_programs(origin: str) -> None:
    answer = OPEN.simulate_post("/completions", headers={"Origin": origin}, json={"prompt": "x"})
    assert answer.json["detail"] == "model not loaded"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "https://localhost.evil.example", "http://127.0.0.1.evil.example"),
        *(
            "null",
            "",
            "http://",
            "http://[",
            "//x",
            "http://192.168.1.5:8000",
            "http://nolocalhost",
        ),
        "http://localhost@evil.example",
        *("chrome-extension://abcdefgh", "moz-extension://a-b", "file://", "evil://localhost"),
    ],
)
def test_other_pages_may_only_look(origin: str) -> None:
    """Also with a body that needs no question beforehand: text/plain."""
    for path in ("/completions", "/exit", "/switch-model"):
        answer = OPEN.simulate_post(
            path, headers={"Origin": origin, "Content-Type": "text/plain"}, body='{"prompt": "x"}'
        )
        assert answer.status_code == 403
        assert answer.json["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    answer = OPEN.simulate_get("/status", headers={"Origin": origin})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = OPEN.simulate_options("/completions", headers=asked)
    assert "access-control-allow-origin" not in answer.headers


PUBLIC = client(public_name=("LLM.example.com", "other.example"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8000", "a.localhost", "LOCALHOST.", "127.0.0.1:8000", "[::1]:80"),
        *("192.168.1.5:8000", "203.0.113.7", "[2001:db8::7]", "mybox:8310", "x", "mybox.local"),
        *("host.docker.internal:8000", "rwkv.home.arpa", "a.b.svc.cluster.local", "a.b.svc:80"),
    ],
)
def test_own_names(host: str) -> None:
    """What no foreign site can be called; a page that came under it may also change things."""
    headers = {"Host": host}
    assert OPEN.simulate_get("/status", headers=headers).status_code == 200
    for origin, status in ((f"http://{host}", 400), (f"https://{host}", 400), ("http://a.b", 403)):
        answer = OPEN.simulate_post(
            "/completions", headers=headers | {"Origin": origin}, json={"prompt": "x"}
        )
        assert answer.status_code == status, origin  # 400: no model is loaded


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "EVIL.example.", "llm.example.com", "1.2.3.4.5"),
        *("evil.localhost.example", "notlocal.notlocal", "cluster.local.example", "127.0.0.1.a.b"),
        *(
            "localhost@evil.example",
            "evil.example/localhost",
            "[::1",
            "localhost:x",
            "[evil.example]",
        ),
        *("a b", "localhost#evil.example", "localhost?a.b", ":8000"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status"), ("POST", "/exit"), ("HEAD", "/models"), ("GET", "/docs")],
)
def test_foreign_names(host: str, method: str, path: str) -> None:
    """A hostile site that points its name here is not even read to (DNS rebinding), be it with the
    Origin of its pages or, as browsers read from their own, without."""
    for origin in ({}, {"Origin": f"http://{host}"}):
        headers = {"Host": host} | origin
        answer = OPEN.simulate_request(method, path, headers=headers, body=b'{"prompt": "x"}')
        assert answer.status_code == 403
        if method != "HEAD":
            assert answer.json["error"]["code"] == "host_not_allowed"
        if "localhost" not in host:
            assert "access-control-allow-origin" not in answer.headers


def test_what_is_answered_under_every_name() -> None:
    headers = {"Host": "evil.example"}
    assert OPEN.simulate_get("/", headers=headers).status_code == 200
    assert OPEN.simulate_get("/health", headers=headers).status_code == 503  # there is no model


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("llm.example.com", 400), ("LLM.EXAMPLE.COM:443", 400), ("other.example.", 400)),
        *(("evil.example", 403), ("a.llm.example.com", 403), ("localhost", 400)),
    ],
)
def test_public_names(host: str, status: int) -> None:
    for headers in ({"Host": host}, {"Host": host, "Origin": f"https://{host}"}):
        answer = PUBLIC.simulate_post("/completions", headers=headers, json={"prompt": "x"})
        assert answer.status_code == status


def test_a_key_opens_under_every_name() -> None:
    """Pages of the server itself work; a foreign page has no key."""
    key = {"Authorization": "Bearer first-key"}
    for host in ("llm.example.com", "localhost"):
        page = {"Host": host, "Origin": f"https://{host}"}
        answer = KEYS.simulate_post("/completions", headers=page | key, json={"prompt": "x"})
        assert answer.status_code == 400
        assert KEYS.simulate_post("/completions", headers=page, json={}).status_code == 401
        assert KEYS.simulate_get("/status", headers=page).status_code == 401
        foreign = key | {"Host": host, "Origin": "https://evil.example"}
        answer = KEYS.simulate_post("/completions", headers=foreign, json={"prompt": "x"})
        assert answer.status_code == 403


def test_a_request_without_a_host() -> None:
    config = Config(model="none")
    app = create_app(Runtime(config), config)
    environ = falcon.testing.create_environ("/status", http_version="1.0")
    environ.pop("HTTP_HOST", None)
    seen: list[str] = []
    app(environ, lambda status, headers, *_: seen.append(status))
    assert seen == ["200 OK"]


@pytest.mark.parametrize("name", ["https://llm.example.com", "llm.example.com:443", "a b", "*"])
def test_a_public_name_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"public_name must be a name such as"):
        Config(public_name=(name,))


@pytest.mark.parametrize(
    "origin",
    [
        "chat.example.com",
        "https://chat.example.com/app",
        "https://",
        "https://a b",
        "*.x.org",
    ],
)
def test_an_origin_that_no_page_has_is_refused(origin: str) -> None:
    """It would let nobody in, without a word."""
    with pytest.raises(ValueError, match=r"cors_origin must be an origin such as"):
        Config(cors_origin=(origin,))


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://Chat.example.com/", "http://[::1]:80", "moz-extension://a-1"]
)
def test_origins_that_pages_have(origin: str) -> None:
    assert Config(cors_origin=(origin,)).cors_origin == (origin,)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.1.5", ""])
def test_a_public_address_wants_a_key_or_deploy_mode(host: str) -> None:
    assert "--insecure" in (exposure.problem(Config(), ["127.0.0.1", host]) or "")
    for safe in ({"api_key": ("k",)}, {"deploy": True}, {"insecure": True}):
        assert exposure.problem(Config(**safe), [host]) is None


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "unix:/a", "/a"]
)
def test_a_private_address_wants_none(host: str) -> None:
    assert exposure.problem(Config(), [host]) is None


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://chat.example.com", 400),
        ("https://Chat.example.com", 400),
        ("http://tool.example:8080", 400),
        ("http://chat.example.com", 403),
        ("https://chat.example.com:444", 403),
        ("https://sub.chat.example.com", 403),
    ],
)
def test_configured_origins(origin: str, status: int) -> None:
    answer = STRICT.simulate_post("/completions", headers={"Origin": origin}, json={"prompt": "x"})
    assert answer.status_code == status  # 400: no model is loaded


def test_a_page_from_a_file_is_told_what_to_do() -> None:
    ask = {"headers": {"Origin": "null"}, "json": {"prompt": "x"}}
    answer = STRICT.simulate_post("/completions", **ask)
    assert answer.status_code == 403
    assert "http://localhost" in answer.json["detail"]
    assert "--cors-origin null" in answer.json["detail"]
    assert client(cors_origin=("null",)).simulate_post("/completions", **ask).status_code == 400


def test_all_origins() -> None:
    everybody = client(cors_origin=("*",))
    for origin in ("http://evil.example", "null"):
        answer = everybody.simulate_get("/status", headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == "*"
        answer = everybody.simulate_post("/completions", headers={"Origin": origin}, json={})
        assert answer.status_code == 400


def test_an_entry_of_the_log() -> None:
    environ = {
        REQUEST_ID: "req-1",
        "REMOTE_ADDR": "",
        "REQUEST_METHOD": "GET",
        "PATH_INFO": '/models/"é\n'.encode().decode("latin-1"),
        "QUERY_STRING": "key=secret",
        "HTTP_USER_AGENT": "a" * 999,
    }
    answer = SimpleNamespace(status="200 OK", sent=17)
    text = line(answer, environ, timedelta(seconds=1.23456))
    assert "\n" not in text and "secret" not in text
    entry = msgspec.json.decode(text)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "id": "req-1",
        "client": None,
        "method": "GET",
        "path": '/models/"é\n',
        "status": 200,
        "bytes": 17,
        "seconds": 1.2346,
        "agent": "a" * 256,
    }


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("", "203.0.113.7", "203.0.113.7"),
        ("", "made-up, 203.0.113.7", "203.0.113.7"),  # what the proxy has added is the last
        ("10.0.0.1", "203.0.113.7", "10.0.0.1"),
        ("", None, None),
    ],
)
def test_the_client_behind_a_proxy(peer: str, header: str | None, client: str | None) -> None:
    environ = {"REMOTE_ADDR": peer} | ({} if header is None else {"HTTP_X_FORWARDED_FOR": header})
    entry = line(SimpleNamespace(status="200 OK"), environ, timedelta())
    assert msgspec.json.decode(entry)["client"] == client


@pytest.mark.parametrize(
    ("body", "logged"),
    [
        (b'{"prompt": "a\nb \xff"}', '{"prompt": "a\nb \ufffd"}'),
        (b"%PDF-1.7", "8 bytes"),
        (b"", None),
    ],
)
def test_bodies_in_the_log(body: bytes, logged: str | None) -> None:
    entry = line(SimpleNamespace(status="200 OK"), {BODY: body}, timedelta())
    assert "\n" not in entry and msgspec.json.decode(entry).get("body") == logged


def test_numbers_in_the_environment() -> None:
    config = Config.from_environment({"RWKV_NATIVE_STEP_MS": "12.5", "RWKV_NATIVE_SPECULATE": "8"})
    assert (config.step_ms, config.speculate) == (12.5, 8)
    assert Config.from_environment(config.to_environment()) == config
    with pytest.raises(ValueError, match="RWKV_NATIVE_STEP_MS must be a number, not 'soon'"):
        Config.from_environment({"RWKV_NATIVE_STEP_MS": "soon"})


def test_words_in_the_environment() -> None:
    config = Config.from_environment({"RWKV_NATIVE_STATE_TYPE": "fp16"})
    assert config.state_type == "fp16" and Config().state_type == "fp32"
    assert Config.from_environment(config.to_environment()) == config
    with pytest.raises(
        ValueError, match="RWKV_NATIVE_STATE_TYPE must be one of fp32, fp16, bf16, not 'f8'"
    ):
        Config.from_environment({"RWKV_NATIVE_STATE_TYPE": "f8"})


def test_lists_in_the_environment() -> None:
    config = Config(model_dir=("/a", "b c"), api_key=("k1", "k2"), cors_origin=("http://x:1",))
    environ = config.to_environment()
    assert environ["RWKV_NATIVE_MODEL_DIR"] == "/a:b c"
    assert environ["RWKV_NATIVE_API_KEY"] == "k1,k2"
    assert Config.from_environment(environ) == config
    assert "k1" not in repr(config)
    for wrong in ({"api_key": ("a,b",)}, {"model_dir": ("",)}, {"cors_origin": (" ",)}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} cannot be empty or hold"):
            Config(**wrong)
