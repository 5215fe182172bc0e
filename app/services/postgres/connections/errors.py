"""The one place that translates what PostgreSQL and its drivers say of a statement.

What they say of a connection that does not open is translated in `connecting`.
"""

from collections.abc import Mapping
from types import TracebackType

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from app.errors import (
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    TooManyRequests,
)
from app.services.postgres.connections.sharing import NO_FREE_CONNECTION


class _Translation:
    """A `with` block that translates. Every read passes one, and a generator's would take it four times as long."""

    def __init__(self, *, reading: bool) -> None:
        self._reading = reading

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (failure := _failure(error, reading=self._reading)) is not None:
            raise failure from error


_READING, _WRITING = _Translation(reading=True), _Translation(reading=False)


def postgres_errors(*, reading: bool = False) -> _Translation:
    """Return a `with` block that translates what asyncpg, SQLAlchemy and the network raise into the gateway's errors.

    What PostgreSQL says of a mistake of ours passes as it is: the gateway logs its trace and tells callers nothing.

    Args:
        reading: nothing is written, so that what got in between is no conflict: a standby ends a read that stands in
            the way of its recovery, and the same read may well succeed in a moment.

    Raises:
        BackendUnavailable: the server is down, restarts, has no free connection or no schema yet.
        BackendTimeout: it did not answer in time, or a statement ran into its time limit.
        TooManyRequests: no connection became free in time.
        Forbidden: the login may not do that.
        Conflict: the rows that exist forbid it.
        InvalidArguments: a value breaks a rule of a table, or can't be stored.
    """
    return _READING if reading else _WRITING


def _failure(error: BaseException, *, reading: bool) -> GatewayError | None:
    """Return what callers are told of a failure; None where it is none of PostgreSQL's, or a mistake of ours."""
    match error:
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return _translated(error, reading=reading)
        case DBAPIError():
            return _translated(driver_error(error), reading=reading)
        case NoFreeConnection():
            return TooManyRequests(NO_FREE_CONNECTION)
        case TimeoutError():
            return BackendTimeout("PostgreSQL did not answer in time; try again")
        case OSError():
            return BackendUnavailable("PostgreSQL can't be reached; try again shortly")
        case _:
            return None


OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""A prepared statement is of the time before a migration; it is prepared anew when it is run again."""


def driver_error(error: DBAPIError) -> BaseException:
    """Return asyncpg's exception behind SQLAlchemy's two wrappers."""
    cause: BaseException = error
    while isinstance(cause, DBAPIError) or not isinstance(cause, asyncpg.PostgresError | asyncpg.InterfaceError):
        inner = cause.orig if isinstance(cause, DBAPIError) else cause.__cause__
        if inner is None:
            break
        cause = inner
    return cause


_BY_STATE: Mapping[str, tuple[type[GatewayError], str]] = {
    # exact states first, then their classes
    "22021": (InvalidArguments, "a text holds a character that PostgreSQL can't store, such as NUL"),
    "22P05": (InvalidArguments, "a text holds a character that PostgreSQL can't store, such as NUL"),
    "23502": (InvalidArguments, "a value that the table requires is missing"),
    "23503": (Conflict, "the row refers to one that does not exist, or others still refer to it"),
    "23505": (Conflict, "a row with the same unique value exists already"),
    "23514": (InvalidArguments, "a value breaks a rule of the table"),
    "3F000": (BackendUnavailable, "the database has no such schema; run `switchboard migrate`"),
    "42P01": (BackendUnavailable, "the database lacks our tables; run `switchboard migrate`"),
    "42703": (BackendUnavailable, "the database's tables are of another version; run `switchboard migrate`"),
    "42704": (BackendUnavailable, "the database lacks a name of ours; run `switchboard migrate`"),
    "42883": (BackendUnavailable, "the database lacks a function of ours; run `switchboard migrate`"),
    "42501": (Forbidden, "the gateway's login at PostgreSQL may not do that"),
    "25006": (Forbidden, "the connection may only read"),
    "40001": (Conflict, "another change got in between; try again"),
    "40P01": (Conflict, "two changes waited for each other; try again"),
    "53300": (BackendUnavailable, "PostgreSQL has no free connection; try again shortly"),
    "55P03": (BackendTimeout, "another change holds the row; try again"),
    "57014": (BackendTimeout, "the statement ran into its time limit; ask for less or narrow it"),
    "08": (BackendUnavailable, "the connection to PostgreSQL was lost; try again"),
    "22": (InvalidArguments, "a value is outside of what its column or function takes"),
    "23": (Conflict, "the change breaks a constraint"),
    "53": (BackendUnavailable, "PostgreSQL has run out of a resource; try again shortly"),
    "57": (BackendUnavailable, "PostgreSQL is starting, stopping or ended the connection; try again shortly"),
    "58": (BackendUnavailable, "PostgreSQL has a failure of its system; see its log"),
    "XX": (BackendUnavailable, "PostgreSQL has an internal failure; see its log"),
}


def _translated(error: BaseException, *, reading: bool) -> GatewayError | None:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if reading and state in ("40001", "40P01"):
            return BackendUnavailable("the server had to end the read in favour of a change; try again", retry_after=1)
        kind, message = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or (None, "")
        return kind and kind(message)
    if isinstance(error, ValueError):  # the driver's own DataError, which it exports under no name: nothing was sent
        return InvalidArguments("a value is outside of what its column or function takes")
    return BackendUnavailable("the connection to PostgreSQL was lost; try again")
