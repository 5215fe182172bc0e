"""What is wrong with a policy's file: what stops the start, and what is only doubtful."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from app.guard.confinement import keeps_to_customer
from app.guard.policy_file import FileAsWritten, Places, RoleAsWritten
from app.guard.principal import DEVELOPER
from app.guard.rules import PLACEHOLDER, RuleAsWritten, unknown_placeholders
from app.guard.vocabulary import (
    OPERATORS,
    PROMPT,
    PROMPTS,
    Known,
    Vocabulary,
    expanded,
    is_prompt,
    is_wide,
    tool_named,
)
from app.servers.json_schema import CompiledSchema


@dataclass(frozen=True, slots=True)
class Mistake:
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


def mistakes(written: FileAsWritten, vocabulary: Vocabulary, places: Places) -> Iterator[Mistake]:
    """Iterate over what names nothing, or could never do what it says."""
    for name, role in written.role.items():
        for which in ("allow", "deny"):
            for entry in getattr(role, which):
                server, _, what = entry.partition(":")
                reason = _unknown(entry, vocabulary)
                if role.bound and which == "allow" and server in OPERATORS:
                    reason = f"{entry} shows what all callers do, and this role is for callers bound to a {role.bound}"
                if reason:
                    place = places.of("role", name, which, entry)
                    yield Mistake(place, f"{which} of role {name}: {reason}", server, what, which == "deny")
        for tool, rules in role.tool.items():
            where = ("role", name, "tool", tool)
            yield from _rule_mistakes(tool, rules, vocabulary, places, where, bound=role.bound is not None)
        yield from _never_reached(name, role, vocabulary, places)
    local = written.auth.local_role if written.auth else None
    if local is not None and local != DEVELOPER and local not in written.role:
        reason = f"there is no role {local!r}{_suggestion(local, (*written.role, DEVELOPER))}"
        yield Mistake(places.of("auth", "local_role"), f"local_role: {reason}", "", "")
    limited = [(("role", name, "limits"), role.limits) for name, role in written.role.items()]
    for place, limits in (*limited, (("limits",), written.limits)):
        for scope in limits:
            if (scope in vocabulary and scope not in OPERATORS) or tool_named(scope, vocabulary) is not None:
                continue
            server, _, what = scope.partition(":")
            if reason := _unknown(scope, vocabulary, scopes=False):
                yield Mistake(places.of(*place, scope), reason, server, what)
    for tool, rules in written.tool.items():
        # Nobody is bound for certain where a rule holds for every role.
        yield from _rule_mistakes(tool, rules, vocabulary, places, ("tool", tool), bound=False)


def doubts(written: FileAsWritten, vocabulary: Vocabulary, places: Places) -> Iterator[str]:
    """Iterate over what may stand in a file and is hardly what was meant, each with its line."""
    for name, role in written.role.items():
        if not (role.allow or role.deny):
            yield f"{places.of('role', name)}: role {name} allows nothing"
        denied = {key for entry in role.deny for key in expanded(entry, vocabulary)}
        for entry in role.allow:
            place = places.of("role", name, "allow", entry)
            meant = list(expanded(entry, vocabulary))
            if meant and denied.issuperset(meant):
                yield f"{place}: allow of role {name}: {entry} is denied again by the same role"
            elif entry.endswith(f":{PROMPTS}") and not meant:
                yield f"{place}: allow of role {name}: {entry.partition(':')[0]} has no prompts"
            elif role.bound and len(meant) == 1 and not is_wide(entry):
                [(server, thing)] = meant
                if reason := _closed_to_bound(server, thing, name, written, vocabulary):
                    yield f"{place}: allow of role {name}: {reason}"


def _closed_to_bound(server: str, name: str, role: str, written: FileAsWritten, vocabulary: Vocabulary) -> str | None:
    """Return why nobody who is bound to a customer may use what a role allows; None if he may."""
    confinement = vocabulary[server][name].confinement
    if confinement is None:
        return f"{name} can't be confined to one customer, so it is refused to everybody with this role"
    tool = f"{server}:{name}"
    held_to = {**written.tool.get(tool, {}), **written.role[role].tool.get(tool, {})}
    if keeps_to_customer([rule.compiled(argument) for argument, rule in held_to.items()], confinement):
        return None
    wanted = f"a rule on {confinement.rule_on}"
    if confinement.rule_names_customer:
        wanted += f" that says {PLACEHOLDER}, as a prefix with `/` after it"
    return f"{name} wants {wanted}, so it is refused to everybody with this role"


def _never_reached(name: str, role: RoleAsWritten, vocabulary: Vocabulary, places: Places) -> Iterator[Mistake]:
    """Iterate over rules and limits on what a role does not allow: they protect nobody, not even beside other roles."""
    allowed = {key for entry in role.allow for key in expanded(entry, vocabulary)}
    servers = {server for server, _ in allowed}
    for which, narrowed in (("tool", role.tool), ("limits", role.limits)):
        for scope in narrowed:
            tool = tool_named(scope, vocabulary)
            known = tool is not None or (scope in vocabulary and scope not in OPERATORS)
            if not known or (tool in allowed if tool is not None else scope in servers):
                continue
            for_all = f'[tool."{scope}"]' if which == "tool" else "[limits]"
            what = "rules" if which == "tool" else "limit"
            reason = f"role {name} does not allow {scope}, so it has no {what} here; allow it, or write {for_all}"
            server = scope.partition(":")[0]
            yield Mistake(places.of("role", name, which, scope), reason, server, "", restricts=False)


def _rule_mistakes(
    tool: str,
    rules: Mapping[str, RuleAsWritten],
    vocabulary: Vocabulary,
    places: Places,
    place: Sequence[str],
    *,
    bound: bool,
) -> Iterator[Mistake]:
    server, _, name = tool.partition(":")
    key = tool_named(tool, vocabulary)
    known = Known(arguments=None) if key is None else vocabulary[server][name]
    if key is None and (reason := _unknown(tool, vocabulary, scopes=False)):
        yield Mistake(places.of(*place), reason, server, name)
    for argument, rule in rules.items():
        where = places.of(*place, argument)
        if known.arguments is not None and argument not in known.arguments:
            reason = f"{tool} has no argument {argument!r}{_suggestion(argument, sorted(known.arguments), 'arguments')}"
            yield Mistake(where, reason, server, name)
        elif reason := _unfit(rule, known.schemas.get(argument)):
            yield Mistake(where, f"{tool}, {argument}: {reason}", server, name)
        for text in rule.texts:
            if PLACEHOLDER in text and not bound:
                reason = f'{PLACEHOLDER} stands for somebody only in a role with bound = "customer"'
                yield Mistake(where, reason, "", name)
            for braces in unknown_placeholders(text):
                yield Mistake(where, f"{braces} stands for nothing; {PLACEHOLDER} does", "", name)


def _unfit(rule: RuleAsWritten, schema: Any) -> str | None:
    """Return why no call could pass with a rule on an argument of this schema; None if one could."""
    if not isinstance(schema, dict):
        return None
    schema = cast("dict[str, Any]", schema)
    for value in rule.values:
        whole = rule.prefix is None and PLACEHOLDER not in str(value)
        # Of what is only a part of a value, the type is known.
        part = schema if whole else {"type": schema["type"]} if "type" in schema else {}
        try:
            refusals = [] if (compiled := CompiledSchema(part)).is_valid(value) else compiled.refusals(value)
        except ValueError:  # it is a part of a schema, and means nothing alone
            return None
        if refusals:
            wanted = refusals[0][1]
            return f"no call could pass with {_shown(value)} there: {wanted}"
    return None


def _shown(value: object) -> str:
    """Return a value as TOML has it."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _unknown(entry: str, vocabulary: Vocabulary, *, scopes: bool = True) -> str | None:
    """Return why an entry stands for nothing; None if it does for something, or will when its server's tools are known.

    Args:
        entry: of `allow` or `deny`, or a tool that has rules.
        vocabulary: what is offered.
        scopes: whether it may be more than one tool.
    """
    if scopes and any(True for _ in expanded(entry, vocabulary)):
        return None
    if scopes and "://" in entry:
        offered = [name.partition("{?")[0] for names in vocabulary.values() for name in names if "://" in name]
        return f"no server offers {entry!r}{_suggestion(entry, offered)}"
    server, colon, what = entry.partition(":")
    if not colon or not what:
        others = "<server>:read, <server>:write, a resource's address or " if scopes else ""
        return f"{entry!r} says nothing; write {others}<server>:<tool>"
    if server not in vocabulary:
        servers = [name for name in vocabulary if scopes or name not in OPERATORS]
        return f"there is no server {server!r}{_suggestion(server, servers, 'servers')}"
    if server in OPERATORS and not scopes:
        return f"{entry!r} takes no limit and no rules"
    if server in OPERATORS:
        return f"{entry!r} is none of {', '.join(f'{server}:{scope}' for scope in OPERATORS[server])}"
    if not vocabulary[server] or (scopes and what == PROMPTS):
        return None
    if scopes and what.startswith(PROMPT):
        return f"{server} has no prompts" if is_prompt(what) else f"write {server}:{PROMPTS}, or the name of one prompt"
    tools = [name for name, known in vocabulary[server].items() if known.tool]
    return f"{server} has no tool {what!r}{_suggestion(what, tools, 'tools')}"


def _suggestion(name: str, names: Iterable[str], called: str = "") -> str:
    """Return which name is meant perhaps; if none is near and they are called something, which there are."""
    names = list(names)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {called}: {', '.join(names)}" if called and names else ""
