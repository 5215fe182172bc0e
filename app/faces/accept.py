"""Which of the two types that MCP over HTTP is answered in a caller takes."""

import re
from functools import lru_cache
from typing import NamedTuple

_REFUSED = re.compile(rb"q\s*=\s*0(\.0*)?")


class Accepted(NamedTuple):
    """What an `Accept` header allows."""

    json: bool
    events: bool


@lru_cache(64)
def accepted(accept: bytes) -> Accepted:
    """Read an `Accept` header as RFC 9110 has it: the closest range counts, `q=0` refuses, nothing at all takes all."""
    ranges: dict[bytes, bool] = {}
    for part in accept.split(b","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(b";"))
        if media_range:
            ranges[media_range] = not any(map(_REFUSED.fullmatch, parameters))
    everything = ranges.get(b"*/*", not ranges)
    return Accepted(
        json=ranges.get(b"application/json", ranges.get(b"application/*", everything)),
        events=ranges.get(b"text/event-stream", ranges.get(b"text/*", everything)),
    )
