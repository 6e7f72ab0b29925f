"""Who asks: by the API key, or else by the address. Made once per request, where its key is read
(`web/transport/api_keys.py`), and found as `req.context.caller` by whoever comes after.

Callers take turns in the engine, which knows them by a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any


@dataclass(frozen=True, slots=True)
class Caller:
    """One client, for all its requests."""

    address: str  # see `address`
    key: bytes | None = None  # SHA-256 of its API key; None: it was not asked for one

    @property
    def number(self) -> int:
        """The same for as long as this process runs; below 2^64."""
        name = ("address", _network(self.address)) if self.key is None else ("key", self.key)
        return hash(name) % 2**64


def address(environ: dict[str, Any]) -> str:
    """Where a request comes from; empty: nobody knows. Over a unix socket comes only a proxy, which
    appends to the header whom it serves; others could write anything there."""
    proxied = str(environ.get("HTTP_X_FORWARDED_FOR", "")).rpartition(",")[2].strip()
    return environ.get("REMOTE_ADDR") or proxied


def _network(given: str) -> str:
    """Of IPv6 one client has 2^64 addresses."""
    try:
        ip = IPv6Address(given.partition("%")[0])
    except AddressValueError:
        return given
    return given if ip.ipv4_mapped else ip.exploded[:19]
