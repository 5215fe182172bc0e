"""Names by AWS's rules, and the lists of those that callers may use.

The annotated types check an argument where it comes in; inside, names are trusted. The allowlists check
what is asked of AWS.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.errors import Forbidden

_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_ACCOUNT_AND_REGION = r"[a-z]{2}(?:-[a-z]+)+-\d:\d{12}"
_FUNCTION = re.compile(
    rf"(?P<function>(?:arn:aws[a-z-]*:lambda:{_ACCOUNT_AND_REGION}:function:|\d{{12}}:function:)?[A-Za-z0-9_-]{{1,64}})"
    r"(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]{1,128}))?"
)
_QUALIFIER = re.compile(r"\$LATEST|[A-Za-z0-9_-]{1,128}")
_LEVELS = r"/?[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,14}"
_PARAMETER = re.compile(
    rf"(?P<name>(?:arn:aws[a-z-]*:ssm:{_ACCOUNT_AND_REGION}:parameter/?)?{_LEVELS})(?::[A-Za-z0-9_.-]{{1,100}})?"
)
_PARAMETER_PATH = re.compile(rf"/|/{_LEVELS.removeprefix('/?')}/?")
_MAX_KEY_BYTES = 1024
_NAMES_SHOWN = 10
_COMPARED = 64
"""Characters by which names are compared."""


def _check_bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name) or _is_address(name):
        raise PydanticCustomError(
            "bucket_name",
            "a bucket's name has 3 to 63 lowercase letters, digits, dots and hyphens, begins and ends with a letter "
            "or digit, and is no IP address",
        )
    return name


def _is_address(name: str) -> bool:
    try:
        IPv4Address(name)
    except ValueError:
        return False
    return True


def _check_key(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= _MAX_KEY_BYTES:
        raise PydanticCustomError("object_key", "a key has 1 to 1,024 bytes of UTF-8")
    return key


def _check_function(name: str) -> str:
    if not _FUNCTION.fullmatch(name):
        raise PydanticCustomError(
            "function_name",
            "expected a function's name of at most 64 letters, digits, hyphens and underscores, or its ARN, each "
            "perhaps with `:` and a version or alias",
        )
    return name


def _check_qualifier(name: str) -> str:
    if not _QUALIFIER.fullmatch(name):
        raise PydanticCustomError("qualifier", "expected a version's number, an alias or $LATEST")
    return name


def _check_parameter(name: str) -> str:
    if not _PARAMETER.fullmatch(name):
        raise PydanticCustomError(
            "parameter_name",
            "expected levels of letters, digits, dots, hyphens and underscores between slashes, 15 at most, such as "
            "/app/plan; or an ARN; each perhaps with `:` and a version or label",
        )
    return name


def _check_parameter_path(path: str) -> str:
    if not _PARAMETER_PATH.fullmatch(path):
        raise PydanticCustomError("parameter_path", "expected a path that begins with a slash, such as /app/")
    return path


BucketName = Annotated[str, Field(min_length=3, max_length=63), AfterValidator(_check_bucket)]
ObjectKey = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_KEY_BYTES),
    AfterValidator(_check_key),
]
FunctionName = Annotated[
    str,
    Field(min_length=1, max_length=256, description="Or ARN, perhaps with `:version-or-alias`."),
    AfterValidator(_check_function),
]
Qualifier = Annotated[
    str,
    Field(min_length=1, max_length=128, description="Version or alias."),
    AfterValidator(_check_qualifier),
]
ParameterName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="Or ARN, perhaps with `:version` or `:label`.",
    ),
    AfterValidator(_check_parameter),
]
ParameterPath = Annotated[
    str,
    Field(min_length=1, max_length=2048, description="Such as `/app/`."),
    AfterValidator(_check_parameter_path),
]


def those_that_are(names: Iterable[str], asked: str) -> str:
    """Return a sentence that names what may be used in place of what was asked for, the most similar first.

    Args:
        names: of what there is.
        asked: the name that led nowhere.
    """
    # Comparing takes up to the cube of the length.
    start = asked[:_COMPARED]
    similar = sorted(set(names), key=lambda name: (-SequenceMatcher(None, start, name[:_COMPARED]).ratio(), name))
    if not similar:
        return ""
    more = f" and {len(similar) - _NAMES_SHOWN} more" if len(similar) > _NAMES_SHOWN else ""
    return f" Those that may be used: {', '.join(similar[:_NAMES_SHOWN])}{more}."


def has_qualifier(function_name: str) -> bool:
    """Tell whether a function's name ends with a version or alias."""
    found = _FUNCTION.fullmatch(function_name)
    return found is not None and found["qualifier"] is not None


