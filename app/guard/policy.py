"""What roles may do: `switchboard.toml`, read once at start and compiled into one look-up a call.

A mistake in it stops the start and names its line: a rule that is never reached, for it is misspelt, protects nobody.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.catalogue import Catalogue
from app.guard.limits import Rate
from app.guard.principal import DEVELOPER
from app.guard.rules import PLACEHOLDER, Rule, RuleAsWritten, unknown_placeholders
from app.servers.dynamic import DynamicTool

PROMPTS = "prompt/*"
"""What a server does itself for methods of the protocol, prompts before all; which there are it says at run time."""


OPERATORS: Mapping[str, tuple[str, ...]] = {"console": ("read", "act"), "metrics": ("read",)}
"""What operators may be allowed beside what servers offer, as `console:read`; never to who is bound to a customer."""


class PolicyMistake(ValueError):
    """The file is wrong; each line of the message begins with `<file>:<line>:`."""


def _rate(text: str) -> str:
    Rate.read(text)
    return text


RateAsWritten = Annotated[str, AfterValidator(_rate)]


class RoleAsWritten(BaseModel):
    """`[role.<name>]`."""

    model_config = ConfigDict(extra="forbid")

    allow: list[str] = []
    deny: list[str] = []
    limit: RateAsWritten | None = None
    limits: dict[str, RateAsWritten] = {}
    bound: Literal["customer"] | None = None
    tool: dict[str, dict[str, RuleAsWritten]] = {}


class AuthAsWritten(BaseModel):
    """`[auth]`."""

    model_config = ConfigDict(extra="forbid")

    public_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] | None = None
    public_pages: bool = False
    """Whether the pages and `/openapi.json` are shown to those without a key."""
    local_role: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] | None = None
    """The role of whoever launches `switchboard stdio` without a key."""


class FileAsWritten(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    auth: AuthAsWritten | None = None
    role: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], RoleAsWritten] = {}
    tool: dict[str, dict[str, RuleAsWritten]] = {}
    limits: dict[str, RateAsWritten] = {}


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to know of something that a server offers.

    Args:
        read_only: whether it changes nothing.
        arguments: the names of a tool's arguments, None where they are known later.
        tool: whether it is a tool; else it is a resource's template or `prompt/<name>`.
        encodings: the arguments that say how other ones are encoded, by these.
    """

    read_only: bool = True
    arguments: frozenset[str] | None = frozenset()
    tool: bool = False
    encodings: Mapping[str, str] = field(default_factory=dict[str, str])


Vocabulary = Mapping[str, Mapping[str, Known]]
"""What each server offers, by name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role's leave to do one thing.

    Args:
        role: its name.
        scope: the entry of `allow` that grants it.
        rules: the rules that its arguments have to pass, all of them.
        place: the line of the file that grants it.
    """

    role: str
    scope: str
    rules: tuple[Rule, ...]
    place: str


@dataclass(frozen=True, slots=True)
class NarrowLimit:
    """A limit for a server or a tool.

    Args:
        scope: which, as the file names it.
        rate: how often.
        shared: whether all callers have it together, else each has it alone.
    """

    scope: str
    rate: Rate
    shared: bool


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to do one thing, of all roles of a principal together."""

    what: str
    """The thing, as `server:name`."""
    grants: tuple[Grant, ...]
    """Each of the roles' own. A call needs one whose rules it passes."""
    ruled: tuple[tuple[Rule, ...], ...] | None
    """The rules of each, where it is allowed with some arguments only."""
    rate: Rate | None
    """The highest limit of the roles, for all that they allow together; None where one of them has none."""
    narrow: tuple[NarrowLimit, ...]
    """The limits that it has of its own."""


Rights = Mapping[tuple[str, str], Permit]
"""What the roles of a principal come to, by server and name. What is not here is not allowed."""


