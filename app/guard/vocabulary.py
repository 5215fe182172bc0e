"""What a policy can name: what servers offer, and what operators may be allowed beside that."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from app.catalogue import Catalogue
from app.servers.confining import Confinement
from app.servers.dynamic import DynamicTool

PROMPTS = "prompt/*"
"""What a server does itself for methods of the protocol, prompts before all; which there are it says at run time."""
PROMPT = "prompt/"
"""How the name of one prompt begins here."""
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "console": ("read", "act", "keys", "settings"),
    "metrics": ("read",),
}
"""What operators may be allowed beside what servers offer, as `console:read`; never to who is bound to a customer."""


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to know of something that a server offers.

    Args:
        read_only: whether it changes nothing.
        arguments: the names of a tool's arguments, None where they are known later.
        tool: whether it is a tool; else it is a resource's template or `prompt/<name>`.
        encodings: the arguments that say how other ones are encoded, by these.
        schemas: JSON Schemas of a tool's arguments, as far as there are such.
        confinement: how it is kept to the customer that a caller is bound to; None refuses such callers.
    """

    read_only: bool = True
    arguments: frozenset[str] | None = frozenset()
    tool: bool = False
    encodings: Mapping[str, str] = field(default_factory=dict[str, str])
    schemas: Mapping[str, Any] = field(default_factory=dict[str, Any])
    confinement: Confinement | None = None


Vocabulary = Mapping[str, Mapping[str, Known]]
"""What each server offers, by name."""


def known_later(catalogue: Catalogue) -> set[str]:
    """Return the servers whose tools, or some of them, are known at run time."""
    run_time = {offer.kind.server_id for offer in catalogue.tools() if isinstance(offer.declared, DynamicTool)}
    return run_time | {name for name in catalogue.servers if not any(True for _ in catalogue.tools(name))}


def vocabulary_of(catalogue: Catalogue) -> Vocabulary:
    """Return what the servers of a catalogue offer, for a policy to name."""
    vocabulary: dict[str, dict[str, Known]] = {server: {} for server in catalogue.servers}
    for offer in catalogue.tools():
        tool = offer.declared
        properties: Any = tool.input_schema.get("properties")
        vocabulary[offer.kind.server_id][tool.name] = Known(
            read_only=tool.read_only,
            arguments=tool.argument_names,
            tool=True,
            encodings=tool.encodings,
            schemas=cast("dict[str, Any]", properties) if isinstance(properties, dict) else {},
            confinement=tool.confinement,
        )
    for offer in catalogue.resources():
        vocabulary[offer.kind.server_id][offer.declared.template] = Known(confinement=offer.declared.confinement)
    for server, kind in catalogue.servers.items():
        if kind.mcp_handlers:
            vocabulary[server][PROMPTS] = Known()
    return vocabulary


def with_prompts(vocabulary: Vocabulary, named: Iterable[str]) -> dict[str, dict[str, Known]]:
    """Return a vocabulary with the prompts that are named by themselves, as `<server>:prompt/<name>`.

    Which prompts there are is known at run time alone: one that nobody names is of what `prompt/*` stands for.
    """
    known = {server: dict(offered) for server, offered in vocabulary.items()}
    for entry in named:
        server, _, what = entry.partition(":")
        if is_prompt(what) and PROMPTS in known.get(server, {}):
            known[server].setdefault(what, Known())
    return known


def is_prompt(what: str) -> bool:
    """Tell whether this names one prompt, as `prompt/<name>`."""
    return what.startswith(PROMPT) and what != PROMPT and "*" not in what


def expanded(entry: str, vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Iterate over what an entry of `allow` or `deny`, or the name of a tool, stands for: by server and name."""
    if "://" in entry:
        for server, offered in vocabulary.items():
            yield from ((server, name) for name, known in offered.items() if not known.tool and _covers(entry, name))
        return
    server, _, what = entry.partition(":")
    for name, known in vocabulary.get(server, {}).items():
        wide = is_wide(entry) and (what == "write" or known.read_only)
        if wide or what == name or (what == PROMPTS and name.startswith(PROMPT)):
            yield server, name


def is_wide(entry: str) -> bool:
    """Tell whether an entry stands for all of a server, or for all of it that changes nothing."""
    server, _, what = entry.partition(":")
    return server not in OPERATORS and what in ("read", "write")


def tool_named(name: str, vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Return the tool that `<server>:<tool>` is; None if there is none."""
    server, _, tool = name.partition(":")
    known = vocabulary.get(server, {}).get(tool)
    return (server, tool) if known is not None and known.tool else None


def _covers(pattern: str, name: str) -> bool:
    """Whether a template is meant by a pattern such as `db://tickets/*`, or by its own address without variables."""
    name = name.partition("{?")[0]
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1])
    return name == pattern
