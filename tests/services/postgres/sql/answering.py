"""A reader whose answers are models again, held against the schema that callers are shown."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.sql.guard import SqlGuard
from app.services.postgres.sql.reader import QueryResult, SqlReader, open_sql_reader


class AnsweringReader:
    """Runs queries as `SqlReader` does.

    Args:
        reader: what runs them.
    """

    def __init__(self, reader: SqlReader) -> None:
        self.reader = reader

    async def query(
        self, query: str, params: Sequence[Any] = (), max_rows: int = 100, timeout_ms: int | None = None
    ) -> QueryResult:
        """Return the answer as the model that documents it."""
        answer = await self.reader.query(query, params, max_rows, timeout_ms)
        return QueryResult.model_validate_json(answer.json, strict=True)


@asynccontextmanager
async def open_answering_reader(
    settings: PostgresSettings, guard_class: type[SqlGuard] = SqlGuard
) -> AsyncGenerator[AnsweringReader]:
    """Open a reader of a database's own login."""
    async with open_sql_reader(settings, guard_class) as reader:
        yield AnsweringReader(reader)
