"""What it takes to hold a value against a JSON Schema, known before it is done.

The validator can't be interrupted, and it goes every way that a schema has to a value: a schema of 200 bytes whose
branches lead back to itself has 2 to the power of the value's depth of them. So the ways are counted first, which is
quick, since equal ones are counted together.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urljoin

import jsonschema_rs

LARGEST_PATTERN = 1 << 20
"""Bytes of a compiled pattern."""
_SIZES = (LARGEST_PATTERN >> 8, LARGEST_PATTERN >> 6, LARGEST_PATTERN >> 4, LARGEST_PATTERN >> 2, LARGEST_PATTERN)
_STEPS_OF_A_PATTERN = 128
"""Bytes of a compiled pattern that may be gone through in one step, at each character."""
_MOST_PATTERNS = 16 << 20
"""Bytes of all compiled patterns of one schema."""
_STEPS_OF_A_FORMAT = 5
_STEPS_OF_AN_OPTION = 4
_BYTES_OF_AN_ERROR = 500
_BYTES_OF_A_RULE = 6
_MOST_RULES = 10_000
_MOST_STEPS = 10_000_000
"""Steps of the validator, of some 10 ns each."""
_MOST_SUMS = 100_000
"""Additions that one value's ways may take to be counted."""
_MOST_KEPT = 1_000_000
"""Sums that are remembered for the next value."""
_MOST_LEVELS = 2000
"""Schemas and values within each other; the validator's stack holds some 19,000."""
_MOST_BESIDE = 100
"""Schemas of one value that lead on to each other, the same bound for what a schema alone may do."""
_LONGEST_POINTER = 4000
"""Characters of the path to a schema within a schema."""
_COUNTLESS = 1 << 60
_METASCHEMAS = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")


class TooMuchWork(ValueError):
    """It would take too long to find out whether a value fits a schema."""


class Cost(NamedTuple):
    """What one value costs."""

    checking: int
    """Steps to say whether it fits; at most `_MOST_STEPS`."""
    telling: int
    """Bytes that may have to be copied to say what is wrong with it."""
    values: int
    """How many values it is, at all depths; each costs a microsecond to be counted."""


@dataclass(eq=False, slots=True)
class _Rules:
    """A schema within a schema: its own rules, and those that it leads to. One that is met twice is there once."""

    part: dict[str, Any]
    pointer: str
    base: str
    own: int = 1
    """Steps for each value."""
    missing: int = 0
    """Members that each value may lack, each an error of its own."""
    per_character: int = 0
    """Steps for each character of a text."""
    per_name: int = 0
    """Steps for each character of a member's name."""
    rank: int = 0
    """Of those beside it all have a lower one."""
    height: int = 1
    """How many that lead on to each other are beside it, itself included."""
    beside: "list[_Rules]" = field(default_factory=list["_Rules"])
    """For the same value: references and branches."""
    tried_again: "list[_Rules]" = field(default_factory=list["_Rules"])
    """Those of them that are tried twice where the schema speaks of what is not evaluated."""
    properties: "dict[str, _Rules | None]" = field(default_factory=dict[str, "_Rules | None"])
    others: "list[_Rules]" = field(default_factory=list["_Rules"])
    """For members that `properties` does not name."""
    members: "list[_Rules]" = field(default_factory=list["_Rules"])
    """For members that may have any name."""
    names: "list[_Rules]" = field(default_factory=list["_Rules"])
    first: "list[_Rules | None]" = field(default_factory=list["_Rules | None"])
    items: "list[_Rules]" = field(default_factory=list["_Rules"])

    def below(self) -> "Iterator[_Rules]":
        """Yield all that it leads to."""
        yield from self.beside
        yield from (rules for rules in self.properties.values() if rules)
        yield from self.others
        yield from self.members
        yield from self.names
        yield from (rules for rules in self.first if rules)
        yield from self.items


_Ways = Mapping[_Rules, int]


