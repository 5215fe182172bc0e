"""What a policy decides for a caller and a call, and which lines decide it, before anything is called."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from app.errors import GatewayError, InvalidArguments, NotFound
from app.gateway import Gateway
from app.guard.principal import Principal
from app.guard.vocabulary import OPERATORS, PROMPT


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of a call.

    Args:
        refusal: what it would be refused with; None if it would run.
        lines: what decides it, a line each, with the file's own.
    """

    refusal: GatewayError | None
    lines: Iterable[str]


def explain(gateway: Gateway, principal: Principal, what: str, arguments: bytes | None) -> Explanation:
    """Tell whether a principal may do something, and why. Nothing is called, and no limit is asked.

    Args:
        gateway: where it would be done.
        principal: who would do it.
        what: `<server>:<tool>`, a resource's URI, `<server>:prompt/<name>`, or a scope of operators, `console:read`.
        arguments: the tool's, as JSON; None leaves out what is judged of them.

    Raises:
        NotFound: there is no such thing.
        InvalidArguments: it takes no arguments.
    """
    owner, obeyed, parsed, refusal = _judged(gateway, what, principal, arguments)
    lines = () if gateway.guard is None else gateway.guard.explain(principal, owner, obeyed, parsed)
    return Explanation(refusal, lines)


def _judged(
    gateway: Gateway, what: str, principal: Principal, given: bytes | None
) -> tuple[str, str, object, GatewayError | None]:
    """Return a server's id, what the policy calls a thing of it, its parsed arguments, and why it would be refused."""
    server, _, name = what.partition(":")
    is_resource, is_prompt = "://" in what, name.startswith(PROMPT)
    if given and (is_resource or is_prompt or server in OPERATORS):
        raise InvalidArguments(f"Only tools have arguments here; say {what} alone.")
    if server in OPERATORS:
        if name not in OPERATORS[server]:
            raise NotFound(f"{server} has {', '.join(OPERATORS[server])}, and not {name!r}.")
        return server, name, None, gateway.refuses_operator(what, principal)
    if is_resource:
        resource, variables = gateway.catalogue.resource(None, what)
        obeyed = resource.declared.reading(what).obeys or ""
        return resource.kind.server_id, obeyed, variables, gateway.foretell(None, what, principal, None)
    if is_prompt:
        owner, prompt = gateway.catalogue.server(server).server_id, name.removeprefix(PROMPT)
        if gateway.guard is None or not gateway.guard.policy.prompts(owner):
            raise NotFound(f"{owner} has no prompts.")
        named = gateway.guard.policy.prompt(owner, prompt)
        return owner, named, None, gateway.refuses_prompt(owner, prompt, principal)
    tool = gateway.catalogue.tool(server, name)
    parsed = None
    with suppress(GatewayError):  # what is wrong with them is told as the call's own refusal
        parsed = None if given is None else tool.declared.operation.parse(given)
    return tool.kind.server_id, tool.declared.name, parsed, gateway.foretell(server, name, principal, given)
