"""Who launches `switchboard stdio`: one principal for as long as the process runs."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from app.cli.running import UnusableSettings, read_settings
from app.guard.credentials import Keyring
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.principal import EVERYBODY, Principal
from app.guard.settings import IdentitySettings
from app.key_stores import NoKeyStore, every_key
from app.services.postgres.connections.settings import PostgresSettings

Launcher = Callable[[], AbstractAsyncContextManager[Principal]]


def launcher_of(policy: Policy) -> Launcher:
    """Return what finds out who launches this process: by `SWITCHBOARD_TOKEN`, else by the file's `local_role`.

    Raises:
        UnusableSettings: keys are asked for, and there is neither.
    """
    given = read_settings(IdentitySettings)
    token = given.token
    if token is None:
        if (policy.has_auth or given.names_keys) and policy.local_role is None:
            raise UnusableSettings(
                "Nothing was started: keys are asked for. Set SWITCHBOARD_TOKEN to one, or let whoever launches this"
                " process have a role: local_role in [auth] of switchboard.toml."
            )
        local = Principal("local", frozenset({policy.local_role})) if policy.local_role else EVERYBODY

        @asynccontextmanager
        async def know() -> AsyncGenerator[Principal]:
            yield local

        return know
    keyring = read_keyring(given)

    @asynccontextmanager
    async def find_out() -> AsyncGenerator[Principal]:
        async with keyring.open():
            yield (await keyring.accept(token.get_secret_value().encode(), "-")).principal

    return find_out


def read_keyring(given: IdentitySettings) -> Keyring:
    """Return the keyring that variables describe.

    Raises:
        UnusableSettings: there could be no key.
    """
    try:
        return Keyring(every_key(given, read_settings(PostgresSettings)), Rate.read(given.failed_keys))
    except NoKeyStore as error:
        raise UnusableSettings(f"Nothing was started, since no key could be taken. {error}") from None