class _Place:
    """All rules for one value, each with the number of ways in which the validator comes to it."""

    def __init__(self, ways: _Ways, height: int) -> None:
        self.ways = ways
        self.own = sum(times * rules.own for rules, times in ways.items())
        self.times = sum(ways.values())
        self.errors = sum(times * (1 + rules.missing) for rules, times in ways.items())
        self.per_character = sum(times * rules.per_character for rules, times in ways.items())
        self.per_name = sum(times * rules.per_name for rules, times in ways.items())
        self.height = height
        self.named = frozenset(name for rules in ways for name in rules.properties)
        self.longest = max((len(rules.first) for rules in ways), default=0)
        self.has_names = any(rules.names for rules in ways)
        self.below: dict[str | int | None, _Place | None] = {}
        self.name: _Place | None = None


class SchemaCost:
    """Tells what values cost that are held against one schema.

    Args:
        schema: an object of JSON Schema, of any draft. It must not change any more.

    Raises:
        ValueError: it refers to something outside, to itself without an end, or means much more than it says.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._found: dict[int, _Rules] = {}
        self._resources: list[tuple[str, dict[str, Any]]] = []
        self._anchors: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[frozenset[tuple[_Rules, int]], _Place] = {}
        self._first_places: dict[int, _Place] = {}
        self._any_schema = _any_schema()
        self._root = schema
        self._follow(self._root)
        self._measure()
        self._sums_left = 0
        self._kept = 0
        self.has_alternatives = any(not rules.part.keys().isdisjoint(_ALTERNATIVES) for rules in self._found.values())
        """Whether it says of something that it is one of several."""

    def pointer(self, part: Mapping[str, Any]) -> str | None:
        """Return where a schema within the schema stands (`/properties/a`), if it is one."""
        rules = self._found.get(id(part))
        return rules.pointer if rules else None

    def targets(self, part: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the schemas that a schema within the schema refers to."""
        rules = self._found.get(id(part))
        return [target for word in _REFERENCES for _, target in self._referred(rules, word)] if rules else []

    def of(self, value: Any, part: Mapping[str, Any] | None = None) -> Cost:
        """Return what it costs to hold a value against the schema, or against a schema within it.

        Raises:
            TooMuchWork: more than anybody should wait for.
        """
        self._sums_left = _MOST_SUMS
        if self._kept > _MOST_KEPT:
            self._kept = 0
            self._places.clear()
            self._first_places.clear()
        sheet = _Sheet(self._below, self._name)
        sheet.weigh(value, self._first_place(self._root if part is None else part), 0)
        return Cost(sheet.checking, sheet.telling, sheet.values)

    def names_beside(self, place: Sequence[str | int]) -> Collection[str]:
        """Return the members that the schema names where one of a value's members stands."""
        self._sums_left = _MOST_SUMS
        here: _Place | None = self._first_place(self._root)
        try:
            for step in place[:-1]:
                here = self._below(here, step) if here else None
        except TooMuchWork:
            return ()
        return here.named if here else ()

    # Reading the schema

    def _follow(self, root: dict[str, Any]) -> None:
        """Find all schemas within it, and then all that they refer to, which may stand where no schema is."""
        pending: list[_Rules] = []
        self._enter(root, "", "", pending)
        done: list[_Rules] = []
        while pending:
            while pending:
                rules = pending.pop()
                self._read(rules, pending)
                done.append(rules)
            for rules in done:
                for word in _REFERENCES:
                    for pointer, part in self._referred(rules, word):
                        target = self._enter(part, pointer, rules.base, pending)
                        rules.beside += [target] if target else []
                    if self._names_a_metaschema(rules, word):
                        rules.beside.append(self._any_schema)
            done.clear()

    def _enter(self, part: Any, pointer: str, base: str, pending: list[_Rules]) -> _Rules | None:
        if not isinstance(part, dict):
            return None
        schema = cast("dict[str, Any]", part)
        if len(pointer) > _LONGEST_POINTER:
            raise ValueError("the schema is nested too deeply")
        if id(schema) not in self._found:
            for word in ("$id", "id"):
                if isinstance(named := schema.get(word), str):
                    base = urljoin(base, named)
                    if "#" in named:
                        self._anchors.setdefault(named.partition("#")[2], []).append(schema)
            if not pointer or "$id" in schema or "id" in schema:
                self._resources.append((base.partition("#")[0], schema))
            for word in ("$anchor", "$dynamicAnchor"):
                if isinstance(named := schema.get(word), str):
                    self._anchors.setdefault(named, []).append(schema)
            self._found[id(schema)] = rules = _Rules(schema, pointer, base)
            pending.append(rules)
        return self._found[id(schema)]

    def _read(self, rules: _Rules, pending: list[_Rules]) -> None:
        def enter(part: Any, *path: str | int) -> list[_Rules]:
            escaped = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
            found = self._enter(part, "/".join((rules.pointer, *escaped)), rules.base, pending)
            return [found] if found else []

        rules.own += 2 * len(rules.part)
        for word, value in rules.part.items():
            match word:
                case "not" | "if" | "then" | "else":
                    rules.beside += enter(value, word)
                case "allOf" | "anyOf" | "oneOf" if isinstance(value, list):
                    for position, member in enumerate(cast("list[Any]", value)):
                        branch = enter(member, word, position)
                        rules.beside += branch
                        rules.tried_again += branch if word in _ALTERNATIVES else []
                case "dependentSchemas" | "dependencies" if isinstance(value, dict):
                    for name, member in cast("dict[str, Any]", value).items():
                        rules.own += 1 + (len(cast("list[Any]", member)) if isinstance(member, list) else 0)
                        rules.beside += enter(member, word, name)
                case "properties" if isinstance(value, dict):
                    for name, member in cast("dict[str, Any]", value).items():
                        rules.properties[name] = next(iter(enter(member, word, name)), None)
                case "patternProperties" if isinstance(value, dict):
                    for pattern, member in cast("dict[str, Any]", value).items():
                        rules.members += enter(member, word, pattern)
                        rules.per_name += 2 * _weight(pattern)
                case "additionalProperties":
                    rules.others += enter(value, word)
                case "unevaluatedProperties":
                    rules.members += enter(value, word)
                case "propertyNames":
                    rules.names += enter(value, word)
                case "items" | "prefixItems" if isinstance(value, list):
                    for position, member in enumerate(cast("list[Any]", value)):
                        rules.first.append(next(iter(enter(member, word, position)), None))
                case "items" | "additionalItems" | "unevaluatedItems" | "contains":
                    rules.items += enter(value, word)
                case "$defs" | "definitions" if isinstance(value, dict):
                    for name, member in cast("dict[str, Any]", value).items():
                        enter(member, word, name)
                case "pattern":
                    rules.per_character += _weight(value)
                case "format" | "contentEncoding" | "contentMediaType":
                    rules.per_character += _STEPS_OF_A_FORMAT
                case "enum" | "const":
                    rules.own += _STEPS_OF_AN_OPTION * _size(value)
                case "required" | "dependentRequired":
                    rules.own += _STEPS_OF_AN_OPTION * _size(value)
                    rules.missing += _size(value)
                case _:
                    pass

    def _referred(self, rules: _Rules, word: str) -> list[tuple[str, dict[str, Any]]]:
        """Return all that a reference may mean, by pointers: rather one thing too many than one too few is counted."""
        reference = rules.part.get(word)
        if not isinstance(reference, str) or self._names_a_metaschema(rules, word):
            return []
        address, _, fragment = reference.partition("#")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found = [("", part) for part in self._anchors.get(fragment, [])]
        else:
            found = [
                (self._found[id(root)].pointer + fragment, _at(root, fragment))
                for uri, root in self._resources
                if not address or uri == urljoin(rules.base, address)
            ]
        known = [(pointer, part) for pointer, part in found if part is not None]
        if not known:
            raise ValueError(
                f"{rules.pointer[:200] or 'the schema'}: {word} names nothing in the schema itself. Retrieval is "
                "disabled: put what it names into $defs, and refer to it as #/$defs/…"
            )
        return [(pointer, part) for pointer, part in known if isinstance(part, dict)]

    def _names_a_metaschema(self, rules: _Rules, word: str) -> bool:
        reference = rules.part.get(word)
        return isinstance(reference, str) and urljoin(rules.base, reference).startswith(_METASCHEMAS)

    # Measuring the schema

    def _measure(self) -> None:
        for rank, rules in enumerate(_from_below(self._found.values(), lambda r: r.beside, endless=_refuse_endless)):
            rules.rank = rank
            rules.height = 1 + max((beside.height for beside in rules.beside), default=0)
            if rules.height > _MOST_BESIDE:
                raise ValueError(f"{rules.pointer[:200]}: more than {_MOST_BESIDE} schemas lead on to each other")
        if any("unevaluated" in word for rules in self._found.values() for word in rules.part):
            # Which alternative has evaluated a member is found out by trying it once more, and within that again.
            for rules in self._found.values():
                rules.beside += rules.tried_again
        written: dict[_Rules, int] = {}
        for rules in _from_below(self._found.values(), _Rules.below):
            written[rules] = min(1 + sum(written.get(below, 0) for below in rules.below()), _MOST_RULES + 1)
        if max(written.values()) > _MOST_RULES:
            raise ValueError(f"the schema has more than {_MOST_RULES} rules once what it refers to is written out")
        if "meta" in self._anchors or any("$recursiveAnchor" in rules.part for rules in self._found.values()):
            raise ValueError("the schema extends a metaschema")
        patterns = {pattern for rules in self._found.values() for pattern in _patterns(rules.part)}
        if sum(map(_pattern_size, patterns)) > _MOST_PATTERNS:
            raise ValueError("the schema's patterns are too large together")

    # Counting

    def _first_place(self, part: Mapping[str, Any]) -> _Place:
        if id(part) not in self._first_places:
            self._first_places[id(part)] = self._place(Counter({self._found[id(part)]: 1}))
        return self._first_places[id(part)]

    def _place(self, ways: Counter[_Rules]) -> _Place:
        key = frozenset(ways.items())
        if key not in self._places:
            height = max((rules.height for rules in ways), default=0)
            self._places[key] = place = _Place(self._with_those_beside(ways), height)
            self._kept += len(place.ways)
        return self._places[key]

    def _with_those_beside(self, ways: Counter[_Rules]) -> _Ways:
        found = set(ways)
        pending = list(ways)
        while pending:
            beside = pending.pop().beside
            self._pay(1 + len(beside))
            new = set(beside) - found
            found |= new
            pending += new
        total = Counter(ways)
        for rules in sorted(found, key=lambda rules: -rules.rank):
            for beside in rules.beside:
                total[beside] = min(total[beside] + total[rules], _COUNTLESS)
        return total

    def _below(self, place: _Place, key: str | int) -> _Place | None:
        """Return what there is for a member or an element, if anything."""
        known = min(key, place.longest) if isinstance(key, int) else key if key in place.named else None
        if known not in place.below:
            ways: Counter[_Rules] = Counter()
            for rules, times in place.ways.items():
                below = [*rules.items, *rules.first[known : known + 1]] if isinstance(known, int) else [*rules.members]
                if not isinstance(known, int):
                    below += [rules.properties[key]] if key in rules.properties else rules.others  # type: ignore[index]
                self._pay(1 + len(below))
                for one in below:
                    if one is not None:
                        ways[one] = min(ways[one] + times, _COUNTLESS)
            place.below[known] = self._place(ways) if ways else None
        return place.below[known]

    def _name(self, place: _Place) -> _Place | None:
        """Return what there is for the names of members."""
        if place.has_names and place.name is None:
            ways: Counter[_Rules] = Counter()
            for rules, times in place.ways.items():
                for one in rules.names:
                    ways[one] = min(ways[one] + times, _COUNTLESS)
            place.name = self._place(ways)
        return place.name

    def _pay(self, sums: int) -> None:
        self._sums_left -= sums
        if self._sums_left < 0:
            raise TooMuchWork("the schema has too many ways to it")


