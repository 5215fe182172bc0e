"""`switchboard keys`: who may call."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TypeVar

import click

from app.cli.running import UnusableSettings, read_settings, run, say, written_policy
from app.guard.key_file import as_first_key, read_first_key
from app.guard.keys import KeyAdministration, KeyStore, StoredKey, mint
from app.guard.principal import DEVELOPER
from app.guard.rules import is_name
from app.guard.settings import IdentitySettings
from app.key_stores import NoKeyStore, administered, every_key
from app.services.postgres.connections.settings import PostgresSettings
from app.settings import Settings

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
T = TypeVar("T")
StoreT = TypeVar("StoreT")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _seconds(context: click.Context, option: click.Parameter, given: str | None) -> float | None:
    """Return how many seconds a time such as `90m` has."""
    if given is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", given)
    if found is None:
        raise click.BadParameter("expected a time such as 90m, 12h or 30d")
    return int(found[1]) * _UNITS[found[2]]


def name_of_somebody(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    """Return the name of a customer or a tenant: one that rules can fill in, and that lists show as it is."""
    if given is not None and not is_name(given):
        raise click.BadParameter(
            "expected 1 to 64 characters; no spaces, slashes, `..`, encoded or hidden characters, and none that"
            " normalization (NFKC) changes"
        )
    return given


def role_names(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return names that roles can have."""
    for role in given:
        if not _NAME.fullmatch(role):
            raise click.BadParameter(f"{role!r} can't be the name of a role: small letters, digits and _.")
    return given


@click.group
def keys() -> None:
    """Make, list, replace and revoke the keys that callers show."""


@keys.command
@click.option(
    "--role", "roles", multiple=True, required=True, callback=role_names, help="What the key may do; several add up."
)
@click.option("--customer", callback=name_of_somebody, default=None, help="The one customer to whom the key is bound.")
@click.option("--tenant", callback=name_of_somebody, default=None, help="Whose key it is, for limits and idempotency.")
@click.option(
    "--expires", callback=_seconds, default=None, help="Time after which it ends, such as 30d; never if left out."
)
@click.option(
    "--as-variable", is_flag=True, help="Keep it nowhere: print the variable by which a gateway takes it all the same."
)
def create(
    roles: tuple[str, ...], customer: str | None, tenant: str | None, expires: float | None, *, as_variable: bool
) -> None:
    """Make a key and print it, this once."""
    _check_roles(roles, customer)
    expires_at = None if expires is None else time.time() + expires
    token, key = mint(frozenset(roles), tenant=tenant, customer=customer, expires_at=expires_at)
    if as_variable:
        if customer or tenant or expires:
            raise click.UsageError(
                "A key in a variable has roles only: --customer, --tenant and --expires want a store."
            )
        say(f"SWITCHBOARD_TOKEN={token}\nSWITCHBOARD_FIRST_KEY={as_first_key(key)}")
        return
    _in_store(lambda store: store.add(key))
    _show(token, key)


