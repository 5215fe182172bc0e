"""`switchboard.toml` as it is written, and where things stand in it."""

import re
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError

from app.guard.limits import Rate
from app.guard.rules import RuleAsWritten
from app.settings import PATH_PREFIX

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    rf"(?P<path>(?:{PATH_PREFIX.pattern})?)",
    re.IGNORECASE,
)


class PolicyMistake(ValueError):
    """The file is wrong; each line of the message begins with `<file>:<line>:`."""


def _rate(text: str) -> str:
    Rate.read(text)
    return text


def _public_url(text: str) -> str:
    """Return an address as browsers write it, without a slash at its end."""
    if "@" in text:
        raise ValueError("leave out who signs in there: the file holds no secret, and everybody is told this address")
    found = _ADDRESS.fullmatch(text.rstrip("/"))
    if found is None or int(found["port"] or 0) >= 1 << 16:
        raise ValueError("expected an address such as https://switchboard.example.com or https://example.com/gw")
    scheme, port = found["scheme"].lower(), found["port"]
    own_port = port and int(port) != {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{found['host'].lower()}{f':{int(port)}' if own_port else ''}{found['path']}"


RateAsWritten = Annotated[str, AfterValidator(_rate)]
RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
RulesAsWritten = Annotated[dict[str, RuleAsWritten], Field(min_length=1)]
"""By argument."""


class RoleAsWritten(BaseModel):
    """`[role.<name>]`."""

    model_config = ConfigDict(extra="forbid")

    allow: list[str] = []
    deny: list[str] = []
    limit: RateAsWritten | None = None
    limits: dict[str, RateAsWritten] = {}
    bound: Literal["customer"] | None = None
    tool: dict[str, RulesAsWritten] = {}


class AuthAsWritten(BaseModel):
    """`[auth]`."""

    model_config = ConfigDict(extra="forbid")

    public_url: Annotated[str, AfterValidator(_public_url)] | None = None
    """Where callers reach the gateway, without a slash at its end."""
    public_pages: StrictBool = False
    """Whether the pages and `/openapi.json` are shown to those without a key."""
    local_role: RoleName | None = None
    """The role of whoever launches `switchboard stdio` without a key."""


class FileAsWritten(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    auth: AuthAsWritten | None = None
    role: dict[RoleName, RoleAsWritten] = {}
    tool: dict[str, RulesAsWritten] = {}
    limits: dict[str, RateAsWritten] = {}


def read_policy(path: Path) -> "tuple[FileAsWritten, Places]":
    """Read a file, and where things stand in it. Whether what it names exists is not looked at.

    Raises:
        PolicyMistake: it can't be read, is no TOML, or has what no such file has.
    """
    try:
        text = path.read_text("utf-8-sig")  # some editors begin a file with a mark that TOML does not know
    except OSError as error:
        raise PolicyMistake(f"{path}: {error.strerror}; --config or SWITCHBOARD_CONFIG says which file it is") from None
    except UnicodeDecodeError as error:
        raise PolicyMistake(f"{path}:{error.object[: error.start].count(10) + 1}: not UTF-8") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise PolicyMistake(f"{path}:{line[1] if line else len(text.splitlines())}: {error}") from None
    except RecursionError:
        raise PolicyMistake(f"{path}: lists or tables stand in each other too deeply") from None
    places = Places(path, text)
    try:
        return FileAsWritten.model_validate(content), places
    except ValidationError as error:
        lines = [f"{places.of(*each['loc'])}: {_told(each)}" for each in error.errors(include_url=False)]
        raise PolicyMistake("\n".join(dict.fromkeys(lines))) from None


def entries_of(written: FileAsWritten) -> Iterator[str]:
    """Iterate over what the roles of a file allow and deny."""
    return (entry for role in written.role.values() for entry in (*role.allow, *role.deny))


def servers_named(written: FileAsWritten) -> set[str]:
    """Return the servers that a file names by their names; not those of resources' addresses."""
    narrowed = [name for role in written.role.values() for name in (*role.tool, *role.limits)]
    named = (*entries_of(written), *narrowed, *written.tool, *written.limits)
    return {name.partition(":")[0] for name in named if "://" not in name}


def names_resources(written: FileAsWritten) -> bool:
    """Tell whether a file names a resource by its address, which may be any server's."""
    return any("://" in entry for entry in entries_of(written))


_A_TABLE = "expected a table"
_IN_WORDS = {
    "list_type": 'expected a list, such as ["database:read"]',
    "string_type": "expected a text in quotes",
    "bool_type": "expected true or false, without quotes",
    "dict_type": _A_TABLE,
    "model_type": _A_TABLE,
    "model_attributes_type": _A_TABLE,
    "too_short": "expected at least one; leave it out if there is none",
    "literal_error": 'expected "customer"; leave it out in a role for callers who are bound to nobody',
    "string_pattern_mismatch": "the name of a role has small letters, digits and `_`, and begins with a letter",
}
"""Of pydantic's refusals that speak of Python, in words of those who write the file."""


def _told(mistake: Any) -> str:
    place = tuple(map(str, mistake["loc"]))
    message: str = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        known = _known_beside(place)
        near = get_close_matches(place[-1], known, n=1)
        message = "nothing of that name is known here; "
        message += f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{'.'.join(place)}: {_IN_WORDS.get(mistake['type'], message)}"


def _known_beside(place: tuple[str, ...]) -> list[str]:
    """Return what may stand where something does that is not known there."""
    match place:
        case (_,):
            table: type[BaseModel] = FileAsWritten
        case ("auth", _):
            table = AuthAsWritten
        case ("role", _, _):
            table = RoleAsWritten
        case _:
            table = RuleAsWritten
    return [field.alias or name for name, field in table.model_fields.items()]


class Places:
    """Where things stand in a TOML file, whose parser does not tell.

    Args:
        path: of the file.
        text: its content.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._tables: list[tuple[tuple[str, ...], int]] = [((), 0)]
        """The keys of each table, and the line where it begins."""
        for number, line in enumerate(self._lines):
            if line.lstrip().startswith("[") and (keys := _header(line)):
                self._tables.append((keys, number))

    def of(self, *keys: str | int) -> str:
        """Return `<file>:<line>` of the innermost of these keys that can be found, or of the file's beginning."""
        path = tuple(map(str, keys))
        if whole := [(len(table), line) for table, line in self._tables if table[: len(path)] == path]:
            return f"{self._path}:{min(whole)[1] + 1}"
        held = [at for at, (table, _) in enumerate(self._tables) if path[: len(table)] == table]
        at = max(held, key=lambda at: len(self._tables[at][0]))
        table, line = self._tables[at]
        end = self._tables[at + 1][1] if at + 1 < len(self._tables) else len(self._lines)
        for key in path[len(table) :]:
            line = next((number for number in range(line, end) if _names(self._lines[number], key)), line)
        return f"{self._path}:{line + 1}"


def _header(line: str) -> tuple[str, ...]:
    """Return the keys of the table that a line begins; none if it begins none."""
    try:
        found: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys: list[str] = []
    while isinstance(found, dict) and found:
        [(key, found)] = cast("dict[str, Any]", found).items()
        keys.append(key)
    return tuple(keys)


def _names(line: str, key: str) -> bool:
    """Whether a key stands in a line as a word of its own."""
    return re.search(rf"(?<![\w:]){re.escape(key)}(?![\w:])", line.partition("#")[0]) is not None
