"""Messages as callers write and read them, and the bytes that Kafka keeps."""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, JsonValue, SkipValidation
from pydantic_core import to_json

from app import exact_json
from app.errors import InvalidArguments
from app.results import RawResult, Result, writer_of
from app.services.kafka.driver import Record

Encoding = Literal["json", "text", "base64", "schema_registry"]

_HALF_A_PAIR = "holds half of a surrogate pair, which UTF-8 can't write"
_MOST_LEVELS = 100
"""Levels of lists and objects that are decoded. Callers' parsers end at 200, and an answer wraps values in some."""
_HIGHEST_SCHEMA_ID = 2**24 - 1
"""Registries count from 1. Far beyond what one reaches, four bytes are something else."""
_BYTES_OF_A_LONG = 8
_PADDED_FRACTION = re.compile(r"\.\d+0(?:[eE]|$)")
_PERHAPS_PADDED = re.compile(rb"\.\d+0(?!\d)")
"""Finds the same in a whole text: perhaps in a string, which is looked at more closely then."""
_DECODED_AT_ONCE = 128 * 1024
"""Bytes that are decoded on the event loop; more than that, which takes milliseconds, is left to a thread."""


def _is_none(value: object) -> bool:
    return value is None


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
    timestamp: datetime | None = Field(description="UTC; null if no calendar holds it.")
    key: JsonValue = Field(description="Null if there is none.")
    key_encoding: Encoding | None = None
    key_schema_id: int | None = Field(None, exclude_if=_is_none, description="As `schema_id`, of the key.")
    value: SkipValidation[JsonValue] = Field(description="Null is a tombstone, which deletes the key.")
    encoding: Encoding | None = Field(
        None,
        description="`json`: decoded, nothing lost; `text`: a string as it was stored; `base64`: bytes that are no "
        "text; `schema_registry`: base64 of bytes that name a registered schema.",
    )
    schema_id: int | None = Field(
        None, exclude_if=_is_none, description="Of the schema registry, where the encoding is `schema_registry`."
    )
    headers: Headers = Field(
        default_factory=dict[str, "HeaderValue | list[HeaderValue]"],
        description="A list where a name repeats.",
    )


class PublishedMessage(Result):
    """Where a message is stored. All in-sync replicas have it."""

    topic: str
    partition: int
    offset: int = Field(description="In the partition.")
    timestamp: datetime | None
    duplicate: bool = Field(False, description="The idempotency_key was seen before; this is the first one.")


class ConsumedMessages(Result):
    """Messages in order of their offsets within each partition, and by time across partitions where possible."""

    messages: list[Message]
    next_cursor: str | None = Field(description="Give it as `cursor` to read on (browsing only).")
    reached_end: bool = Field(description="Nothing more was stored, in any partition.")
    truncated: bool = Field(description="By max_bytes, timeout_ms or load; more is there.")
    skipped: int = Field(0, description="Offsets that retention has removed: at most so many messages.")
    ack: str | None = Field(None, description="Give it back when these are dealt with (group only).")
    partitions: list[int] | None = Field(None, description="Read by this gateway now (group only).")


async def written(consumed: ConsumedMessages) -> RawResult[ConsumedMessages]:
    """Return an answer as JSON, written message by message, so that the event loop is held for no large one."""
    write = writer_of(Message)
    written: list[bytes] = []
    at_once = 0
    for message in consumed.messages:
        written.append(write(message))
        at_once += len(written[-1])
        if at_once > _DECODED_AT_ONCE:
            await asyncio.sleep(0)
            at_once = 0
    around = writer_of(ConsumedMessages)(consumed.model_copy(update={"messages": []}))
    return RawResult(around.replace(b'"messages":[]', b'"messages":[%b]' % b",".join(written), 1))


