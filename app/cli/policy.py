"""`switchboard policy`: what `switchboard.toml` says, before anybody is held to it."""

import time
from pathlib import Path

import click

from app import explaining
from app.catalogue import load_servers
from app.cli.keys import find_key, name_of_somebody, role_names
from app.cli.running import CONFIG, policy_file, read_guard, read_settings, say
from app.errors import InvalidArguments, NotFound, Unauthenticated
from app.gateway import Gateway
from app.guard.principal import DEVELOPER, Principal
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
        say("There is no file: developers may do everything, and nobody else anything.")
        return
    say(f"{path} fits.")
    assert gateway.guard is not None
    for name, role in gateway.guard.policy.roles.items():
        if name == DEVELOPER and not gateway.guard.policy.has_role(name):
            continue
        # Bound or not: the role itself.
        customer = "anybody" if role.bound else None
        offered = gateway.offered_to(Principal(name, frozenset({name}), customer=customer))
        count = f"{len(list(offered.tools()))} tools, {len(list(offered.resources()))} resources"
        bound = f"; bound to a {role.bound}" if role.bound else ""
        say(f"  {name}: {count}; {role.limit or 'no limit'}{bound}")
    for line in gateway.guard.policy.doubts:
        say(f"Warning: {line}", err=True)


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

    WHAT is `<server>:<tool>`, a resource's URI, `<server>:prompt/<name>`, or a scope of operators, such as
    `console:read` or `metrics:read`.
    """
    if (key_id is None) == (not roles) or (key_id is not None and customer is not None):
        raise click.UsageError("Say who calls: --key ID, or --role NAME with or without --customer ID.")
    given = None if arguments is None else arguments.encode(errors="surrogateescape")  # bytes, as they were typed
    settings, kinds = read_settings(Settings, switchboard_config=config), load_servers()
    gateway = Gateway(kinds, settings, guard=read_guard(settings, kinds))
    key = None if key_id is None else find_key(key_id)
    principal = Principal("-", frozenset(roles), customer=customer) if key is None else key.principal
    try:
        found = explaining.explain(gateway, principal, what, given)
    except (NotFound, InvalidArguments) as error:
        raise click.UsageError(error.detail) from None
    refusal = found.refusal
    if key is not None and (complaint := key.complaint(time.time())) is not None:
        refusal = Unauthenticated(complaint)
    if refusal is None:
        say("allowed")
    else:
        say(f"refused ({refusal.status} {refusal.code}): {refusal.detail}")
    if key is not None:
        bound = "" if key.customer is None else f", bound to the customer {key.customer}"
        say(f"  the key {key.id} has {', '.join(sorted(key.roles))}{bound}")
    for line in found.lines:
        say(f"  {line}")
