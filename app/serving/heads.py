"""Heads of requests that come again: callers say the same with each request, but for the length of its body."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

END_OF_HEAD = b"\r\n\r\n"
_DIGITS = 7
"""Of a length that is looked at; the parser reads what has more."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})\r\n" % _DIGITS, re.IGNORECASE)
_LONGEST = 8 * 1024
_MOST_FIELDS = 64
"""Of a head that is remembered, since each connection holds one for as long as it is open."""
_SAY_MORE = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
"""Fields by which a body has no length, is waited for, or is none."""


class RepeatedHead(msgspec.Struct, frozen=True):
    """The head of a request that the parser has read, by which it need not read the next one.

    The same bytes say the same. Where one request was all that came, there is one again: with another length in its
    place, and a body of just that length, too.
    """

    before: bytes
    """All up to the length of the body."""
    after: bytes
    """All behind it."""
    scope: Mapping[str, Any]
    """Of ASGI, but for the headers, and for what applications keep there."""
    headers: Sequence[tuple[bytes, bytes]]
    place: int
    """Where the length is among them."""

    @classmethod
    def of(cls, received: bytes, scope: Mapping[str, Any]) -> Self | None:
        """Return the head of a request; None where no other can be known by it.

        Args:
            received: the request, from its first byte to its last.
            scope: what the parser has made of it, before any application had it.
        """
        end = received.find(END_OF_HEAD) + len(END_OF_HEAD)
        head, headers = received[:end], list(scope["headers"])
        names = [name for name, _ in headers]
        found = _LENGTH.search(head)
        if found is None or names.count(b"content-length") != 1 or not _SAY_MORE.isdisjoint(names):
            return None
        if len(received) - end != int(found[1]) or head.count(b"\n") != head.count(b"\r\n"):
            return None  # it has ended somewhere else
        if end > _LONGEST or len(headers) > _MOST_FIELDS:
            return None
        if head.count(b"\r\n") != len(headers) + 2:
            return None  # it has more lines than fields: an upgrade was left out, which another length would let stand
        others = {name: value for name, value in scope.items() if name not in ("headers", "state")}
        return cls(head[: found.start(1)], head[found.end(1) :], others, headers, names.index(b"content-length"))

    def request_in(self, received: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Return the scope and the body of the one request that was received; None where it has another head."""
        if not received.startswith(self.before):
            return None
        begin = len(self.before)
        end = received.find(b"\r", begin, begin + _DIGITS + 1)
        length = received[begin:end]
        if not (length.isdigit() and received.startswith(self.after, end)):
            return None
        begin = end + len(self.after)
        if len(received) - begin != int(length):
            return None
        headers = [*self.headers]
        headers[self.place] = b"content-length", length
        return {**self.scope, "headers": headers}, received[begin:]