class Policy:
    """The file, compiled against what is offered.

    Args:
        written: the file's content.
        vocabulary: what is offered.
        places: where things stand in the file, for messages.
        later: servers whose tools are known at run time. What does not fit one of them stops nobody's start.

    Raises:
        PolicyMistake: it names something that does not exist; each mistake has a line of the message.
    """

    def __init__(
        self, written: FileAsWritten, vocabulary: Vocabulary, places: "Places", later: Set[str] = frozenset()
    ) -> None:
        self.public_url = written.auth.public_url if written.auth else None
        self.has_auth = written.auth is not None
        """Whether callers have to show who they are."""
        self.public_pages = written.auth is not None and written.auth.public_pages
        self.local_role = written.auth.local_role if written.auth else None
        vocabulary = {**vocabulary, **{name: dict.fromkeys(scopes, Known()) for name, scopes in OPERATORS.items()}}
        whole = [f"{server}:write" for server in vocabulary if server not in OPERATORS]
        everything = RoleAsWritten(
            allow=[*whole, *(f"{name}:{scope}" for name, scopes in OPERATORS.items() for scope in scopes)]
        )
        self.roles: Mapping[str, RoleAsWritten] = {DEVELOPER: everything, **written.role}
        self._written = written
        self._vocabulary = vocabulary
        self._places = places
        self._compiled: dict[tuple[frozenset[str], bool], Rights] = {}
        mistakes = list(_mistakes(written, vocabulary, places))
        fatal = [f"{mistake.place}: {mistake.reason}" for mistake in mistakes if mistake.server not in later]
        if fatal:
            raise PolicyMistake("\n".join(dict.fromkeys(fatal)))
        self.misfits: Mapping[tuple[str, str], str] = {
            (mistake.server, mistake.name): f"{mistake.place}: {mistake.reason}"
            for mistake in reversed(mistakes)
            if mistake.restricts
        }
        """Restrictions that don't fit what a server has come up with, by server and tool. Such a tool is turned off."""
        self._everywhere = {
            key: self._compiled_rules(key, rules, "tool", tool)
            for tool, rules in written.tool.items()
            if (key := _tool(tool, vocabulary))
        }

    @classmethod
    def load(cls, path: Path, vocabulary: Vocabulary, later: Set[str] = frozenset()) -> Self:
        """Read a file and compile it.

        Raises:
            PolicyMistake: it can't be read, is no TOML, or says what is not known.
        """
        written, places = read_policy(path)
        return cls(written, vocabulary, places, later)

    @classmethod
    def without_file(cls, vocabulary: Vocabulary) -> Self:
        """Return what holds where there is no file: `developer` may do everything, and nobody else anything."""
        return cls(FileAsWritten(), vocabulary, Places(Path("switchboard.toml"), ""))

    def rights(self, roles: frozenset[str], *, bound: bool) -> Rights:
        """Return what a principal of these roles may do; the same object each time.

        Args:
            roles: unknown ones, of a key that is older than the file, grant nothing.
            bound: whether the principal is bound to a customer; roles that want that are none without it.
        """
        key = roles, bound
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(roles, bound=bound)
        return found

    def scope_of(self, server: str, name: str | None) -> str:
        """Return the narrowest scope that grants something, as the file has it."""
        if name is None:
            return server
        return name.partition("{?")[0] if "://" in name else f"{server}:{name}"

    def scopes_for(self, server: str, name: str | None) -> list[str]:
        """Return the scopes each of which grants something, the narrowest first; None as its name means the server."""
        known = Known() if name is None else self._vocabulary.get(server, {}).get(name)
        if known is None:
            return []
        if server in OPERATORS:
            return [f"{server}:{name}"]
        wide = [f"{server}:read", f"{server}:write"] if known.read_only else [f"{server}:write"]
        return wide if name is None else [self.scope_of(server, name), *wide]

    def denied_by(self, roles: frozenset[str], server: str, name: str, *, bound: bool) -> tuple[str, str] | None:
        """Return the role, of some, that denies something, and the line where it does; None if none does."""
        held = (role for role in sorted(roles & self.roles.keys()) if bound or self.roles[role].bound is None)
        entries = ((role, entry) for role in held for entry in self.roles[role].deny)
        for role, entry in entries:
            if (server, name) in _expanded(entry, self._vocabulary):
                return role, self._place(role, "deny", entry)
        return None

    def unbound(self, roles: frozenset[str]) -> list[tuple[str, str]]:
        """Return the roles that hold only for callers who are bound to a customer, each with the line that says so."""
        wanting = (role for role in sorted(roles & self.roles.keys()) if self.roles[role].bound)
        return [(role, self._place(role, "bound")) for role in wanting]

    def _compiled_rules(
        self, tool: tuple[str, str], rules: Mapping[str, RuleAsWritten], *place: str
    ) -> tuple[Rule, ...]:
        encodings = self._vocabulary[tool[0]][tool[1]].encodings
        return tuple(
            rule.compiled(argument, encodings.get(argument), self._places.of(*place, argument))
            for argument, rule in rules.items()
        )

    def _place(self, role: str, *keys: str) -> str:
        return self._places.of("role", role, *keys) if role in self._written.role else f"the built-in role {role}"

    def _compile(self, roles: frozenset[str], *, bound: bool) -> Rights:
        held = {name: self.roles[name] for name in sorted(roles) if name in self.roles}
        held = {name: role for name, role in held.items() if bound or role.bound is None}
        denied = {key for role in held.values() for entry in role.deny for key in _expanded(entry, self._vocabulary)}
        grants: dict[tuple[str, str], tuple[Grant, ...]] = {}
        for name, role in held.items():
            rules = {
                key: self._compiled_rules(key, written, "role", name, "tool", tool)
                for tool, written in role.tool.items()
                if (key := _tool(tool, self._vocabulary))
            }
            allowed = {key: entry for entry in reversed(role.allow) for key in _expanded(entry, self._vocabulary)}
            for key, entry in allowed.items():
                if bound and key[0] in OPERATORS:
                    continue
                if key not in denied and key not in self.misfits:
                    held_to = (*self._everywhere.get(key, ()), *rules.get(key, ()))
                    grant = Grant(name, entry, held_to, self._place(name, "allow", entry))
                    grants[key] = (*grants.get(key, ()), grant)
        limits = [role.limit for role in held.values()]
        rates = [Rate.read(limit) for limit in limits if limit is not None]
        highest = max(rates, key=lambda rate: (rate.per_second, rate.burst), default=None)
        rate = None if None in limits else highest
        permits: dict[tuple[str, str], Permit] = {}
        for key, found in grants.items():
            each = tuple(grant.rules for grant in found)
            permits[key] = Permit(":".join(key), found, each if all(each) else None, rate, self._narrow(key, found))
        return permits

    def _narrow(self, key: tuple[str, str], grants: Sequence[Grant]) -> tuple[NarrowLimit, ...]:
        """Return the limits of a server or tool: everybody's, and the highest of all roles that allow it."""
        found: list[NarrowLimit] = []
        for scope in (key[0], ":".join(key)):
            if (shared := self._written.limits.get(scope)) is not None:
                found.append(NarrowLimit(scope, Rate.read(shared), shared=True))
            own = [self.roles[grant.role].limits.get(scope) for grant in grants]
            rates = [Rate.read(limit) for limit in own if limit is not None]
            if len(rates) == len(own):
                highest = max(rates, key=lambda rate: (rate.per_second, rate.burst))
                found.append(NarrowLimit(scope, highest, shared=False))
        return tuple(found)


