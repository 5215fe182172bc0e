"""Writes the rows of a query as JSON, within the bytes that an answer may have.

PostgreSQL writes each column as JSON and counts what is written, names included, before it sends anything: what is
beyond the limits never leaves it, so a portion can't be larger than an answer. Here the pieces are put together,
in turns that leave the event loop to others.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from app.errors import InvalidArguments
from app.services.postgres.sql.json_forms import json_expression, json_writer, size_expression, unique_names

if TYPE_CHECKING:
    Statement = PreparedStatement[asyncpg.Record]

MAX_RESULT_BYTES = 4 * 1024 * 1024
"""Rows whose JSON goes beyond this are left out, and `truncated` says so."""

MAX_ROW_BYTES = 1024 * 1024
"""A row whose JSON is larger is refused: it never leaves PostgreSQL."""

_PORTION_ROWS = 500
_TURN_CELLS = 10_000
_TURN_BYTES = 256 * 1024
"""How much is written before others get the event loop: a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Written:
    """The rows of an answer."""

    rows: bytes
    """A JSON array."""
    count: int
    truncated: bool


class RowWriter:
    """Writes the rows of one query.

    Args:
        attributes: the query's columns.
        is_select: it can be a subquery; EXPLAIN can't.
        has_long_numbers: it may make numbers that are short in memory and long as text.
    """

    def __init__(
        self, attributes: Sequence[asyncpg.Attribute], *, is_select: bool, has_long_numbers: bool = False
    ) -> None:
        self.names = unique_names([attribute.name for attribute in attributes])
        self._attributes = attributes
        self._is_select = is_select
        self._has_long_numbers = has_long_numbers
        self._keys = [f"{json.dumps(name, ensure_ascii=False)}:" for name in self.names]
        self._writers = [json_writer(attribute.type) for attribute in attributes]

    def wrap(self, sql: str, limit: int) -> str:
        """Return the SQL that answers each row as JSON and its size, and NULL for what is beyond a limit.

        Args:
            sql: the query.
            limit: most rows.
        """
        if not self._is_select:
            return sql
        names = [f"c{number}" for number in range(1, len(self._attributes) + 1)]
        typed = [(name, attribute.type) for name, attribute in zip(names, self._attributes, strict=True)]
        cells = f"ARRAY[{', '.join(json_expression(*of) for of in typed)}]::pg_catalog.text[]"
        sizes = [size_expression(*of, MAX_ROW_BYTES, as_text=self._has_long_numbers) for of in typed]
        if sizes := [size for size in sizes if size]:
            cells = f"CASE WHEN {' + '.join(sizes)} <= {MAX_ROW_BYTES} THEN {cells} END"
        aliases = f"({', '.join(names)})" if names else ""
        # Keys, commas, braces, and the quotes that a number gets here.
        overhead = 2 + sum(len(key.encode()) + 3 for key in self._keys)
        # OFFSET 0 keeps PostgreSQL from evaluating a column anew wherever it is named.
        # The line break ends a comment that the query may end with.
        return (
            f"SELECT CASE WHEN size <= {MAX_ROW_BYTES} AND total <= {MAX_RESULT_BYTES} THEN cells END, size FROM ("  # noqa: S608 - judged by the guard, parsed alone
            "SELECT cells, size, pg_catalog.sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS total FROM ("
            f"SELECT cells, pg_catalog.octet_length(pg_catalog.array_to_string(cells, '', 'null')) + {overhead} AS size"
            f" FROM (SELECT {cells} AS cells FROM (SELECT * FROM (\n{sql}\n) AS u OFFSET 0 LIMIT {limit}) AS q{aliases}"
            " OFFSET 0) AS made OFFSET 0) AS measured) AS counted"
        )

    async def write(self, statement: "Statement", values: Sequence[str | None], max_rows: int) -> Written:
        """Run what `wrap` returned and write its rows.

        Raises:
            InvalidArguments: a row is larger than a row may be.
        """
        cursor = await statement.cursor(*values)
        pieces: list[str] = []
        size = turn_size = turn_cells = 0
        while batch := await cursor.fetch(min(_PORTION_ROWS, max_rows + 1 - len(pieces))):
            for record in batch:
                cells = self._cells(record)
                if len(pieces) == max_rows or (cells is None and (record[1] or MAX_ROW_BYTES + 1) <= MAX_ROW_BYTES):
                    return _written(pieces, truncated=True)
                row = None if cells is None else self._row(cells)
                length = MAX_ROW_BYTES + 1 if row is None else len(row.encode())
                if row is None or (length > MAX_ROW_BYTES and not self._is_select):
                    raise InvalidArguments.of(
                        "query",
                        f"row {len(pieces) + 1} is larger than {MAX_ROW_BYTES:,} bytes; "
                        "select less of it: left(column, 1000)",
                    )
                size += length + 1
                if size > MAX_RESULT_BYTES:
                    return _written(pieces, truncated=True)
                pieces.append(row)
                turn_size, turn_cells = turn_size + length, turn_cells + len(self._keys)
                if turn_size > _TURN_BYTES or turn_cells > _TURN_CELLS:
                    turn_size = turn_cells = 0
                    await asyncio.sleep(0)
        return _written(pieces, truncated=False)

    def _cells(self, record: asyncpg.Record) -> "Sequence[str | None] | None":
        if self._is_select:
            return cast("list[str | None] | None", record[0])
        # Only FORMAT JSON makes a plan JSON already.
        pairs = zip(record, self._attributes, strict=True)
        return [value if attribute.type.name == "json" else json.dumps(value) for value, attribute in pairs]

    def _row(self, cells: "Sequence[str | None]") -> str:
        written = (
            f"{key}null" if cell is None else f"{key}{write(cell)}"
            for key, write, cell in zip(self._keys, self._writers, cells, strict=True)
        )
        return f"{{{','.join(written)}}}"


def _written(pieces: list[str], *, truncated: bool) -> Written:
    return Written(f"[{','.join(pieces)}]".encode(), len(pieces), truncated)
