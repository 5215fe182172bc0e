"""What an argument may be: rules on parsed arguments, filled in with whom the principal is bound to.

They are held against what the tool will use, never against the caller's spelling of it: `{"sql": …}` for `query` and a
nested `interaction_data` are other spellings, and a rule on the raw JSON would let each walk past.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, model_validator

PLACEHOLDER = "{customer}"
"""Stands for the customer to which a principal is bound."""
_BRACES = re.compile(r"\{[^{}]*\}?|\}")
_NAME = re.compile(r"\S{1,64}")
_SLASH = re.compile(r"[/\\\u2044\u2215\u29f8\u2216\u29f5\u29f9]")
"""What parts a path, and what some code pages of Windows make that of."""
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that nobody sees, and that some drop."""
_DROPPED = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""Letters and marks that nobody sees either, and that are right after an emoji."""
_DOT = re.compile("[\u3002\uff61]")
"""What names of hosts take for a dot."""


def _value(given: Any) -> str | int:
    if not isinstance(given, str | int):
        raise ValueError("expected a text in quotes, a whole number, true or false")
    return given


ValueAsWritten = Annotated[str | int, PlainValidator(_value)]
"""What an argument may be: `True` and `"5"` stay what they are."""


class RuleAsWritten(BaseModel):
    """One rule of the file: exactly one of its three forms."""

    model_config = ConfigDict(extra="forbid")

    one_of: Annotated[list[ValueAsWritten], Field(min_length=1)] | None = Field(default=None, alias="in")
    prefix: Annotated[str, Field(min_length=1)] | None = None
    set_to: ValueAsWritten | None = Field(default=None, alias="set")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError('write one of in = […], prefix = "…", set = …')
        if any(_leaves(text) for text in self.texts if text == self.prefix or PLACEHOLDER in text):
            raise ValueError("nothing stays below what has `.` or `..`, or encoded or hidden characters")
        return self

    @property
    def values(self) -> list[str | int]:
        """All that it names."""
        return [value for value in (self.prefix, self.set_to, *(self.one_of or ())) if value is not None]

    @property
    def texts(self) -> list[str]:
        """All in which a placeholder may stand."""
        return [value for value in self.values if isinstance(value, str)]

    def compiled(self, argument: str, encoding: str | None = None, place: str = "") -> "Rule":
        """Return the rule for an argument, and for the one that says how it is encoded, if there is such."""
        if self.one_of is not None:
            return Rule(argument, "in", tuple(self.one_of), encoding, place)
        if self.prefix is not None:
            return Rule(argument, "prefix", (self.prefix,), encoding, place)
        assert self.set_to is not None
        return Rule(argument, "set", (self.set_to,), encoding, place)


class Refused(Exception):
    """An argument breaks a rule. The message says what is wanted, never what was given.

    Args:
        argument: its name.
        wanted: what the rule asks for.
    """

    def __init__(self, argument: str, wanted: str) -> None:
        super().__init__(f"{argument}: {wanted}")
        self.argument = argument


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule on one argument.

    Args:
        argument: its canonical name.
        kind: `in` one of the values; with the `prefix`; `set` to the value, whatever was given.
        values: as the file has them, with placeholders.
        encoding: the argument that says how it is encoded. What is encoded is not what the backend sees, so it has to
            be left out.
        place: the line of the file that it is.
    """

    argument: str
    kind: Literal["in", "prefix", "set"]
    values: tuple[str | int, ...]
    encoding: str | None = None
    place: str = ""

    has_placeholder: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        filled = any(isinstance(value, str) and PLACEHOLDER in value for value in self.values)
        object.__setattr__(self, "has_placeholder", filled)  # frozen, and known once and for all

    @property
    def names_customer(self) -> bool:
        """Whether what it lets pass is of one customer: a prefix has to end the id, since 12 begins 123."""
        ended = PLACEHOLDER + "/" if self.kind == "prefix" else PLACEHOLDER
        return all(isinstance(value, str) and ended in value for value in self.values)

    def judge(self, given: JsonValue, customer: str | None) -> JsonValue:
        """Return the value that the tool gets.

        Args:
            given: the parsed argument, None if it was left out.
            customer: to whom the principal is bound.

        Raises:
            Refused: the value breaks the rule, or the customer's id can't be filled in without changing its meaning.
        """
        wanted = [self._filled(value, customer) for value in self.values] if self.has_placeholder else self.values
        if self.kind == "set":
            return wanted[0]
        if self.kind == "in":
            # By type as well: `True == 1`.
            if any(type(given) is type(value) and given == value for value in wanted):
                return given
            raise Refused(self.argument, f"must be one of {', '.join(map(_shown, wanted))} here")
        prefix = wanted[0]
        assert isinstance(prefix, str)
        if not isinstance(given, str) or not given.startswith(prefix):
            raise Refused(self.argument, f"must begin with {prefix!r} here")
        if _leaves(given[len(prefix) :]):
            raise Refused(self.argument, f"must stay below {prefix!r}: no `..`, no encoded or hidden characters")
        return given

    def _filled(self, value: str | int, customer: str | None) -> str | int:
        if not isinstance(value, str) or PLACEHOLDER not in value:
            return value
        if customer is None or not fits_anywhere(customer):
            raise Refused(self.argument, "can't be told for whom this session is")
        return value.replace(PLACEHOLDER, customer)


def _shown(value: str | int) -> str:
    """Return a value as callers write it; true and false are not Python's."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _leaves(rest: str) -> bool:
    """Whether what follows a prefix means something above it to whatever decodes or normalizes paths on the way."""
    return any(
        reading is None
        or any(unicodedata.category(character) in _HIDDEN for character in reading)
        # Some servers cut parameters off a segment, and some the blanks at its end.
        or any(_is_dots(segment.partition(";")[0]) for segment in _SLASH.split(reading))
        for reading in _readings(rest)
    )


def _is_dots(segment: str) -> bool:
    """Whether a segment is `.` or `..` to somebody."""
    if not segment.isascii():
        segment = _DOT.sub(".", _DROPPED.sub("", segment))
    return segment.strip() in (".", "..")


def is_name(text: str) -> bool:
    """Tell whether this can be the name of a customer or a tenant: rules can fill it in, and lists show it as it is."""
    return _NAME.fullmatch(text) is not None and fits_anywhere(text)


def fits_anywhere(name: str) -> bool:
    """Whether a name is one segment of a path and nothing else, and stays what it is when decoded or normalized."""
    return (
        list(_readings(name)) == [name]
        and name != ""
        and ".." not in name
        and not _is_dots(name)
        and not _SLASH.search(name)
        and not _DROPPED.search(name)
        and not any(unicodedata.category(character) in _HIDDEN for character in name)
    )


def _readings(text: str) -> Iterator[str | None]:
    """Iterate over what a text becomes when it is decoded again and again; None if that does not come to an end."""
    yield text
    for _ in range(3):
        decoded = unicodedata.normalize("NFKC", unquote(text, errors="surrogateescape"))
        if decoded == text:
            return
        text = decoded
        yield text
    yield None


def unknown_placeholders(text: str) -> list[str]:
    """Return the braces of a text that stand for nothing that is known."""
    return [found for found in _BRACES.findall(text) if found != PLACEHOLDER]
