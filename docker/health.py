"""Tells Docker whether what runs in a container answers, wherever it was told to listen.

Docker starts this beside it and knows neither the options of its command nor the port that a variable of one server
names; the kernel knows the sockets. Liveness only: any answer will do, and `/ready` tells which backends do.
"""

import http.client
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what others listen on
_WITHIN = 2.0
"""Seconds, of the three that Docker waits."""


def processes(only: Iterable[str] = ()) -> list[Path]:
    """Return what /proc has of some processes, of all of the container if none are named."""
    return [Path("/proc", name) for name in only] or [
        place for place in Path("/proc").iterdir() if place.name.isdigit()
    ]


def sockets_of(place: Path) -> Iterator[str]:
    """Yield the inodes of a process's sockets; none if it is another user's, or gone."""
    with suppress(OSError):
        for descriptor in (place / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def addresses(inodes: set[str]) -> Iterator[tuple[str, int]]:
    """Yield where those of the sockets are reached that listen."""
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == _LISTENS and inode in inodes:
                host, port = local.split(":")
                words = (int(host[at : at + 8], 16) for at in range(0, len(host), 8))
                address = socket.inet_ntop(family, b"".join(struct.pack("=I", word) for word in words))
                yield _ANYWHERE.get(address, address), int(port, 16)


def answers(host: str, port: int, path: str) -> bool:
    """Tell whether there is an HTTP server that answers in time."""
    connection = http.client.HTTPConnection(host, port, timeout=_WITHIN)  # knows no proxy
    try:
        connection.request("GET", path)
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def words_of(place: Path) -> list[bytes]:
    """Return a process's program and arguments; none if it is gone."""
    try:
        return (place / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def main() -> None:
    """End with status 0 if all is well, else with 1 and the reason, which `docker inspect` shows."""
    for place in processes(sys.argv[1:]):
        words = words_of(place)
        listening = list(addresses(set(sockets_of(place))))
        if not listening and b"serve" in words:  # commands such as `stdio` and `migrate` never listen
            sys.exit("it does not listen yet")
        # Of agents /health asks the gateway, too, which may be down.
        path = "/.well-known/agent-card.json" if b"agents" in words else "/health"
        for host, port in listening:
            if not answers(host, port, path):
                sys.exit(f"no answer at {host} port {port}")


if __name__ == "__main__":
    main()
