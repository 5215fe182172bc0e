"""Messages as callers write and read them, and the bytes that Kafka keeps."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field, JsonValue
from pydantic_core import from_json, to_json

from app.errors import InvalidArguments
from app.results import Result
from app.services.kafka.cluster import Record

Encoding = Literal["json", "text", "base64"]


class Base64Header(BaseModel):
    """A header's value that is not text."""

    base64: str


HeaderValue = str | Base64Header | None
Headers = dict[str, HeaderValue | list[HeaderValue]]


class Message(BaseModel):
    """One message of a topic."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None = Field(description="UTC; null if the message has none that a calendar holds.")
    key: JsonValue = Field(description="As `key_encoding` says; null if the message has none.")
    key_encoding: Encoding | None = None
    value: JsonValue = Field(description="As `encoding` says; null is a tombstone, which deletes the key.")
    encoding: Encoding | None = Field(
        None, description="`json`: decoded; `text`: a string as it was stored; `base64`: bytes that are no text."
    )
    headers: Headers = Field(
        default_factory=dict[str, "HeaderValue | list[HeaderValue]"],
        description="By name; a list where a name repeats; an object with `base64` where the value is not text.",
    )


class PublishedMessage(Result):
    """Where a message is stored. All in-sync replicas have it."""

    topic: str
    partition: int
    offset: int = Field(description="Its exact place in the partition.")
    timestamp: datetime | None
    duplicate: bool = Field(False, description="The idempotency_key was seen before: this is the first one's place.")


class ConsumedMessages(Result):
    """Messages in order of their offsets within each partition, and by time across partitions where possible."""

    messages: list[Message]
    next_cursor: str | None = Field(description="Give it as `cursor` to read on; null in work with a group.")
    reached_end: bool = Field(description="Nothing more was stored at the time of the answer.")
    truncated: bool = Field(description="max_bytes or timeout_ms ended the answer; more is there.")
    skipped: int = Field(0, description="Messages before these that retention had removed.")
    ack: str | None = Field(None, description="Give it back as `ack` when the messages are dealt with (group only).")
    partitions: list[int] | None = Field(None, description="What this gateway reads for the group now (group only).")


def encode_value(message: JsonValue, encoding: Literal["base64"] | None) -> bytes | None:
    """Return the bytes of a message: a string as it is, null as a tombstone, anything else as JSON.

    Raises:
        InvalidArguments: it is said to be base64 and is not, or holds text that UTF-8 can't write.
    """
    if encoding == "base64":
        return _from_base64(message, "message")
    if message is None:
        return None
    try:
        return message.encode() if isinstance(message, str) else to_json(message)
    except (UnicodeEncodeError, ValueError):
        raise InvalidArguments.of("message", "holds half of a surrogate pair, which UTF-8 can't write") from None


def encode_key(key: str | None, encoding: Literal["base64"] | None) -> bytes | None:
    """Return the bytes of a key.

    Raises:
        InvalidArguments: it is said to be base64 and is not, or holds text that UTF-8 can't write.
    """
    if key is None:
        return None
    return _from_base64(key, "key") if encoding == "base64" else _text(key, "key")


def encode_headers(headers: dict[str, str] | None) -> list[tuple[str, bytes]]:
    """Return headers as Kafka keeps them.

    Raises:
        InvalidArguments: one holds text that UTF-8 can't write.
    """
    for name in headers or ():
        _text(name, "headers")
    return [(name, _text(value, f"headers.{name}")) for name, value in (headers or {}).items()]


def _text(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArguments.of(field, "holds half of a surrogate pair, which UTF-8 can't write") from None


def _from_base64(text: JsonValue, field: str) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidArguments.of(field, "is not base64, which `encoding` says it is")


def decode_record(record: Record) -> Message:
    """Return a stored record as callers read it."""
    value, encoding = _decoded(record.value, scalars=True)
    key, key_encoding = _decoded(record.key, scalars=False)
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=utc(record.timestamp),
        key=key,
        key_encoding=key_encoding,
        value=value,
        encoding=encoding,
        headers=_headers(record),
    )


def record_size(record: Record) -> int:
    """Return how much of a caller's `max_bytes` a record takes."""
    return (
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in record.headers)
    )


def utc(milliseconds: int | None) -> datetime | None:
    """Return a time of Kafka's as a datetime; None if there is none or no calendar holds it."""
    if milliseconds is None or milliseconds < 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    except (OverflowError, ValueError, OSError):
        return None


def _decoded(raw: bytes | None, *, scalars: bool) -> tuple[JsonValue, Encoding | None]:
    """Return the value that bytes stand for and how it was found.

    Numbers become numbers only if nothing is lost: `1.10` and `007` stay text. Keys that are a bare JSON
    scalar stay text altogether, since keys are strings when they are published.
    """
    if raw is None:
        return None, None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"
    if scalars or text[:1] in ("{", "["):
        try:
            value: JsonValue = from_json(raw, allow_inf_nan=False)
        except ValueError:
            return text, "text"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or to_json(value) == raw.strip():
            return value, "json"
    return text, "text"


def _headers(record: Record) -> Headers:
    headers: Headers = {}
    for name, raw in record.headers:
        value = _header_value(raw)
        if name not in headers:
            headers[name] = value
        else:
            earlier = headers[name]
            headers[name] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
    return headers


def _header_value(raw: bytes | None) -> HeaderValue:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Base64Header(base64=base64.b64encode(raw).decode())