def read_policy(path: Path) -> "tuple[FileAsWritten, Places]":
    """Read a file, and where things stand in it. Whether what it names exists is not looked at.

    Raises:
        PolicyMistake: it can't be read, is no TOML, or has what no such file has.
    """
    try:
        text = path.read_text("utf-8-sig")  # some editors begin a file with a mark that TOML does not know
    except OSError as error:
        raise PolicyMistake(f"{path}: {error.strerror}") from None
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


def servers_named(written: FileAsWritten) -> set[str]:
    """Return the servers that a file names by their names; not those of resources' addresses."""
    roles = written.role.values()
    entries = [entry for role in roles for entry in (*role.allow, *role.deny, *role.tool, *role.limits)]
    return {entry.partition(":")[0] for entry in (*entries, *written.tool, *written.limits) if "://" not in entry}


def names_resources(written: FileAsWritten) -> bool:
    """Tell whether a file names a resource by its address, which may be any server's."""
    return any("://" in entry for role in written.role.values() for entry in (*role.allow, *role.deny))


def known_later(catalogue: Catalogue) -> set[str]:
    """Return the servers whose tools, or some of them, are known at run time."""
    run_time = {offer.kind.server_id for offer in catalogue.tools() if isinstance(offer.declared, DynamicTool)}
    return run_time | {name for name in catalogue.servers if not any(True for _ in catalogue.tools(name))}


