"""Ranges of bytes, as RFC 9110 writes them."""

import re

from app.errors import InvalidArguments, RangeNotSatisfiable

_ONE = re.compile(r"(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+)", re.ASCII)
_BEYOND = 10**18
"""No object is so large; S3 need not count further."""


def asked_range(value: str) -> str:
    """Return the one range that a tool's argument names, as S3 takes it.

    Raises:
        InvalidArguments: it is not one range of bytes.
        RangeNotSatisfiable: it is one of no byte.
    """
    unit, _, ranges = value.partition("=")
    parts = _parts(ranges)
    if unit.strip().lower() != "bytes" or len(parts) != 1:
        raise InvalidArguments.of("range", "expected one range, as bytes=0-99, bytes=100- or bytes=-100")
    return _read(parts[0])


def header_range(value: str | None) -> str | None:
    """Return the range that a `Range` header asks for, or None where the whole object is the right answer.

    That is so for units other than bytes, which a server ignores, and for several ranges at once, which it may
    ignore, as S3 itself does.

    Raises:
        InvalidArguments: what is said to be ranges of bytes are none.
        RangeNotSatisfiable: the range is one of no byte.
    """
    unit, separator, ranges = (value or "").partition("=")
    if not separator or unit.strip().lower() != "bytes":
        return None
    found = [_read(part) for part in _parts(ranges)]
    if not found:
        raise _malformed()
    return found[0] if len(found) == 1 else None


def _parts(ranges: str) -> list[str]:
    return [part for part in (piece.strip(" \t") for piece in ranges.split(",")) if part]


def _read(part: str) -> str:
    found = _ONE.fullmatch(part)
    if found is None:
        raise _malformed()
    if (suffix := found["suffix"]) is not None:
        if not suffix.strip("0"):
            raise RangeNotSatisfiable.of("range", "the last 0 bytes are none")
        return f"bytes=-{_bounded(suffix)}"
    first, last = _bounded(found["first"]), _bounded(found["last"]) if found["last"] else None
    if last is not None and last < first:
        raise InvalidArguments.of("range", "it ends before it begins")
    return f"bytes={first}-" if last is None else f"bytes={first}-{last}"


def _bounded(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else _BEYOND


def _malformed() -> InvalidArguments:
    return InvalidArguments.of("range", "expected bytes=0-99, bytes=100- or bytes=-100")
