"""Under which names the server answers.

A hostile site can point its own name here (DNS rebinding). Its pages then look like this server's,
and may read answers. `Host` gives them away: it is the site's name. So the server answers only to
names that no foreign site can have, and to those of `--public-name`; where it asks for keys to any,
since a foreign page has none. Asked by `web/transport/cors.py`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

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
        if name in self._names or is_address(name):
            return True
        # A name of one label is found in the machine's own files and networks only.
        return bool(name) and ("." not in name or name.endswith(_PRIVATE))


def _name(host: str) -> str:
    """That of a Host header, in lower case without its port; "" if it is malformed."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found[1] or found[2]).lower().rstrip(".")


def is_address(name: str, loopback: bool = False) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback
