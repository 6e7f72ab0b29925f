"""Who asks: by the API key, or else by the address. Clients take turns in the engine, which knows
them by a number. Called by the resources; `web/transport/api_keys.py` says whose key it was.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address
from typing import Any

# Where `web/transport/api_keys.py` leaves the key of a request, once it is known.
API_KEY = "rwkv.api_key"


def client_number(environ: dict[str, Any]) -> int:
    """The same for all requests of a client, for as long as this process runs; below 2^64."""
    key = environ.get(API_KEY)
    name = ("address", _network(address(environ))) if key is None else ("key", key)
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
