"""`switchboard policy`: what `switchboard.toml` says, before anybody is held to it."""

import time
from contextlib import suppress
from pathlib import Path

import click

from app.catalogue import Catalogue, load_servers
from app.cli.keys import find_key
from app.cli.running import CONFIG, policy_file, read_guard, read_settings
from app.errors import GatewayError, NotFound, Unauthenticated
from app.gateway import Gateway
from app.guard.policy import DEVELOPER, OPERATORS
from app.guard.principal import Principal
from app.servers.operations import Operation
from app.settings import Settings


@click.group
def policy() -> None:
    """Check switchboard.toml, and explain what it decides."""


@policy.command
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
        if name == DEVELOPER and not role.deny and role.limit is None:
            continue
        # Bound or not: the role itself.
        customer = "anybody" if role.bound else None
        offered = gateway.offered_to(Principal(name, frozenset({name}), customer=customer))
        count = f"{len(list(offered.tools()))} tools, {len(list(offered.resources()))} resources"
        bound = f"; bound to a {role.bound}" if role.bound else ""
        click.echo(f"  {name}: {count}; {role.limit or 'no limit'}{bound}")


@policy.command
@CONFIG
@click.option("--key", "key_id", metavar="ID", default=None, help="The id of the caller's key.")
@click.option("--role", "roles", multiple=True, help="Instead: a role of the caller; may be given again.")
@click.option("--customer", default=None, help="The customer to whom the caller is bound.")
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

    WHAT is `<server>:<tool>`, a resource's URI, or one of `console:read`, `console:act` and `metrics:read`.
    """
    if (key_id is None) == (not roles) or (key_id is not None and customer is not None):
        raise click.UsageError("Say who calls: --key ID, or --role NAME with or without --customer ID.")
    given = None if arguments is None else arguments.encode(errors="surrogateescape")  # bytes, as they were typed
    settings, kinds = read_settings(Settings, switchboard_config=config), load_servers()
    guard = read_guard(settings, kinds)
    gateway = Gateway(kinds, settings, guard=guard)
    key = None if key_id is None else find_key(key_id)
    principal = Principal("-", frozenset(roles), customer=customer) if key is None else key.principal
    server, _, name = (None, "", what) if "://" in what else what.partition(":")
    parsed: object = None
    if server is not None and name in OPERATORS.get(server, ()):
        owner, obeyed = server, name
        refusal = gateway.refuses_operator(what, principal)
    else:
        try:
            owner, operation, parsed = _wanted(gateway.catalogue, server, name, given)
        except NotFound as error:
            raise click.UsageError(error.detail) from None
        obeyed = operation.obeys or ""
        refusal = gateway.foretell(server, name, principal, given)
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


def _wanted(whole: Catalogue, server: str | None, name: str, given: bytes | None) -> tuple[str, Operation, object]:
    """Return the server's id, the operation and its arguments, None where these are none.

    Raises:
        NotFound: there is no such thing.
    """
    if server is None:
        resource, variables = whole.resource(None, name)
        return resource.kind.server_id, resource.declared.reading(name), variables
    tool = whole.tool(server, name)
    operation = tool.declared.operation
    parsed = None
    with suppress(GatewayError):  # what is wrong with them is told as the call's own refusal
        parsed = None if given is None else operation.parse(given)
    return tool.kind.server_id, operation, parsed
