"""JSON, read so that nothing of it is lost: what would come out as something else is refused.

The parsers beneath take the last of two equal keys, the nearest double of a number (`1e999` is then infinite), 0 for
`-0` and, some of them, `NaN`. Here two equal keys and a number that would be altered are refused by their path, as
RFC 7493 wants it of those who send. Integers are exact, up to 1,000 digits. What has more values than anybody needs is
not read at all: a megabyte of `0,0,0` costs the time of a thousand calls.
"""

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Self, cast

import jiter

from app.errors import MOST_REFUSALS, path_of

_SHAPE = bytes(ord("0") if c in b"0123456789." else ord("e") if c in b"eE" else ord(" ") for c in range(256))
_LONG = b"0" * 17
"""So long is a number that may have more digits than a double keeps: 15, and the point."""
_EXPONENT = b"0e"
_NEGATIVE_ZERO = re.compile(rb"-0(?![0-9.eE])")
"""As an integer, or within a text, which is looked at more closely then."""
_NORMAL = (1e-300, 1e300)
"""Between these a double keeps 15 digits."""
BYTES_AS_BASE64 = 'bytes that are no text go in base64, where a tool takes `encoding: "base64"`'
MOST_VALUES = 20_000
"""Members and elements of a document, at all depths together: as many as all that read a call one after the other, and
refuse it, read in some 50 ms."""
MOST_VALUES_OF_ANSWERS = 100_000
"""The same of what a backend answers, which is read once."""
_AS_MANY_AS_A_LIST = 4
"""Values that take as long as a list or an object does, besides what is in it."""
_OTHERS = bytes(set(range(256)) - set(b'",]}\\'))
"""Bytes that say nothing of how many values there are."""
_MOST_WEIGHED = 4000
"""Numbers of a document that are compared digit by digit, which takes some 5 µs each."""
_LONGEST = 1000
"""Characters of a number. The longest that a double writes has 326; of an integer each reader, and each writer, takes
the square of its digits."""
_TOO_LONG = b"0" * (_LONGEST + 1)
_TOO_MANY = re.compile(rb"(?<![0-9])[1-9][0-9]{%d,}" % _LONGEST)

Place = tuple[str | int, ...]


class NotJson(ValueError):
    """It is not JSON at all. The message repeats nothing of it but a position."""


class NotExact(ValueError):
    """It is JSON, but can't be handed on as it is.

    Args:
        defects: where, and what is wrong there.
    """

    def __init__(self, defects: Sequence[tuple[Place, str]]) -> None:
        told = [(path_of(place) or "the document", why) for place, why in defects[:MOST_REFUSALS]]
        super().__init__("; ".join(f"{path}: {why}" for path, why in told))
        self.defects = defects


class ReadText(bytes):
    """A JSON text and what `read` has found it to say, so that nobody reads it again."""

    document: Any

    def __new__(cls, text: bytes, document: Any) -> Self:
        """Return the text; `document` is what it says."""
        self = super().__new__(cls, text)
        self.document = document
        return self


class _Defect(str):
    """Stands in a parsed document where it is not exact."""

    __slots__ = ()


_TWICE = _Defect("this key is there twice; send it once")
_UNWEIGHED = _Defect("too many numbers here are longer than a double needs; round them, or send them as strings")
ALTERED = _Defect("this number would be altered: a double can't hold it; round it, or send it as a string")
_TOO_MANY_DIGITS = _Defect(f"this number has more than {_LONGEST} digits; send it as a string")
_NO_SIGN = _Defect("this number would be altered: integers have no negative zero; send 0 or -0.0")