def vocabulary_of(catalogue: Catalogue) -> Vocabulary:
    """Return what the servers of a catalogue offer, for a policy to name."""
    vocabulary: dict[str, dict[str, Known]] = {server: {} for server in catalogue.servers}
    for offer in catalogue.tools():
        tool = offer.declared
        known = Known(read_only=tool.read_only, arguments=tool.argument_names, tool=True, encodings=tool.encodings)
        vocabulary[offer.kind.server_id][tool.name] = known
    for offer in catalogue.resources():
        vocabulary[offer.kind.server_id][offer.declared.template] = Known()
    for server, kind in catalogue.servers.items():
        if kind.mcp_handlers:
            vocabulary[server][PROMPTS] = Known()
    return vocabulary


def _expanded(entry: str, vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Iterate over what an entry of `allow` or `deny`, or the name of a tool, stands for."""
    if "://" in entry:
        for server, offered in vocabulary.items():
            yield from ((server, name) for name, known in offered.items() if not known.tool and _covers(entry, name))
        return
    server, _, what = entry.partition(":")
    for name, known in vocabulary.get(server, {}).items():
        wide = server not in OPERATORS and (what == "write" or (what == "read" and known.read_only))
        if wide or what == name or (what.startswith("prompt/") and _covers(what, name)):
            yield server, name


def _covers(pattern: str, name: str) -> bool:
    """Whether a template is meant by a pattern such as `db://tickets/*`, or by its own address without variables."""
    name = name.partition("{?")[0]
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1])
    return name == pattern


@dataclass(frozen=True, slots=True)
class _Mistake:
    """What is wrong with a line of the file.

    Args:
        place: the line.
        reason: what is wrong and what is meant perhaps.
        server: that it is about.
        name: of the tool.
        restricts: whether the line would keep callers from something.
    """

    place: str
    reason: str
    server: str
    name: str
    restricts: bool = True


def _mistakes(written: FileAsWritten, vocabulary: Vocabulary, places: "Places") -> Iterator[_Mistake]:
    for name, role in written.role.items():
        for which in ("allow", "deny"):
            for entry in getattr(role, which):
                server, _, what = entry.partition(":")
                reason = _unknown(entry, vocabulary)
                if role.bound and which == "allow" and server in OPERATORS:
                    reason = f"{entry} shows what all callers do, and this role is for callers bound to a {role.bound}"
                if reason:
                    place = places.of("role", name, which, entry)
                    yield _Mistake(place, f"{which} of role {name}: {reason}", server, what, which == "deny")
        for tool, rules in role.tool.items():
            where = ("role", name, "tool", tool)
            yield from _rule_mistakes(tool, rules, vocabulary, places, where, bound=role.bound is not None)
    local = written.auth.local_role if written.auth else None
    if local is not None and local != DEVELOPER and local not in written.role:
        reason = f"there is no role {local!r}{_suggestion(local, (*written.role, DEVELOPER))}"
        yield _Mistake(places.of("auth", "local_role"), f"local_role: {reason}", "", "")
    limited = [(("role", name, "limits"), role.limits) for name, role in written.role.items()]
    for place, limits in (*limited, (("limits",), written.limits)):
        for scope in limits:
            if (scope in vocabulary and scope not in OPERATORS) or _tool(scope, vocabulary) is not None:
                continue
            if reason := _unknown(scope, vocabulary, scopes=False):
                yield _Mistake(
                    places.of(*place, scope), reason, server=scope.partition(":")[0], name=scope.partition(":")[2]
                )
    for tool, rules in written.tool.items():
        # Nobody is bound for certain where a rule holds for every role.
        yield from _rule_mistakes(tool, rules, vocabulary, places, ("tool", tool), bound=False)


def _rule_mistakes(
    tool: str,
    rules: Mapping[str, RuleAsWritten],
    vocabulary: Vocabulary,
    places: "Places",
    place: Sequence[str],
    *,
    bound: bool,
) -> Iterator[_Mistake]:
    server, _, name = tool.partition(":")
    key = _tool(tool, vocabulary)
    known = Known(arguments=None) if key is None else vocabulary[server][name]
    if key is None and (reason := _unknown(tool, vocabulary, scopes=False)):
        yield _Mistake(places.of(*place), reason, server, name)
    for argument, rule in rules.items():
        where = places.of(*place, argument)
        if known.arguments is not None and argument not in known.arguments:
            reason = f"{tool} has no argument {argument!r}{_suggestion(argument, known.arguments)}"
            yield _Mistake(where, reason, server, name)
        for text in rule.texts:
            if PLACEHOLDER in text and not bound:
                reason = f'{PLACEHOLDER} stands for somebody only in a role with bound = "customer"'
                yield _Mistake(where, reason, "", name)
            for braces in unknown_placeholders(text):
                yield _Mistake(where, f"{braces} stands for nothing; {PLACEHOLDER} does", "", name)


def _tool(name: str, vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Return the tool that `<server>:<tool>` is; None if there is none."""
    server, _, tool = name.partition(":")
    known = vocabulary.get(server, {}).get(tool)
    return (server, tool) if known is not None and known.tool else None


def _unknown(entry: str, vocabulary: Vocabulary, *, scopes: bool = True) -> str | None:
    """Return why an entry stands for nothing; None if it does for something, or will when its server's tools are known.

    Args:
        entry: of `allow` or `deny`, or a tool that has rules.
        vocabulary: what is offered.
        scopes: whether it may be more than one tool.
    """
    if scopes and any(True for _ in _expanded(entry, vocabulary)):
        return None
    if scopes and "://" in entry:
        offered = [name.partition("{?")[0] for names in vocabulary.values() for name in names if "://" in name]
        return f"no server offers {entry!r}{_suggestion(entry, offered)}"
    server, colon, what = entry.partition(":")
    if not colon or not what:
        others = "<server>:read, <server>:write, a resource's address or " if scopes else ""
        return f"{entry!r} says nothing; write {others}<server>:<tool>"
    if server not in vocabulary:
        return f"there is no server {server!r}{_suggestion(server, vocabulary)}"
    if server in OPERATORS and not scopes:
        return f"{entry!r} takes no limit and no rules"
    if server in OPERATORS:
        return f"{entry!r} is none of {', '.join(f'{server}:{scope}' for scope in OPERATORS[server])}"
    if not vocabulary[server]:
        return None
    return f"{server} has no tool {what!r}{_suggestion(what, vocabulary[server])}"


def _suggestion(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


_IN_WORDS = {
    "extra_forbidden": "nothing of that name is known here",
    "list_type": 'expected a list, such as ["database:read"]',
    "string_type": "expected a text in quotes",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "too_short": "expected at least one value",
}
"""Of pydantic's refusals that speak of Python, in words of those who write the file."""


def _told(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    message: str = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "string_pattern_mismatch" and mistake["loc"][-1] in ("[key]", "local_role"):
        message = "the name of a role has small letters, digits and `_`, and begins with a letter"
    return f"{where}: {_IN_WORDS.get(mistake['type'], message)}"


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
