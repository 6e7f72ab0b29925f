"""deploy/nginx.conf in front of a server on a unix socket: streams, errors, reload, the log."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from serving import ENDLESS, Server, free_port, serving, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

# What a distribution's nginx.conf has around a site, with everything in one folder.
AROUND = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """nginx by its ports, and the server behind it."""

    plain: int
    secure: int
    trust: ssl.SSLContext
    server: Server

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "localhost",
            self.secure,
            timeout=120,
            context=self.trust,
            source_address=(source, 0),
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """(status, headers, JSON) of one request."""
        with contextlib.closing(self.connect(source)) as connection:
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())

    def counts(self) -> tuple[int, int]:
        status = self.ask("GET", "/status")[2]
        return status["running"], status["waiting"]


@pytest.fixture(scope="module")
def proxy(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    plain, secure = free_port(), free_port()
    site = (deploy / "nginx.conf").read_text()
    for old, new in (
        (r"/run/rwkv-native/http\.sock", f"{folder}/http.sock"),
        (r"ssl_certificate \S+;", f"ssl_certificate {certificate};"),
        (r"ssl_certificate_key \S+;", f"ssl_certificate_key {key};"),
        (r"listen \[::\]:.*", ""),
        (r"listen 80;", f"listen 127.0.0.1:{plain};"),
        (r"listen 443 ", f"listen 127.0.0.1:{secure} "),
        (r"server_name .*;", "server_name localhost;"),
    ):
        site, times = re.subn(old, new, site)
        assert times
    (folder / "site.conf").write_text(site)
    user = "user root;" if os.geteuid() == 0 else ""  # it has to reach into the folder
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user))
    command = [str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tried.returncode == 0 and "[warn]" not in tried.stderr, tried.stderr

    nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        host = f"unix:{folder}/http.sock"
        name = "llm.example.com"
        with serving(host=host, max_batch=1, public_name=name, ready=False) as server:
            trust = ssl.create_default_context(cafile=certificate)
            one = Proxy(plain, secure, trust, server)
            wait_until(lambda: works(one), 60)
            yield one
    finally:
        nginx.terminate()
        nginx.wait(30)


def works(proxy: Proxy) -> bool:
    assert proxy.server.process.poll() is None, proxy.server.log()
    try:
        return proxy.ask("GET", "/health")[0] == 200
    except OSError:
        return False


def test_http_is_sent_to_https(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=30)
    connection.request("POST", "/v1/completions?a=b", "{}", {"Host": "localhost"})
    answer = connection.getresponse()
    assert answer.status == 308  # which keeps method and body
    assert answer.headers["location"] == "https://localhost/v1/completions?a=b"
    connection.close()


def test_frames_come_one_by_one_and_a_client_that_leaves_frees_its_slot(proxy: Proxy) -> None:
    """One slot: the second stream is queued, and its first frame, some 200 bytes, comes while
    nothing follows it. A proxy that buffers would hold it."""
    endless = {"prompt": "x", **ENDLESS, "stream": True}
    chat = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    with contextlib.closing(proxy.connect()) as first, contextlib.closing(proxy.connect()) as next:
        first.request("POST", "/v1/completions", json.dumps(endless))
        busy = first.getresponse()
        assert busy.readline().startswith(b"data: ")
        next.request("POST", "/v1/chat/completions", json.dumps(chat))
        queued = next.getresponse()
        assert b'"role":"assistant"' in queued.readline()
        wait_until(lambda: proxy.counts() == (1, 1))
        busy.close()
        queued.close()
    wait_until(lambda: proxy.counts() == (0, 0))


def test_a_body_that_is_too_large(proxy: Proxy) -> None:
    with contextlib.closing(proxy.connect()) as connection:
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", str(33 << 20))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413 and answer.headers["content-type"] == "application/json"
        body = json.loads(answer.read())
    assert body["error"]["code"] == "body_too_large" and body["detail"]


def test_the_log_names_the_client_and_not_what_it_made_up(proxy: Proxy) -> None:
    headers = {"X-Forwarded-For": "192.0.2.1", "X-Request-Id": "through-nginx"}
    status, answer, _ = proxy.ask("GET", "/status", headers=headers)
    assert status == 200 and answer["x-request-id"] == "through-nginx"
    log = wait_until(lambda: "through-nginx" in proxy.server.log() and proxy.server.log())
    (entry,) = [json.loads(line) for line in log.splitlines() if "through-nginx" in line]
    assert entry["client"] == "127.0.0.1"


def test_pages_of_this_server_may_use_it_and_others_may_not(proxy: Proxy) -> None:
    for origin, status in (
        (f"https://localhost:{proxy.secure}", 200),
        ("https://evil.example", 403),
    ):
        body = {"prompt": "x", "max_tokens": 1}
        assert proxy.ask("POST", "/completions", body, {"Origin": origin})[0] == status


def test_the_servers_own_name(proxy: Proxy) -> None:
    """Pages that came under it may use the server; a name that somebody points here is none."""
    body = {"prompt": "x", "max_tokens": 1}
    for name, status in (("llm.example.com", 200), ("evil.example", 403)):
        headers = {"Host": name, "Origin": f"https://{name}"}
        assert proxy.ask("POST", "/completions", body, headers)[0] == status
        assert proxy.ask("GET", "/status", headers={"Host": name})[0] == status


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics/"])
def test_only_this_machine_reads_the_metrics(proxy: Proxy, path: str) -> None:
    status, headers, body = proxy.ask("GET", path, source="127.0.0.2")
    assert status == 403 and headers["content-type"] == "application/json"
    assert body["error"]["code"] == "forbidden" and body["detail"] == body["error"]["message"]
    with contextlib.closing(proxy.connect()) as connection:
        connection.request("GET", path)
        assert connection.getresponse().status != 403


def test_the_library_of_the_pages_is_compressed(proxy: Proxy) -> None:
    with contextlib.closing(proxy.connect()) as connection:
        connection.request("GET", "/static/docs.js", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert answer.status == 200 and answer.headers["content-encoding"] == "gzip"


def test_a_reload_loses_nobody(proxy: Proxy) -> None:
    """A stream that runs ends as it should, and who asks meanwhile waits for the new worker."""
    before = proxy.ask("GET", "/status")[2]["pid"]
    body = {"prompt": "x", **ENDLESS, "max_tokens": 4000, "stream": True}
    with contextlib.closing(proxy.connect()) as connection, ThreadPoolExecutor() as pool:
        connection.request("POST", "/completions", json.dumps(body))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        proxy.server.process.send_signal(signal.SIGHUP)
        asked = [pool.submit(proxy.ask, "GET", "/v1/models") for _ in range(8)]
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert [one.result()[0] for one in asked] == [200] * 8
    wait_until(lambda: proxy.ask("GET", "/status")[2]["pid"] != before, 60)
    wait_until(lambda: works(proxy), 60)


def test_without_a_server_clients_are_told_to_come_again(proxy: Proxy) -> None:
    """The last one: it ends the server."""
    assert proxy.ask("POST", "/exit")[0] == 200
    assert proxy.server.process.wait(60) == 0
    status, headers, body = proxy.ask("GET", "/v1/models")
    assert status == 503 and headers["retry-after"] == "5"
    assert body["error"]["code"] == "server_stopping"
