"""/docs and /redoc: everything that they load comes from the server itself, and a browser shows
them without a complaint."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import falcon.testing
import pytest
from serving import ROOT, Server, serving, wait_until

from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime
from web.resources.server.pages import PageResource
from web.transport.static_files import REDOC, SWAGGER_UI, files

PAGES = {"/docs": SWAGGER_UI, "/redoc": REDOC}
CHROMIUM = shutil.which("chromium")

built = pytest.mark.skipif(
    not set(PAGES.values()) <= files().keys(), reason="built without npm or without a network"
)


def loaded(html: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]+)"', html)


@built
@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_only_from_here(server: Server, page: str) -> None:
    status, headers, raw = server.request("GET", page)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert not re.search(r"https?:|\*|unsafe-eval", policy)
    paths = [path for path in loaded(raw.decode()) if path != "data:,"]
    assert len(paths) == 3 and f"/static/{PAGES[page]}" in paths
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
    for path in paths:
        status, headers, body = server.request("GET", path)
        assert status == 200 and body
        assert headers["content-type"] == kinds[Path(path).suffix]
        assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(rb"<script>|<style|\son\w+=", raw)


@built
def test_a_browser_keeps_what_has_not_changed(server: Server) -> None:
    path = f"/static/{SWAGGER_UI}"
    _, headers, body = server.request("GET", path)
    assert headers["cache-control"] == "no-cache"
    known = {"If-None-Match": headers["etag"]}
    status, again, nothing = server.request("GET", path, headers=known)
    assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])
    assert server.request("GET", path, headers={"If-None-Match": '"other"'})[0] == 200
    status, again, nothing = server.request("HEAD", path)
    assert (status, nothing, again["content-length"]) == (200, b"", str(len(body)))
    assert server.request("HEAD", "/docs")[0] == 200


@built
@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip, deflate, br", True), ("GZIP;q=0.5", True), ("br, gzip;q=0", False), ("br", False)],
)
def test_large_files_come_by_gzip(server: Server, accepted: str, packed: bool) -> None:
    path = f"/static/{SWAGGER_UI}"
    _, plain, whole = server.request("GET", path)
    _, headers, body = server.request("GET", path, headers={"Accept-Encoding": accepted})
    assert "Accept-Encoding" in headers["vary"] and "Accept-Encoding" in plain["vary"]
    assert headers["content-type"] == plain["content-type"]
    assert headers["x-content-type-options"] == "nosniff"
    assert (headers["etag"] != plain["etag"]) == packed
    if packed:
        assert headers["content-encoding"] == "gzip" and 3 * len(body) < len(whole)
        body = gzip.decompress(body)
        known = {"Accept-Encoding": accepted, "If-None-Match": headers["etag"]}
        assert server.request("GET", path, headers=known)[0] == 304
    assert body == whole
    small = server.request("GET", "/docs", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in small[1]


@built
def test_the_licences_are_there(server: Server) -> None:
    for path in (
        "swagger-ui-dist/LICENSE",
        "redoc/LICENSE",
        "redoc/redoc.standalone.js.LICENSE.txt",
    ):
        status, headers, body = server.request("GET", f"/static/vendor/{path}")
        assert status == 200 and headers["content-type"].startswith("text/plain") and body


@pytest.mark.parametrize(
    "path",
    ["", "nope.js", "../app.py", "%2e%2e/app.py", "_build.py", "package.json", "/etc/passwd"],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    status, _, raw = server.request("GET", f"/static/{path}")
    assert status == 404 and b'"detail":"Not Found"' in raw


def test_a_page_without_its_library_says_why() -> None:
    app = create_app(Runtime(Config()), Config())
    app.add_route("/empty", PageResource({}, "docs.html", SWAGGER_UI))
    answer = falcon.testing.TestClient(app).simulate_get("/empty", host="localhost")
    assert answer.status_code == 501
    assert answer.json["error"]["code"] == "not_built"
    assert "swagger-ui-bundle.js" in answer.json["detail"] and "npm" in answer.json["detail"]


def test_what_is_kept_is_what_the_pages_load() -> None:
    """Everything below static/ is loaded by a page, or a licence of what is."""
    wanted = {path.removeprefix("/static/") for page in PAGES for path in loaded(html(page))}
    others = {name for name in files() if Path(name).suffix in (".js", ".css")}
    assert others <= wanted


def html(page: str) -> str:
    return (ROOT / "web" / "static" / f"{page[1:]}.html").read_text()


@built
def test_pages_are_open_where_keys_are_asked_for() -> None:
    with serving(api_key="secret", model="none", ready=False, access_log=0) as server:
        wait_until(lambda: answers(server))
        for path in (*PAGES, "/openapi.json", f"/static/{SWAGGER_UI}"):
            assert server.request("GET", path)[0] == 200
        assert server.request("GET", "/status")[0] == 401
        assert server.request("GET", "/static")[0] == 401


def answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log()
    try:
        return server.request("GET", "/health")[0] == 503
    except OSError:
        return False


def shown(url: str, folder: Path) -> tuple[str, str]:
    """The document that a browser makes of a page, and what it says of it."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--no-first-run", f"--user-data-dir={folder}"),
            # Whatever goes elsewhere fails, and the console says so.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


@built
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_a_browser_shows_every_operation(server: Server, tmp_path: Path, page: str) -> None:
    dom, console = shown(server.url + page, tmp_path)
    assert not console, console
    text = re.sub(r"<wbr>|\u200b", "", dom)
    document = server.get("/openapi.json")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            words = operation["summary"]
            assert (path if page == "/docs" else words) in text, path