@keys.command("list")
def list_keys() -> None:
    """List the keys that there are, the oldest first."""

    async def print_all(store: KeyAdministration) -> None:
        rows = [("id", "roles", "tenant", "customer", "made", "ends", "")]
        rows += [_row(key, time.time()) for key in await store.all()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    _in_store(print_all)


@keys.command(short_help="Revoke a key, in every process.")
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Revoke a key: every process refuses it within two seconds, and ends what it holds open."""

    async def end(store: KeyAdministration) -> None:
        key = await _existing(store, key_id)
        await store.end(key.id, time.time())

    _in_store(end)
    say(f"{_plain(key_id)} is revoked.", err=True)


@keys.command
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap", callback=_seconds, default=None, help="Time for which the old one is taken as well, such as 12h."
)
@click.option(
    "--expires", callback=_seconds, default=None, help="Time after which the new one ends; as long as the old one."
)
def rotate(key_id: str, overlap: float | None, expires: float | None) -> None:
    """Replace a key by a new one of the same roles, and print that."""

    async def replace(store: KeyAdministration) -> tuple[str, StoredKey]:
        old, now = await _existing(store, key_id), time.time()
        if state := _state(old, now):
            raise click.ClickException(f"This key is {state}. Make another one: `switchboard keys create`.")
        lasts = expires if expires is not None or old.expires_at is None else old.expires_at - old.created_at
        token, new = mint(
            old.roles, tenant=old.tenant, customer=old.customer, expires_at=None if lasts is None else now + lasts
        )
        await store.add(new)
        await store.end(old.id, now + (overlap or 0.0))
        return token, new

    _show(*_in_store(replace))


def _show(token: str, key: StoredKey) -> None:
    say(token)
    holds = f"of {', '.join(sorted(key.roles))}"
    holds += "" if key.customer is None else f", bound to the customer {key.customer}"
    holds += "" if key.tenant is None else f", of the tenant {key.tenant}"
    holds += "" if key.expires_at is None else f", until {_date(key.expires_at)}"
    say(f"Key {key.id} {holds}. It is not shown again: only its hash is kept.", err=True)


def _check_roles(roles: tuple[str, ...], customer: str | None) -> None:
    """Refuse roles that the policy's file does not have, if there is one."""
    file = written_policy(read_settings(Settings))
    for role in roles:
        if file is None or (role == DEVELOPER and role not in file.role):
            continue
        if role not in file.role:
            known = ", ".join(sorted({*file.role, DEVELOPER}))
            raise click.BadParameter(f"switchboard.toml has no role {role!r}. Roles: {known}.", param_hint="--role")
        if file.role[role].bound and customer is None:
            raise click.BadParameter(f"the role {role} is for one customer: add --customer ID.", param_hint="--role")


def _plain(key_id: str) -> str:
    """Return the id of a key; whoever gives the key itself meant its id."""
    return key_id.split("_")[1] if key_id.startswith("sb_") else key_id


async def _existing(store: KeyStore, key_id: str) -> StoredKey:
    found = await store.find([_plain(key_id)])
    if not found:
        first = read_settings(IdentitySettings).first_key
        if first is not None and read_first_key(first).id == _plain(key_id):
            raise click.ClickException(
                "This key is that of SWITCHBOARD_FIRST_KEY: change the variable, and start anew."
            )
        raise click.ClickException("There is no key of that id. `switchboard keys list` shows those there are.")
    return found[_plain(key_id)]


def _row(key: StoredKey, now: float) -> tuple[str, ...]:
    ends = [at for at in (key.expires_at, key.revoked_at) if at is not None]
    return (
        key.id,
        ",".join(sorted(key.roles)),
        key.tenant or "-",
        key.customer or "-",
        _date(key.created_at),
        _date(min(ends)) if ends else "never",
        _state(key, now),
    )


def _state(key: StoredKey, now: float) -> str:
    """Return why a key is good for nothing, in a word; "" if it is good."""
    if not key.complaint(now):
        return ""
    return "revoked" if key.revoked_at is not None and key.revoked_at <= now else "expired"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def find_key(key_id: str) -> StoredKey:
    """Return what is kept of a key, wherever this installation keeps it.

    Raises:
        click.ClickException: there is none of that id, or nobody can tell.
    """
    return _in(every_key, lambda store: _existing(store, key_id))


def _in_store(work: Callable[[KeyAdministration], Awaitable[T]]) -> T:
    """Do something with the keys that can be changed, and return what comes of it."""
    return _in(administered, work)


def _in(
    stores: Callable[[IdentitySettings, PostgresSettings], Callable[[], AbstractAsyncContextManager[StoreT]]],
    work: Callable[[StoreT], Awaitable[T]],
) -> T:
    try:
        opened = stores(read_settings(IdentitySettings), read_settings(PostgresSettings))
    except NoKeyStore as error:
        raise UnusableSettings(str(error)) from None
    results: list[T] = []

    async def open_and_work() -> None:
        async with opened() as store:
            results.append(await work(store))

    run(open_and_work)
    return results[0]
