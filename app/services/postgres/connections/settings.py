"""Where the support database is and how much of it the gateway may take."""

import os
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import BackendNotConfigured
from app.services.postgres.connections.address import Address

Seconds = Annotated[float, Field(gt=0, le=3600)]

Pooler = Literal["auto", "session", "transaction"]
"""How a pooler in front of PostgreSQL lends its connections; `auto` finds out whether there is one."""


def _read_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    variable = _variable(info.field_name or "url")
    try:
        Address.read(url.get_secret_value(), variable)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from None
    return url


def _variable(field: str) -> str:
    return f"DATABASE_{field.upper()}"


PostgresUrl = Annotated[SecretStr, AfterValidator(_read_url)]
"""An address of PostgreSQL that `Address.read` understands; printing it shows nothing."""


class PostgresSettings(BaseSettings):
    """Read from variables named `DATABASE_…`; `.env.example` explains each to operators."""

    model_config = SettingsConfigDict(
        env_prefix="DATABASE_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    url: PostgresUrl | None = Field(
        default=None, description="DATABASE_URL: the support database, with a login that writes."
    )
    reader_url: PostgresUrl | None = Field(
        default=None,
        description="DATABASE_READER_URL: the same database with a login that is a member of switchboard_reader;"
        " without it one is made whose password follows from DATABASE_URL's.",
    )
    queries: bool = Field(
        default=True,
        description="DATABASE_QUERIES: false turns query_database off, and no login is made for it.",
    )
    direct_url: PostgresUrl | None = Field(
        default=None,
        description="DATABASE_DIRECT_URL: DATABASE_URL past a pooler, for migrations and for hearing of changes.",
    )
    pooler: Pooler = Field(
        default="auto",
        description="A pooler in front of PostgreSQL: `session` if a client keeps its connection, `transaction` if "
        "not; `auto` finds out whether there is one, and then relies on nothing beyond a transaction.",
    )
    processes: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Gateway processes that share the database; the reader login's CONNECTION LIMIT is made for them.",
    )
    read_pool_size: int = Field(
        # With 11 four processes have room in PostgreSQL's default of 100 connections, however many cores there are.
        # With a third one a core fewer callers share a statement, and all are served later.
        default_factory=lambda: min(max(4, 2 * (os.cpu_count() or 2)), 11),
        ge=1,
        le=500,
        description="Connections for the short fixed reads; more than 4 a core of the database make it slower.",
    )
    report_pool_size: int = Field(
        default=2, ge=1, le=100, description="Connections for analytics, kept apart from short reads."
    )
    write_pool_size: int = Field(default=5, ge=1, le=500, description="Connections for writes.")
    reader_pool_size: int = Field(default=4, ge=1, le=100, description="Connections for query_database.")
    pool_wait: Seconds = Field(
        default=2.0, description="Seconds that a call waits for a free connection before it is told to come back."
    )
    connect_timeout: Seconds = Field(default=5.0, description="Seconds that opening a connection may take.")
    statement_timeout: Seconds = Field(
        default=15.0, description="Seconds after which PostgreSQL ends a statement of ours."
    )

    @cached_property
    def address(self) -> Address:
        """Where `DATABASE_URL` leads.

        Raises:
            BackendNotConfigured: it is not set, or holds an option that nobody can follow.
        """
        return _required(self.url, "DATABASE_URL", "postgresql://user:password@host:5432/customer_support")

    @cached_property
    def reader_address(self) -> Address:
        """Where `DATABASE_READER_URL` leads.

        Raises:
            BackendNotConfigured: as for `address`.
        """
        return _required(
            self.reader_url,
            "DATABASE_READER_URL",
            "a login of the same database that is a member of switchboard_reader",
        )

    def query_objection(self) -> BackendNotConfigured | None:
        """Return why `query_database` is off by a setting; None if it is not."""
        return None if self.queries else BackendNotConfigured("query_database is turned off: DATABASE_QUERIES is false")

    @cached_property
    def direct_address(self) -> Address:
        """Where `DATABASE_DIRECT_URL` leads, or `DATABASE_URL` if that is not set.

        Raises:
            BackendNotConfigured: as for `address`.
        """
        return _required(self.direct_url, "DATABASE_DIRECT_URL", "") if self.direct_url else self.address

    def unconfigured(self) -> BackendNotConfigured | None:
        """Return what is missing if nothing at all could work; None if something could."""
        try:
            _ = self.reader_url or self.address
        except BackendNotConfigured as error:
            return error
        return None

    @property
    def administration_url(self) -> str:
        """The address for migrations and logins: a pooler, which keeps nothing of a session, is passed by.

        Raises:
            BackendNotConfigured: as for `address`.
        """
        assert self.direct_address
        url = self.direct_url or self.url
        assert url is not None
        return url.get_secret_value()

    @property
    def connections(self) -> int:
        """Most connections of one process with the login of `DATABASE_URL`: one is for hearing of changes, one for
        looking up keys."""
        return self.read_pool_size + self.report_pool_size + self.write_pool_size + 2

    @property
    def reader_connections(self) -> int:
        """The reader login's CONNECTION LIMIT: all processes' connections, and as many again while a deployment
        replaces one process after the other."""
        return 2 * self.processes * self.reader_pool_size


def _required(url: SecretStr | None, variable: str, example: str) -> Address:
    if url is None:
        raise BackendNotConfigured(f"{variable} is not set; set it to {example}", missing=variable)
    address = Address.read(url.get_secret_value(), variable)
    if address.complaint:
        raise BackendNotConfigured(address.complaint)
    return address
