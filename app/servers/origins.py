"""Where a call comes from, as its caller says: the trace and the conversation that it is a part of."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

_TRACEPARENT = re.compile(
    r"(?P<whole>(?P<version>(?!ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<later>-.*)?"
)
"""W3C Trace Context. What later versions add behind is theirs; this one adds nothing."""
_LONGEST_TRACEPARENT = 256
"""Characters of a `traceparent` that are looked at; it has 55."""
_LONGEST_CONVERSATION = 128
"""Characters of a conversation's name that are kept."""
_REMEMBERED = 256
_CONVERSATION_KEYS = ("conversation_id", "conversationId", "conversation")


class Origin(msgspec.Struct, frozen=True):
    """What callers say of where a call comes from, fit for a line of the log. It decides nothing."""

    traceparent: str = "-"
    """W3C's, of the span that called; `-` where there is none, or it is none."""
    conversation: str = "-"
    """The conversation's name; `-` where it has none."""


NOWHERE = Origin()


def origin_of_headers(headers: Mapping[bytes, bytes]) -> Origin:
    """Return what a request's `traceparent` and `X-Conversation-ID` say."""
    traceparent, conversation = headers.get(b"traceparent"), headers.get(b"x-conversation-id")
    if traceparent is None and conversation is None:
        return NOWHERE
    return Origin(
        "-" if traceparent is None else _traceparent(traceparent.decode("latin-1").strip()),
        "-" if conversation is None else _cleaned(conversation.decode("utf-8", "replace")),
    )


def origin_of_meta(meta: Mapping[str, Any] | None) -> Origin:
    """Return what the `_meta` of an MCP message says: `traceparent`, and `conversation_id` or the like."""
    if not meta:
        return NOWHERE
    traceparent = meta.get("traceparent")
    conversation = next((meta[key] for key in _CONVERSATION_KEYS if isinstance(meta.get(key), str)), None)
    found = _traceparent(traceparent) if isinstance(traceparent, str) else "-"
    if found == "-" and conversation is None:
        return NOWHERE
    return Origin(found, "-" if conversation is None else _cleaned(conversation))


def within(inner: Origin, outer: Origin) -> Origin:
    """Return what a message says, and for what it does not, what the connection or request says that brought it."""
    if inner is NOWHERE:
        return outer
    return Origin(
        outer.traceparent if inner.traceparent == "-" else inner.traceparent,
        outer.conversation if inner.conversation == "-" else inner.conversation,
    )


def _traceparent(given: str) -> str:
    found = _TRACEPARENT.fullmatch(given) if len(given) <= _LONGEST_TRACEPARENT else None
    if found is None or (found["later"] and found["version"] == "00"):
        return "-"
    return found["whole"]


@lru_cache(_REMEMBERED)
def _cleaned(name: str) -> str:
    """Return a name that takes up one word of a line, and can't be taken for something else in it."""
    name = name.strip()[:_LONGEST_CONVERSATION]
    return "".join(c if c.isprintable() and not c.isspace() else "_" for c in name) or "-"
