"""Who may use the server from a browser: under which names it answers, and which pages may call it.

Any page that a user has open can send requests to 127.0.0.1, even such as the browser does not let
it read the answers of; `Origin` tells them apart. Allowed are pages of this machine, RWKV Runner's
own windows (`wails://wails`; no web site can have such a scheme), pages that this server itself
delivered, and what `--cors-origin` names.

A hostile site can point its own name here (DNS rebinding). Its pages then look like this server's,
and may read answers. `Host` gives them away: it is the site's name. So the server answers only to
names that no foreign site can have, and to those of `--public-name`; where it asks for keys to any,
since a foreign page has none. Installed by `web/app.py`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import falcon

from web import errors

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})

# What says only that a server is there: load balancers ask under any name.
_OPEN = frozenset({"/", "/health"})

# The schemes of pages that the programs for which this server is made show in windows of their own.
# Those of browser extensions are not among them: each would be trusted with files and /exit.
_PROGRAMS = frozenset({"wails", "tauri", "app"})

# Domains that the public DNS does not have, so that no site can: this machine, mDNS, home networks
# (RFC 8375), private networks (reserved by ICANN; host.docker.internal), and Kubernetes.
_PRIVATE = (".localhost", ".local", ".home.arpa", ".internal", ".svc", ".svc.cluster.local")

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::[0-9]*)?", re.ASCII)


class Hosts:
    """The names that the server answers to: `names` beside the private ones, or all with `any`."""

    def __init__(self, names: Sequence[str], any: bool = False) -> None:
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._any = any

    def allows(self, host: str) -> bool:
        """Whether no foreign page can have sent a request with this `Host`."""
        if self._any or not host:  # HTTP/1.0 has none; every browser sends one
            return True
        name = _name(host)
        if name in self._names or _is_address(name):
            return True
        # A name of one label is found in the machine's own files and networks only.
        return bool(name) and ("." not in name or name.endswith(_PRIVATE))


class Origins:
    """Refuses what comes under foreign names and what pages of other origins send, and says to
    browsers which answers are theirs. Never with credentials: a page that has a key sends it
    itself."""

    def __init__(self, allowed: Sequence[str], hosts: Hosts) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)
        self._hosts = hosts
        self._cors = falcon.CORSMiddleware(expose_headers=["X-Request-Id", "Retry-After"])

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if req.path not in _OPEN and not self._hosts.allows(_host(req)):
            raise errors.wrong_host(_host(req))
        if req.method not in _HARMLESS and not self._allows(req):
            raise errors.wrong_origin(req.get_header("Origin") or "")

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        # Always: a cache must not give a page what was answered to a program.
        resp.append_header("Vary", "Origin")
        if req.get_header("Origin") is not None and self._allows(req):
            self._cors.process_response(req, resp, resource, req_succeeded)

    def _allows(self, req: falcon.Request) -> bool:
        origin = req.get_header("Origin")
        if origin is None or "*" in self._allowed or origin.lower() in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            name = (parts.hostname or "").rstrip(".")
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return parts.scheme in _PROGRAMS
        if name == "localhost" or name.endswith(".localhost") or _is_address(name, loopback=True):
            return True
        host = _host(req)
        return bool(name) and parts.netloc.lower() == host.lower() and self._hosts.allows(host)


def _host(req: falcon.Request) -> str:
    return req.env.get("HTTP_HOST", "")


def _name(host: str) -> str:
    """That of a Host header, in lower case without its port; "" if it is malformed."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found[1] or found[2]).lower().rstrip(".")


def _is_address(name: str, loopback: bool = False) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback
