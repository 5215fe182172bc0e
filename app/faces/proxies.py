"""What proxies in front of the gateway say of a request, believed from those alone that operators name."""

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from app.settings import PATH_PREFIX

Headers = MutableMapping[bytes, bytes]

_SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss"), "ws": ("http", "ws"), "wss": ("https", "wss")}
_HOPS = 32
"""Proxies in a row that are looked through; what the caller wrote in front of them is not read."""
_REMEMBERED = 1024


class Proxies:
    """Writes into a request what it was before the proxies: the caller's address, host, scheme, and the path's prefix.

    Args:
        trusted: addresses and networks of our own proxies; `*` trusts everybody who can reach the port.
        root_path: the prefix that callers put before our paths, and that the proxy in front takes off.
    """

    def __init__(self, trusted: Sequence[str], root_path: str) -> None:
        everybody = "*" in trusted
        networks = [ip_network(name) for name in trusted if name != "*"]
        self._root_path = root_path

        @lru_cache(_REMEMBERED)
        def trusts(address: str) -> bool:
            parsed = _parsed(address)
            return everybody or (parsed is not None and any(parsed in network for network in networks))

        self._trusts = trusts

    def restore(self, scope: Scope, headers: Headers) -> None:
        """Change a request's scope and headers to what its caller sent."""
        scope["root_path"] = self._root_path
        client: tuple[str, int] | None = scope.get("client")
        if not self._trusts(client[0] if client else ""):
            return
        if forwarded := headers.get(b"x-forwarded-for"):
            address = self._caller(forwarded.decode("latin-1"))
            if address is not None:
                scope["client"] = (address, 0)
        if scheme := _SCHEMES.get(_last(headers.get(b"x-forwarded-proto", b"")).lower()):
            scope["scheme"] = scheme[scope["type"] == "websocket"]
        if host := _last(headers.get(b"x-forwarded-host", b"")):
            # It is checked as any Host is: whoever is misled by a proxy is misled by its Host.
            headers[b"host"] = host.encode("latin-1")
            others = [field for field in scope["headers"] if field[0] != b"host"]
            scope["headers"] = [(b"host", headers[b"host"]), *others]
        if prefix := _prefix(headers.get(b"x-forwarded-prefix", b"")):
            scope["root_path"] = prefix

    def _caller(self, forwarded: str) -> str | None:
        """Return the last address that no proxy of ours has: each wrote down who had called it."""
        found: str | None = None
        for hop in reversed(forwarded.rsplit(",", _HOPS)[-_HOPS:]):
            address = _parsed(_without_port(hop))
            if address is None:  # "unknown", or somebody's invention: who stands before it can't be known
                break
            found = str(address)
            if not self._trusts(found):
                break
        return found


def _last(values: bytes) -> str:
    """Return the value that the nearest proxy wrote."""
    return values.decode("latin-1").rpartition(",")[2].strip()


def _prefix(values: bytes) -> str | None:
    """Return the prefix that proxies took off, one after the other, or None if it is none."""
    joined = "".join(part.strip().rstrip("/") for part in values.decode("latin-1").split(",", _HOPS))
    return joined if PATH_PREFIX.fullmatch(joined) else None


def _without_port(hop: str) -> str:
    """Return the address in an element of `X-Forwarded-For`."""
    hop = hop.strip()
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


@lru_cache(_REMEMBERED)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return an address; an IPv4 one as such, which a socket for both families shows as IPv6."""
    if "%" in address:  # behind it anything may stand, and this goes into the log
        return None
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