class _Sheet:
    """Adds up what one value costs."""

    def __init__(
        self, below: Callable[[_Place, str | int], _Place | None], name: Callable[[_Place], _Place | None]
    ) -> None:
        self.checking = 0
        self.telling = 0
        self.values = 0
        self._below = below
        self._name = name

    def weigh(self, value: Any, place: _Place | None, level: int) -> int:
        """Add what a value costs; return its size in bytes, about."""
        size = 16
        self.values += 1
        if isinstance(value, str):
            size += len(value)
            if place:
                self.checking += place.per_character * len(value)
        elif isinstance(value, dict):
            size += self._weigh_members(cast("dict[str, Any]", value), place, level)
        elif isinstance(value, list):
            within = level + 1 + (place.height if place else 0)
            for position, item in enumerate(cast("list[Any]", value)):
                size += self.weigh(item, self._below(place, position) if place else None, within)
        if place:
            self.checking += place.own
            self.telling += place.times * size + place.errors * _BYTES_OF_AN_ERROR + _BYTES_OF_A_RULE * place.own
            if self.checking > _MOST_STEPS:
                raise TooMuchWork("the schema has too many rules for so much")
            if level + place.height > _MOST_LEVELS:
                raise TooMuchWork("it is nested too deeply for the schema")
        return size

    def _weigh_members(self, members: dict[str, Any], place: _Place | None, level: int) -> int:
        size = 0
        within = level + 1 + (place.height if place else 0)
        for name, member in members.items():
            size += len(name) + self.weigh(member, self._below(place, name) if place else None, within)
            if place:
                self.checking += place.per_name * (len(name) + 1)
                if names := self._name(place):
                    self.weigh(name, names, within)
        return size


