"""`switchboard policy`: what `switchboard.toml` says, before anybody is held to it."""

import time
from contextlib import suppress
from pathlib import Path

import click

from app.catalogue import load_servers
from app.cli.keys import find_key, name_of_somebody, role_names
from app.cli.running import CONFIG, policy_file, read_guard, read_settings
from app.errors import GatewayError, NotFound, Unauthenticated
from app.gateway import Gateway
from app.guard.guard import Guard
from app.guard.principal import DEVELOPER, Principal
from app.guard.vocabulary import OPERATORS, PROMPT
from app.settings import Settings


@click.group
def policy() -> None:
    """Check switchboard.toml, and explain what it decides."""


@policy.command(short_help="Tell whether the file fits what is offered.")
@CONFIG
def check(config: Path | None) -> None:
    """Tell whether the file fits what the gateway offers, and what each role comes to; status 2 if it does not fit."""
    settings = read_settings(Settings, switchboard_config=config)
    kinds = load_servers()
    gateway = Gateway(kinds, settings, guard=read_guard(settings, kinds))
    path = policy_file(settings)
    if path is None:
        click.echo("There is no file: developers may do everything, and nobody else anything.")
        return
    click.echo(f"{path} fits.")
    assert gateway.guard is not None
    for name, role in gateway.guard.policy.roles.items():
        if name == DEVELOPER and not gateway.guard.policy.has_role(name):
            continue
        # Bound or not: the role itself.
        customer = "anybody" if role.bound else None
        offered = gateway.offered_to(Principal(name, frozenset({name}), customer=customer))
        count = f"{len(list(offered.tools()))} tools, {len(list(offered.resources()))} resources"
        bound = f"; bound to a {role.bound}" if role.bound else ""
        click.echo(f"  {name}: {count}; {role.limit or 'no limit'}{bound}")
    for line in gateway.guard.policy.doubts:
        click.echo(f"Warning: {line}", err=True)


@policy.command(short_help="Tell whether a caller may do WHAT, and why.")
@CONFIG
@click.option("--key", "key_id", metavar="ID", default=None, help="The id of the caller's key.")
@click.option(
    "--role", "roles", multiple=True, callback=role_names, help="Instead: a role of the caller; may be given again."
)
@click.option("--customer", callback=name_of_somebody, default=None, help="The customer to whom the caller is bound.")
@click.argument("what")
@click.argument("arguments", required=False)
def explain(
    config: Path | None,
    key_id: str | None,
    roles: tuple[str, ...],
    customer: str | None,
    what: str,
    arguments: str | None,
) -> None:
    """Tell whether a caller may do WHAT with ARGUMENTS, and which line decides. Nothing is called.

    WHAT is `<server>:<tool>`, a resource's URI, `<server>:prompt/<name>`, or one of `console:read`, `console:act` and
    `metrics:read`.
    """
    if (key_id is None) == (not roles) or (key_id is not None and customer is not None):
        raise click.UsageError("Say who calls: --key ID, or --role NAME with or without --customer ID.")
    given = None if arguments is None else arguments.encode(errors="surrogateescape")  # bytes, as they were typed
    settings, kinds = read_settings(Settings, switchboard_config=config), load_servers()
    guard = read_guard(settings, kinds)
    gateway = Gateway(kinds, settings, guard=guard)
    key = None if key_id is None else find_key(key_id)
    principal = Principal("-", frozenset(roles), customer=customer) if key is None else key.principal
    try:
        owner, obeyed, parsed, refusal = _judged(gateway, guard, what, principal, given)
    except NotFound as error:
        raise click.UsageError(error.detail) from None
    if key is not None and (complaint := key.complaint(time.time())) is not None:
        refusal = Unauthenticated(complaint)
    if refusal is None:
        click.echo("allowed")
    else:
        click.echo(f"refused ({refusal.status} {refusal.code}): {refusal.detail}")
    if key is not None:
        bound = "" if key.customer is None else f", bound to the customer {key.customer}"
        click.echo(f"  the key {key.id} has {', '.join(sorted(key.roles))}{bound}")
    for line in guard.explain(principal, owner, obeyed, parsed):
        click.echo(f"  {line}")


def _judged(
    gateway: Gateway, guard: Guard, what: str, principal: Principal, given: bytes | None
) -> tuple[str, str, object, GatewayError | None]:
    """Return a server's id, what the policy calls a thing of it, its parsed arguments, and why it would be refused.

    Raises:
        NotFound: there is no such thing.
        click.UsageError: it is not a single thing, or takes no arguments.
    """
    server, _, name = what.partition(":")
    is_resource, is_prompt = "://" in what, name.startswith(PROMPT)
    if given and (is_resource or is_prompt or server in OPERATORS):
        raise click.UsageError(f"Only tools have arguments here; say {what} alone.")
    if server in OPERATORS:
        if name not in OPERATORS[server]:
            raise click.UsageError(f"{server} has {', '.join(OPERATORS[server])}, and not {name!r}.")
        return server, name, None, gateway.refuses_operator(what, principal)
    if is_resource:
        resource, variables = gateway.catalogue.resource(None, what)
        obeyed = resource.declared.reading(what).obeys or ""
        return resource.kind.server_id, obeyed, variables, gateway.foretell(None, what, principal, None)
    if is_prompt:
        owner, prompt = gateway.catalogue.server(server).server_id, name.removeprefix(PROMPT)
        if not guard.policy.prompts(owner):
            raise click.UsageError(f"{owner} has no prompts.")
        return owner, guard.policy.prompt(owner, prompt), None, gateway.refuses_prompt(owner, prompt, principal)
    tool = gateway.catalogue.tool(server, name)
    parsed = None
    with suppress(GatewayError):  # what is wrong with them is told as the call's own refusal
        parsed = None if given is None else tool.declared.operation.parse(given)
    return tool.kind.server_id, tool.declared.name, parsed, gateway.foretell(server, name, principal, given)