def read(text: bytes, most: int = MOST_VALUES) -> Any:
    """Return what a JSON text says.

    Args:
        text: the JSON.
        most: values that it may have.

    Raises:
        NotJson: it is none; `NaN`, `Infinity` and half surrogate pairs are not JSON.
        NotExact: what came out would not be what was sent; or it would take too long to read.
    """
    if len(text) > _LONGEST:
        refuse_what_takes_long(text, most)
    try:
        document = jiter.from_json(text, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        raise _refusal(text, error) from None
    # Most texts have no number that could be altered, and this costs next to nothing to know. (`in` would try first
    # whether what it looks for is a number, at twice the cost of the search.)
    shape = text.translate(_SHAPE)
    perhaps = shape.find(_EXPONENT) >= 0 or (text.find(b".") >= 0 and shape.find(_LONG) >= 0)
    if not perhaps and text.find(b"-0") >= 0:
        perhaps = _NEGATIVE_ZERO.search(text) is not None
    if perhaps and (defects := _altered(text)):
        raise NotExact(defects)
    return document


def _refusal(text: bytes, error: ValueError) -> NotJson | NotExact:
    if "duplicate key" in str(error):
        try:
            jiter.from_json(text, allow_inf_nan=False)  # what is behind the key was not looked at yet
        except ValueError as another:
            error = another
        else:
            return NotExact(_defects(text))
    return NotJson(why_not_json(text, str(error)))


def refuse_what_takes_long(text: bytes, most: int = MOST_VALUES) -> None:
    """Refuse a JSON text that takes long to read, by a look at it that takes none; in front of other parsers, too.

    Args:
        text: the JSON, if it is any.
        most: values that it may have.

    Raises:
        NotExact: it has more values, a list or an object counting as four more, or an integer that is too long.
    """
    if len(text) > most // 2 and count_values(text, most) > most:
        raise NotExact([((), f"it has more than {most} values; send what is so large as a string")])
    if len(text) > _LONGEST and text.translate(_SHAPE).find(_TOO_LONG) >= 0 and (defects := _too_long_integers(text)):
        raise NotExact(defects)


def count_values(text: bytes, most: int = MOST_VALUES) -> int:
    """Return how many values a JSON text has, at least and about; of many it may return any number above `most`.

    What opens is not counted: where nothing closes it, every parser gives up after some hundred.
    """
    if (all_signs := _signs(text)) <= most // 10:
        return all_signs
    # Most of what is large is one text, whatever stands in it: only what is between texts counts.
    marks = text.translate(None, _OTHERS)
    if b"\\" in marks:
        marks = marks.replace(rb"\\", b"").replace(rb"\"", b"")
    if (quotes := marks.count(b'"')) > 4 * most:
        return quotes // 4
    return _signs(b"".join(marks.split(b'"')[::2]))


def _signs(text: bytes) -> int:
    """Return how many signs there are of which each value has one: the end of its own, or what is before the next."""
    return text.count(b",") + (1 + _AS_MANY_AS_A_LIST) * (text.count(b"]") + text.count(b"}"))


def _too_long_integers(text: bytes) -> list[tuple[Place, str]]:
    """Return where integers are too long, by a parser that does not read them; nothing where it is no JSON."""

    def integer(digits: str) -> _Defect | None:
        return _TOO_MANY_DIGITS if _is_too_long(digits) else None

    try:
        document = json.loads(text, parse_float=_ignored, parse_int=integer)
        if places := list(islice(_places(document, ()), MOST_REFUSALS)):
            # It takes more than JSON, such as `NaN` and half surrogate pairs, which no path could be written with.
            jiter.from_json(_TOO_MANY.sub(b"1", text), allow_inf_nan=False)
    except (ValueError, RecursionError):
        return []  # which those who read it will say
    return places


def _is_too_long(digits: str) -> bool:
    return len(digits.lstrip("-")) > _LONGEST


def shape_of(text: bytes) -> Any:
    """Return about what a JSON text says that is refused as `NotExact`: 0 stands for an integer that is too long."""
    return json.loads(text, parse_int=lambda digits: 0 if _is_too_long(digits) else int(digits))


def _ignored(_: str) -> None:
    return None


def why_not_json(text: bytes | str, parsers: str) -> str:
    """Return why a text is no JSON; who tried to send bytes as text is told how they are sent.

    Args:
        text: what came.
        parsers: what the parser says.
    """
    if isinstance(text, bytes):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return f"byte {error.start} is no UTF-8; {BYTES_AS_BASE64}"
    about_half_a_pair = "hex escape" in parsers and BYTES_AS_BASE64 not in parsers
    return f"{parsers}; {BYTES_AS_BASE64}" if about_half_a_pair else parsers


def exact_float(digits: str) -> float | None:
    """Return the double that a JSON number is, or None if it is none exactly.

    "Exactly" is meant as people mean it: 0.1 is a double, since it is written and read as 0.1.
    """
    value = _plain_float(digits)
    return _weighed_float(digits) if value is None else value


def _plain_float(digits: str) -> float | None:
    """Return the double of a number as nearly all are written, or None for one that has to be weighed."""
    if len(digits) > _LONGEST:
        return None
    value = float(digits)
    few_digits = len(digits) < len(_LONG) and _NORMAL[0] < abs(value) < _NORMAL[1]
    return value if few_digits or repr(value) == digits else None


def _weighed_float(digits: str) -> float | None:
    """Return the double that a number is digit by digit."""
    if len(digits) > _LONGEST:
        return None
    value = float(digits)
    if value == 0:
        return None if any(d in "123456789" for d in digits.lower().partition("e")[0]) else value
    return value if value - value == 0 and Decimal(digits) == Decimal(repr(value)) else None


class _Numbers:
    """Reads the numbers of one document, at a cost that is bounded however many there are.

    Args:
        most_defects: numbers that are found to be altered; the others are not looked at.
    """

    def __init__(self, most_defects: int) -> None:
        self.defects = 0
        self._most_defects = most_defects
        self._weighed = 0

    def __call__(self, digits: str) -> float | _Defect:
        if self.defects >= self._most_defects:
            return 0.0
        value = _plain_float(digits)
        if value is not None:
            return value
        self._weighed += 1
        if self._weighed <= _MOST_WEIGHED and (value := _weighed_float(digits)) is not None:
            return value
        self.defects += 1
        return ALTERED if self._weighed <= _MOST_WEIGHED else _UNWEIGHED

    def integer(self, digits: str) -> int | _Defect:
        """Read an integer."""
        if digits != "-0" or self.defects >= self._most_defects:
            return int(digits)
        self.defects += 1
        return _NO_SIGN


def _altered(text: bytes) -> list[tuple[Place, str]]:
    numbers = _Numbers(most_defects=1)
    json.loads(text, parse_float=numbers, parse_int=numbers.integer)
    return _defects(text) if numbers.defects else []


def _defects(text: bytes) -> list[tuple[Place, str]]:
    """Return the places that are not exact, the first ones if there are many; it is called only if there are some."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in found:
            result[key] = _TWICE if key in result else value
        return result

    numbers = _Numbers(MOST_REFUSALS)
    document = json.loads(text, object_pairs_hook=pairs, parse_float=numbers, parse_int=numbers.integer)
    return list(islice(_places(document, ()), MOST_REFUSALS))


def _places(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, _Defect):
        yield place, str(value)
    elif isinstance(value, dict):
        for key, member in cast("dict[str, Any]", value).items():
            yield from _places(member, (*place, key))
    elif isinstance(value, list):
        for position, member in enumerate(cast("list[Any]", value)):
            yield from _places(member, (*place, position))