def _from_below(
    roots: Iterable[_Rules],
    below: Callable[[_Rules], Iterable[_Rules]],
    endless: Callable[[_Rules], None] = lambda rules: None,
) -> Iterator[_Rules]:
    """Yield rules, each after those below it.

    Args:
        roots: where to begin.
        below: gives those below.
        endless: is told of rules that are below themselves.
    """
    done: set[_Rules] = set()
    open_: set[_Rules] = set()
    for root in roots:
        stack = [(root, iter(below(root)))] if root not in done else []
        open_.add(root)
        while stack:
            rules, rest = stack[-1]
            for one in rest:
                if one in open_:
                    endless(one)
                elif one not in done:
                    open_.add(one)
                    stack.append((one, iter(below(one))))
                    break
            else:
                stack.pop()
                open_.discard(rules)
                done.add(rules)
                yield rules
        open_.clear()


def _any_schema() -> _Rules:
    """Return about what the metaschemas cost, which the validator knows: a tool may take schemas."""
    rules = _Rules({}, "", "", own=500, per_character=4 * _weight("^[^#]*#?$"), rank=-1)
    rules.members, rules.items = [rules], [rules]
    return rules


def _refuse_endless(rules: _Rules) -> None:
    raise ValueError(f"{rules.pointer[:200] or 'the schema'}: it refers to itself for the same value, without an end")


