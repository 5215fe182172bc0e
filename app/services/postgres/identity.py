"""Keys in PostgreSQL: one statement finds all that are asked for, through poolers too."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Text, any_, bindparam, cast, exists, func, insert, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, IdentityUnavailable
from app.guard.keys import STORED_KEYS, StoredKey
from app.models import ApiKey
from app.services.postgres.connections.pools import Database, Statement, open_database
from app.services.postgres.connections.settings import PostgresSettings

_SECONDS = 2.0
"""That a connection, and a statement, may take: whoever waits for it waits to be let in."""


def _quoted(name: str) -> Any:
    return literal_column(f"'{name}'", Text())


_FIELDS: Mapping[str, Any] = {
    **{column.key: column for column in (ApiKey.id, ApiKey.hash, ApiKey.roles, ApiKey.tenant, ApiKey.customer)},
    **{time.key: func.extract("epoch", time) for time in (ApiKey.created_at, ApiKey.expires_at, ApiKey.revoked_at)},
}
_NAMED = [part for name, value in _FIELDS.items() for part in (_quoted(name), value)]
_KEYS = cast(func.coalesce(func.json_agg(func.json_build_object(*_NAMED)), literal_column("'[]'")), Text)
_FIND = Statement(select(_KEYS).where(ApiKey.id == any_(bindparam("ids", type_=ARRAY(Text)))))
_ALL = Statement(select(_KEYS))
_GOOD = (
    or_(ApiKey.revoked_at.is_(None), ApiKey.revoked_at > func.now()),
    or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
)
_HAS_GOOD_ONES = Statement(select(cast(exists().where(*_GOOD), Text)))


class PostgresKeys:
    """The table `api_keys`.

    Args:
        database: has a connection to read with, and one to write with, that nobody else takes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys of these ids that there are.

        Raises:
            GatewayError: the database can't be asked, or lacks the table.
        """
        with _who_may():
            found = await self._database.reads.fetch_json(_FIND, ids=list(ids))
        return {key.id: key for key in STORED_KEYS.validate_json(found or b"[]")}

    async def has_good_ones(self) -> bool:
        """Tell whether there is one that has not ended.

        Raises:
            GatewayError: as for `find`.
        """
        with _who_may():
            return await self._database.reads.fetch_json(_HAS_GOOD_ONES) == b"true"

    async def all(self) -> Sequence[StoredKey]:
        """Return every key, the oldest first."""
        with _who_may():
            found = await self._database.reads.fetch_json(_ALL)
        return sorted(STORED_KEYS.validate_json(found or b"[]"), key=lambda key: (key.created_at, key.id))

    async def add(self, key: StoredKey) -> None:
        """Keep a key."""
        values = {
            "id": key.id,
            "hash": key.hash,
            "roles": sorted(key.roles),
            "tenant": key.tenant,
            "customer": key.customer,
            "created_at": _time(key.created_at),
            "expires_at": None if key.expires_at is None else _time(key.expires_at),
        }

        async def work(session: AsyncSession) -> None:
            await session.execute(insert(ApiKey).values(**values))

        with _who_may():
            await self._database.write(work)

    async def end(self, key_id: str, at: float) -> None:
        """Make a key good for nothing from a time on, unless it is so earlier."""
        ends = func.least(ApiKey.revoked_at, _time(at))  # which is the time where the other is null

        async def work(session: AsyncSession) -> None:
            await session.execute(update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=ends))

        with _who_may():
            await self._database.write(work)


@contextmanager
def _who_may() -> Generator[None]:
    """Say what a login needs that may not do this.

    Raises:
        IdentityUnavailable: it lacks a right.
    """
    try:
        yield
    except Forbidden as error:
        raise IdentityUnavailable(
            "the login of DATABASE_URL may not use the table of keys; GRANT SELECT, INSERT, UPDATE ON api_keys to it,"
            " or run `switchboard migrate` with it"
        ) from error


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@asynccontextmanager
async def open_keys(settings: PostgresSettings) -> AsyncGenerator[PostgresKeys]:
    """Open the keys of a database. No connection is opened before the first is asked for."""
    few = {"read_pool_size": 1, "report_pool_size": 1, "write_pool_size": 1}
    quick = {"connect_timeout": _SECONDS, "statement_timeout": _SECONDS, "pool_wait": _SECONDS}
    async with open_database(settings.model_copy(update={**few, **quick})) as database:
        yield PostgresKeys(database)
