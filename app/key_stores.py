"""Where the keys of this installation are kept, by what its variables say."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pkgutil import resolve_name

from app.guard.key_file import KeyFile, read_first_key
from app.guard.keys import Administer, FirstOf, KeyAdministration, KeyStore, KnownKeys, StoredKey
from app.guard.settings import IdentitySettings
from app.services.postgres.connections.settings import PostgresSettings

IN_DATABASE = "app.services.postgres.identity:open_keys"
"""What opens keys in a database, by dotted name, as servers are: its libraries take longer to load than all else, and
not everybody has keys in a database."""
OpenTable = Callable[[PostgresSettings], AbstractAsyncContextManager[KeyAdministration]]


class NoKeyStore(ValueError):
    """No variable says where keys are kept."""


def administered(given: IdentitySettings, database: PostgresSettings) -> Administer:
    """Return what opens the keys that can be made and revoked: those of the file, else those of the database.

    Raises:
        NoKeyStore: there is neither.
    """
    if (path := given.key_file) is not None:

        @asynccontextmanager
        async def open_file() -> AsyncGenerator[KeyAdministration]:
            yield KeyFile(path)

        return open_file
    if database.url is None:
        raise NoKeyStore("Nothing says where keys are kept: set DATABASE_URL, or SWITCHBOARD_KEY_FILE to a file.")

    @asynccontextmanager
    async def open_table() -> AsyncGenerator[KeyAdministration]:
        open_keys: OpenTable = resolve_name(IN_DATABASE)
        async with open_keys(database) as keys:
            yield keys

    return open_table


def every_key(
    given: IdentitySettings, database: PostgresSettings, own: Sequence[StoredKey] = ()
) -> Callable[[], AbstractAsyncContextManager[KeyStore]]:
    """Return what opens all keys that are taken.

    Args:
        given: says where they are kept, and which is the first.
        database: whose table holds them where no file does.
        own: keys of this process alone.

    Raises:
        NoKeyStore: there could never be one.
    """
    known = [*own, *([read_first_key(given.first_key)] if given.first_key else [])]
    try:
        administer = administered(given, database)
    except NoKeyStore:
        if not known:
            raise
        administer = None

    @asynccontextmanager
    async def open_all() -> AsyncGenerator[KeyStore]:
        async with AsyncExitStack() as stack:
            stores: list[KeyStore] = [KnownKeys(known)]
            if administer is not None:
                stores.append(await stack.enter_async_context(administer()))
            yield FirstOf(stores)

    return open_all
