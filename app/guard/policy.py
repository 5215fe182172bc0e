"""What roles may do: `switchboard.toml`, read once at start and compiled into one look-up a call.

A mistake in it stops the start and names its line: a rule that is never reached, for it is misspelt, protects nobody.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from app.guard.limits import Rate
from app.guard.policy_check import doubts, mistakes
from app.guard.policy_file import FileAsWritten, Places, PolicyMistake, RoleAsWritten, entries_of, read_policy
from app.guard.principal import DEVELOPER
from app.guard.rules import Rule, RuleAsWritten
from app.guard.vocabulary import (
    OPERATORS,
    PROMPT,
    PROMPTS,
    Known,
    Vocabulary,
    expanded,
    tool_named,
    with_prompts,
)


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
        self, written: FileAsWritten, vocabulary: Vocabulary, places: Places, later: Set[str] = frozenset()
    ) -> None:
        self.public_url = written.auth.public_url if written.auth else None
        self.has_auth = written.auth is not None
        """Whether callers have to show who they are."""
        self.public_pages = written.auth is not None and written.auth.public_pages
        self.local_role = written.auth.local_role if written.auth else None
        vocabulary = with_prompts(vocabulary, entries_of(written))
        vocabulary |= {name: dict.fromkeys(scopes, Known()) for name, scopes in OPERATORS.items()}
        whole = [f"{server}:write" for server in vocabulary if server not in OPERATORS]
        everything = RoleAsWritten(
            allow=[*whole, *(f"{name}:{scope}" for name, scopes in OPERATORS.items() for scope in scopes)]
        )
        self.roles: Mapping[str, RoleAsWritten] = {DEVELOPER: everything, **written.role}
        self._written = written
        self._vocabulary = vocabulary
        self._places = places
        self._compiled: dict[tuple[frozenset[str], bool], Rights] = {}
        found = list(mistakes(written, vocabulary, places))
        fatal = [f"{mistake.place}: {mistake.reason}" for mistake in found if mistake.server not in later]
        if fatal:
            raise PolicyMistake("\n".join(dict.fromkeys(fatal)))
        self.misfits: Mapping[tuple[str, str], str] = {
            (mistake.server, mistake.name): f"{mistake.place}: {mistake.reason}"
            for mistake in reversed(found)
            if mistake.restricts
        }
        """Restrictions that don't fit what a server has come up with, by server and tool. Such a tool is turned off."""
        self.doubts: Sequence[str] = list(doubts(written, vocabulary, places))
        """What is no mistake, and yet is hardly what was meant; each begins with its line."""
        self._everywhere = {
            key: self._compiled_rules(key, rules, "tool", tool)
            for tool, rules in written.tool.items()
            if (key := tool_named(tool, vocabulary))
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

    def has_role(self, name: str) -> bool:
        """Tell whether the file has a role of this name."""
        return name in self._written.role

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

    def prompt(self, server: str, name: str | None) -> str:
        """Return what rights to a prompt are called by: its own name if the file has it, or that of all others.

        Args:
            server: the server's id.
            name: of the prompt; None for what else a server does itself for methods of the protocol.
        """
        own = f"{PROMPT}{name}"
        return own if name is not None and own in self._vocabulary.get(server, {}) else PROMPTS

    def prompts(self, server: str) -> list[str]:
        """Return what rights to prompts of a server may be called by."""
        return [name for name in self._vocabulary.get(server, {}) if name.startswith(PROMPT)]

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
        if name is None:
            return wide
        if name.startswith(PROMPT):
            wide.insert(0, f"{server}:{PROMPTS}")
        return list(dict.fromkeys((self.scope_of(server, name), *wide)))

    def denied_by(self, roles: frozenset[str], server: str, name: str, *, bound: bool) -> tuple[str, str] | None:
        """Return the role, of some, that denies something, and the line where it does; None if none does."""
        held = (role for role in sorted(roles & self.roles.keys()) if bound or self.roles[role].bound is None)
        entries = ((role, entry) for role in held for entry in self.roles[role].deny)
        for role, entry in entries:
            if (server, name) in expanded(entry, self._vocabulary):
                return role, self._place(role, "deny", entry)
        return None

    def unbound(self, roles: frozenset[str]) -> list[tuple[str, str]]:
        """Return the roles that hold only for callers who are bound to a customer, each with the line that says so."""
        wanting = (role for role in sorted(roles & self.roles.keys()) if self.roles[role].bound)
        return [(role, self._place(role, "bound")) for role in wanting]

    def described(self) -> Iterator[dict[str, Any]]:
        """Iterate over the roles as the file has them, each with its place."""
        for name, role in self.roles.items():
            written = role.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            rules = written.pop("tool", {})
            yield {"name": name, "place": self._place(name), **written, "rules": rules}

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
        denied = {key for role in held.values() for entry in role.deny for key in expanded(entry, self._vocabulary)}
        grants: dict[tuple[str, str], tuple[Grant, ...]] = {}
        for name, role in held.items():
            rules = {
                key: self._compiled_rules(key, written, "role", name, "tool", tool)
                for tool, written in role.tool.items()
                if (key := tool_named(tool, self._vocabulary))
            }
            allowed = {key: entry for entry in reversed(role.allow) for key in expanded(entry, self._vocabulary)}
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