_ALTERNATIVES = ("anyOf", "oneOf")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def _at(root: Any, pointer: str) -> Any:
    """Return what a JSON pointer leads to; None if there is nothing."""
    found = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = cast("dict[str, Any]", found).get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(cast("list[Any]", found)):
            found = cast("list[Any]", found)[int(name)]
        else:
            return None
    return found


def _size(value: Any) -> int:
    """Return how many values one is, at all depths."""
    count, pending = 0, [value]
    while pending:
        part = pending.pop()
        count += 1
        if isinstance(part, dict):
            pending += cast("dict[str, Any]", part).values()
        elif isinstance(part, list):
            pending += cast("list[Any]", part)
    return count


def _patterns(part: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(pattern := part.get("pattern"), str):
        yield pattern
    if isinstance(by_pattern := part.get("patternProperties"), dict):
        yield from cast("dict[str, Any]", by_pattern)


def _weight(pattern: Any) -> int:
    """Return the steps that matching a pattern takes for each character."""
    return _pattern_size(pattern) // _STEPS_OF_A_PATTERN if isinstance(pattern, str) else 0


@lru_cache(1024)
def _pattern_size(pattern: str) -> int:
    """Return in how many bytes a pattern can be compiled; where in none of ours, it will be refused for that."""
    for size in _SIZES:
        try:
            jsonschema_rs.validator_for(
                {"pattern": pattern}, offline=True, pattern_options=jsonschema_rs.RegexOptions(size_limit=size)
            )
        except jsonschema_rs.ValidationError:
            continue
        return size
    return 0
