"""Where a reader begins, as callers say it, and the cursor by which it reads on."""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, WithJsonSchema
from pydantic_core import to_json

from app.errors import UNNAMED, InvalidArguments

MAX_MESSAGES = 1000
"""Messages of one answer."""

_LARGEST = 2**63 - 1
Offset = Annotated[int, Field(ge=0, le=_LARGEST)]


_EPOCH = datetime.fromtimestamp(0, UTC)
_PERHAPS_MILLISECONDS = re.compile(r"0|[1-9][0-9]{0,18}")
_DATE_IN_DIGITS = re.compile(r"[0-9]{8}|[0-9]{14}|(?:19|20)[0-9]{2}(?:[0-9]{2}|[0-9]{8})?")
"""20261122 and 20261122152107 are dates to who writes them; as milliseconds they would be in 1970 and in 2612. So are
2026, 202611 and 202611221521."""


def _milliseconds(moment: Any) -> int:
    """Read a time as callers write it; what is finer than a millisecond is cut off."""
    if isinstance(moment, str):
        text = moment.strip()
        if _PERHAPS_MILLISECONDS.fullmatch(text) and not _DATE_IN_DIGITS.fullmatch(text):
            moment = int(text)
        else:
            moment = _milliseconds_of_date(text)
    if isinstance(moment, bool) or not isinstance(moment, int) or not 0 <= moment <= _LARGEST:
        raise ValueError("expected an ISO 8601 time or milliseconds, and none before 1970")
    return moment


def _milliseconds_of_date(text: str) -> int:
    try:
        parsed = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("expected an ISO 8601 time such as 2026-11-22T15:21:07.131Z, or milliseconds") from None
    if parsed.tzinfo is None:
        raise ValueError("an ISO 8601 time needs its offset from UTC, such as `Z`")
    return (parsed - _EPOCH) // timedelta(milliseconds=1)


Milliseconds = Annotated[
    int,
    BeforeValidator(
        _milliseconds, json_schema_input_type=Annotated[str, Field(json_schema_extra={"format": "date-time"})] | int
    ),
    Field(ge=0, lt=2**63),
]
"""A moment, in Kafka's milliseconds since 1970. Callers may write ISO 8601 with an offset instead."""


class FromOffset(BaseModel):
    """Begin at an offset of one partition."""

    model_config = ConfigDict(extra="forbid")

    offset: Offset


class FromTimestamp(BaseModel):
    """Begin at the first message that is not older."""

    model_config = ConfigDict(extra="forbid")

    timestamp: Milliseconds


class FromTail(BaseModel):
    """Begin so that the last n messages of the topic are read."""

    model_config = ConfigDict(extra="forbid")

    tail: int = Field(ge=1, le=MAX_MESSAGES)


_WORD = f"{UNNAMED}word"


def _kind_of_start(start: Any) -> str | None:
    if isinstance(start, str):
        return _WORD if start in ("earliest", "latest") else None
    if isinstance(start, dict):
        keys = cast("dict[str, Any]", start).keys() & {"offset", "timestamp", "tail"}
        return UNNAMED + next(iter(keys)) if len(keys) == 1 else None
    return None


_START: dict[str, Any] = {
    "anyOf": [
        {"enum": ["earliest", "latest"], "type": "string"},
        {
            "type": "object",
            "properties": {
                "offset": {"type": "integer", "minimum": 0},
                "timestamp": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]},
                "tail": {"type": "integer", "minimum": 1, "maximum": MAX_MESSAGES},
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
    ]
}
"""The same in fewer words than one object for each way to begin."""

Start = Annotated[
    Annotated[Literal["earliest", "latest"], Tag(_WORD)]
    | Annotated[FromOffset, Tag(f"{UNNAMED}offset")]
    | Annotated[FromTimestamp, Tag(f"{UNNAMED}timestamp")]
    | Annotated[FromTail, Tag(f"{UNNAMED}tail")],
    Discriminator(
        _kind_of_start,
        custom_error_type="start",
        custom_error_message='expected "earliest", "latest", {"offset": n}, {"timestamp": t} or {"tail": n}',
    ),
    WithJsonSchema(_START),
]
"""Where a reader may begin."""


class Cursor(BaseModel):
    """Where a reader stands. It is no secret and holds nothing that the reader may not choose anyway."""

    model_config = ConfigDict(extra="forbid")

    topic: str = Field(alias="t")
    offsets: dict[Annotated[int, Field(ge=0)], Offset] = Field(alias="o")
    whole: bool = Field(alias="w")
    """All partitions are read, so that one which is added later is read from its beginning."""

    @classmethod
    def at(cls, topic: str, offsets: Mapping[int, int], *, whole: bool) -> Self:
        """Return the cursor of a position."""
        return cls(t=topic, o=dict(offsets), w=whole)

    def write(self) -> str:
        """Return the cursor as an opaque string."""
        return base64.urlsafe_b64encode(to_json(self, by_alias=True)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str, topic: str) -> Self:
        """Read a cursor.

        Raises:
            InvalidArguments: it is none, or one of another topic.
        """
        try:
            cursor = cls.model_validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValidationError, binascii.Error, ValueError):
            raise InvalidArguments.of("cursor", "is not a cursor of this server; take next_cursor as it is") from None
        if cursor.topic != topic:
            raise InvalidArguments.of("cursor", "is a cursor of another topic")
        return cursor
