"""Every request that RWKV Runner's API guide prints, as it is printed, and its answer where the
guide has one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents
import pytest
from serving import Server, serving

from web.midi import sound

GUIDE = json.loads((Path(__file__).parent / "data" / "guide-examples.json").read_text())
MIDI = "p:24:a p:2a:a t14 p:24:0 p:2a:0"
UPLOADS = {
    "/midi-to-text": ("sample.mid", None),
    "/file-to-text?file_name=233.PDF&file_encoding=utf-8": ("233.PDF", documents.pages("A page")),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In a folder of its own: the guide writes files."""
    with serving(access_log=0, workspace=tmp_path_factory.mktemp("workspace")) as one:
        yield one


def sent(server: Server, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    path = asked["path"]
    if "multipart" not in asked:
        return server.request(asked["method"], path, asked.get("body"))
    name, data = UPLOADS[path]
    if data is None:
        data = server.request("POST", "/text-to-midi", {"text": MIDI})[2]
    mark = uuid.uuid4().hex
    part = f'Content-Disposition: form-data; name="{asked["multipart"]}"; filename="{name}"'
    body = f"--{mark}\r\n{part}\r\n\r\n".encode() + data + f"\r\n--{mark}--\r\n".encode()
    return server.request(
        "POST", path, body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
    )


def holds(path: str, raw: bytes) -> None:
    """Whether an answer is what the guide describes."""
    if path == "/text-to-midi":
        assert raw.startswith(b"MThd")
        return
    answer = json.loads(raw)
    if "completions" in path:
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    elif path == "/midi-to-text":
        assert answer["text"].startswith("<start> p:24:a p:2a:a ")
        assert answer["text"].endswith(" <end>")
    elif path == "/file-to-text":
        assert answer["pages"][0]["page_content"] == "A page\n"
    elif path == "/status":
        assert answer["status"] == 3 and answer["pid"] > 0 and answer["device_name"]
    elif path == "/":
        assert answer == {"Hello": "World!"}
    else:
        assert answer == "success"


@pytest.mark.parametrize("asked", GUIDE, ids=[f"{one['method']} {one['path']}" for one in GUIDE])
def test_the_guide(server: Server, asked: dict[str, Any]) -> None:
    for path in filter(None, (asked["path"], asked.get("alias"))):
        plain = path.partition("?")[0]
        if plain == "/exit":
            pytest.skip("tests/contract/test_lifecycle.py has it")
        status, _, raw = sent(server, {**asked, "path": path})
        if plain == "/switch-model":  # its model does not exist
            assert status == 400 and b"failed to load" in raw
        elif status == 501:
            assert plain == "/docs" or ("wav" in plain and sound.missing())
        else:
            assert status == 200, raw
            if plain != "/docs":
                holds(plain, raw)