class BucketAllowlist:
    """The buckets, or prefixes in buckets, that callers may use.

    Args:
        entries: `bucket` or `bucket/prefix`; none means every bucket.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self._prefixes: dict[str, tuple[str, ...]] = {}
        for entry in self.entries:
            bucket, _, prefix = entry.partition("/")
            self._prefixes[bucket] = (*self._prefixes.get(bucket, ()), prefix)

    def shows(self, bucket: str) -> bool:
        """Tell whether a bucket, or some of it, may be used."""
        return not self._prefixes or bucket in self._prefixes

    def check(self, bucket: str, key: str) -> None:
        """Return if a key, or the prefix of a listing, may be used.

        Raises:
            Forbidden: it may not; the message names the setting.
        """
        if not self._prefixes:
            return
        prefixes = self._prefixes.get(bucket)
        if prefixes is None:
            others = those_that_are(self.entries, bucket)
            raise Forbidden(f"The bucket {bucket!r} is not in AWS_ALLOWED_BUCKETS.{others}")
        if "" in prefixes:
            return
        if not key.startswith(prefixes):
            others = those_that_are((f"{bucket}/{prefix}" for prefix in prefixes), f"{bucket}/{key[:100]}")
            raise Forbidden(
                f"AWS_ALLOWED_BUCKETS allows only keys under certain prefixes of the bucket {bucket!r}.{others}"
            )
        # S3 takes `..` literally, but clients and proxies that a URL passes through may resolve it.
        if {".", ".."} & set(key.split("/")):
            raise Forbidden("Under a prefix of AWS_ALLOWED_BUCKETS, a key may not have `.` or `..` between slashes.")


@dataclass(frozen=True)
class FunctionAllowlist:
    """The functions that callers may invoke, by the form in which they are listed; none means every function."""

    entries: frozenset[str]

    def shows(self, name: str) -> bool:
        """Tell whether a function, named without version or alias, may be invoked."""
        return not self.entries or name in self.entries

    def check(self, function_name: str) -> None:
        """Return if a function may be invoked.

        A name allows the function of the gateway's own account and region; another account's needs its ARN listed.

        Raises:
            Forbidden: it may not; the message names the setting.
        """
        found = _FUNCTION.fullmatch(function_name)
        if not self.shows(found["function"] if found else function_name):
            others = those_that_are(self.entries, function_name)
            raise Forbidden(f"The function {function_name!r} is not in AWS_ALLOWED_FUNCTIONS.{others}")


class ParameterAllowlist:
    """The parameters, or paths above them, that callers may read.

    Args:
        entries: names, paths or ARNs; none means every parameter. An entry covers what is below it, level by level.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._names = tuple(entries)
        self._entries = tuple({_levels(entry) for entry in entries})

    def shows(self, name: str) -> bool:
        """Tell whether a parameter may be read."""
        found = _PARAMETER.fullmatch(name)
        levels = _levels(found["name"] if found else name)
        return not self._entries or any(levels[: len(entry)] == entry for entry in self._entries)

    def check(self, name: str) -> None:
        """Return if a parameter, or all below a path, may be read.

        Raises:
            Forbidden: it may not; the message names the setting.
        """
        if not self.shows(name):
            others = those_that_are(self._names, name)
            raise Forbidden(f"The parameter {name!r} is not under a path of AWS_ALLOWED_PARAMETER_PATHS.{others}")


def _levels(name: str) -> tuple[str, ...]:
    """Return the levels of a parameter's name: `/app` covers `/app/plan` and not `/apple`."""
    return tuple(level for level in name.split("/") if level)
