"""Whether a server may listen where it was told to: on an address of the network only if it asks
for keys, is in deploy mode, or was told that everybody there may change it.

Asked before anything listens: by `web/cli/serve.py`, and by `web/gunicorn.conf.py`, whose flags may
name other addresses.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from web.config import UNIX, Config


def problem(config: Config, hosts: Iterable[str]) -> str | None:
    """What is wrong with listening at these hosts (names, addresses or paths of sockets)."""
    if config.api_key or config.deploy or config.insecure:
        return None
    for host in hosts:
        if _is_public(host):
            return (
                f"{host} can be reached from the network, and whoever does may load models, write "
                "into the workspace and end the server: add --api-key KEY, --deploy or both, or "
                "--insecure if you want that"
            )
    return None


def _is_public(host: str) -> bool:
    """Whether others than this machine may reach an address, or one that a name stands for. A name
    that cannot be resolved is no reason; listening there fails."""
    if not host or host.startswith((UNIX, "/")):
        return not host  # an empty host is every address
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return not all(ipaddress.ip_address(at[4][0].partition("%")[0]).is_loopback for at in found)
