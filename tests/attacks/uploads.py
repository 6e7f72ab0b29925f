"""One upload by one of Python's clients: `python uploads.py URL CLIENT length|chunks BYTES` prints
the status and the error's code. Used by test_fairness.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

PIECE = b" " * 65536


def main(url: str, client: str, framing: str, size: int) -> tuple[int, bytes]:
    def pieces() -> Iterator[bytes]:
        for _ in range(size // len(PIECE)):
            yield PIECE

    async def later() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    body: Any = b" " * size if framing == "length" else pieces()
    path = f"{url}/completions"
    if client == "http.client":
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=50)
        chunked = framing == "chunks"
        connection.request("POST", "/completions", body, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.read()
    if client == "urllib":
        from urllib import error, request

        try:
            with request.urlopen(request.Request(path, body, method="POST"), timeout=50) as got:
                return got.status, got.read()
        except error.HTTPError as problem:
            return problem.code, problem.read()
    if client == "urllib3":
        import urllib3

        got = urllib3.request("POST", path, body=body, retries=False, timeout=50)
        return got.status, got.data
    if client == "requests":
        import requests

        got = requests.post(path, data=body, timeout=50)
        return got.status_code, got.content
    if client == "httpx":
        import httpx

        got = httpx.post(path, content=body, timeout=50)
        return got.status_code, got.content

    async def by_aiohttp() -> tuple[int, bytes]:
        import aiohttp

        data = body if framing == "length" else later()
        async with aiohttp.ClientSession() as session, session.post(path, data=data) as got:
            return got.status, await got.read()

    return asyncio.run(by_aiohttp())


if __name__ == "__main__":
    status, answer = main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    print(status, json.loads(answer)["error"]["code"])