def encode_value(message: JsonValue, encoding: Literal["base64"] | None) -> bytes | None:
    """Return the bytes of a message: a string as it is, null as a tombstone, anything else as JSON.

    Raises:
        InvalidArguments: it is said to be base64 and is not, or holds what JSON or UTF-8 can't write.
    """
    if encoding == "base64":
        return _from_base64(message, "message")
    if message is None:
        return None
    if isinstance(message, str):
        return _text(message, "message")
    try:
        raw = to_json(message)
        if b"NaN" in raw or b"Infinity" in raw:  # in a text, or as the number that JSON has no word for
            json.dumps(message, allow_nan=False)
    except ValueError as error:
        if "surrogate" in str(error):
            raise InvalidArguments.of("message", _HALF_A_PAIR) from None
        raise InvalidArguments.of(
            "message",
            "holds a number that JSON can't write (NaN, or too large) or is nested too deeply; send it as text",
        ) from None
    return raw


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
        raise InvalidArguments.of(field, _HALF_A_PAIR) from None


def _from_base64(text: JsonValue, field: str) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidArguments.of(field, "is not base64, which `encoding` says it is")


async def decode_records(records: Sequence[Record]) -> list[Message]:
    """Return stored records as callers read them, without holding the event loop for a large page."""
    if sum(map(record_size, records)) <= _DECODED_AT_ONCE:
        return [_message(record) for record in records]
    decoded: list[Message] = []
    # What a thread returned would be kept by a ring of asyncio's futures, until the collector comes by.
    await asyncio.to_thread(lambda: decoded.extend(_message(record) for record in records))
    return decoded


def _message(record: Record) -> Message:
    value = _decoded(record.value)
    key = _decoded_key(record.key)
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=utc(record.timestamp),
        key=key.value,
        key_encoding=key.encoding,
        key_schema_id=key.schema_id,
        value=value.value,
        encoding=value.encoding,
        schema_id=value.schema_id,
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


class _Decoded(NamedTuple):
    value: JsonValue
    encoding: Encoding | None
    schema_id: int | None = None


def _decoded_key(raw: bytes | None) -> _Decoded:
    """Return the key that bytes stand for and how it was found: as for values, but every byte of a key counts.

    Keys are strings when they are published, so a bare JSON scalar is text; so is an object or array that would be
    written in other bytes than these, by which messages would no longer be of the same key. Eight bytes are what Java
    writes for a `long`, which names no schema even where it looks so: the time in milliseconds does.
    """
    key = _decoded(raw)
    if raw is not None and key.encoding == "json" and (raw[:1] not in (b"{", b"[") or to_json(key.value) != raw):
        return _Decoded(raw.decode(), "text")
    if raw is not None and key.encoding == "schema_registry" and len(raw) == _BYTES_OF_A_LONG:
        return _Decoded(key.value, "base64")
    return key


def _decoded(raw: bytes | None) -> _Decoded:
    """Return the value that bytes stand for and how it was found.

    JSON is decoded only if nothing is lost, at any depth: what can't be written again as the same numbers, names and
    text stays text.
    """
    if raw is None:
        return _Decoded(None, None)
    if raw[:1] == b"\0":
        # No text begins so. Serializers of a schema registry write this, the schema's id in four bytes, the data.
        schema_id = int.from_bytes(raw[1:5], "big") if len(raw) >= 5 else 0
        as_base64 = base64.b64encode(raw).decode()
        if 0 < schema_id <= _HIGHEST_SCHEMA_ID:
            return _Decoded(as_base64, "schema_registry", schema_id)
        return _Decoded(as_base64, "base64")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _Decoded(base64.b64encode(raw).decode(), "base64")
    try:
        return _Decoded(_whole_json(raw, text), "json")
    except ValueError:
        return _Decoded(text, "text")


def _whole_json(raw: bytes, text: str) -> JsonValue:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, or the value would not be all that the text says.
    """
    value: JsonValue = exact_json.read(raw, exact_json.MOST_VALUES_OF_ANSWERS)
    if isinstance(value, list | dict):
        if raw.count(b"[") + raw.count(b"{") > _MOST_LEVELS:
            _check_depth(value, _MOST_LEVELS)
        if _PERHAPS_PADDED.search(raw):
            json.loads(text, parse_float=_check_float)
    elif not isinstance(value, str) and to_json(value) != raw:
        raise ValueError("written in another way, so perhaps not meant as a number")
    return value


def _check_depth(value: JsonValue, levels: int) -> None:
    if isinstance(value, list | dict):
        if not levels:
            raise ValueError("nested too deeply")
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, levels - 1)


def _check_float(digits: str) -> None:
    if _PADDED_FRACTION.search(digits):
        raise ValueError("a fraction would lose its last digit")


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
