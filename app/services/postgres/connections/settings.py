"""Where the support database is and how much of it the gateway may take."""

import os
from typing import Annotated
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import BackendNotConfigured

Seconds = Annotated[float, Field(gt=0, le=3600)]

_SCHEMES = ("postgresql", "postgres")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Options of libpq that asyncpg would send to the server as settings of the session, which refuses them.
_ONLY_LIBPQ = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "pgbouncer",
        "requiressl",
        "tcp_user_timeout",
    }
)


def asyncpg_dsn(url: str) -> str:
    """Return an address of PostgreSQL, as people write it, in the form that asyncpg reads.

    Accepts `postgresql://` and `postgres://`, with or without a driver (`postgresql+asyncpg://`); unix sockets
    (`postgresql:///support?host=/run/postgresql`); several hosts; passwords with an unquoted `@`; libpq's options.

    Raises:
        ValueError: it is no such address. The message says why and repeats nothing of it.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.partition("+")[0].lower() not in _SCHEMES:
        raise ValueError("expected postgresql://user:password@host:port/database")
    # urlsplit would take an `@` or a bracket in a password for something else, so the login is cut off first.
    authority, slash, tail = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if not slash and "?" in hosts:
        hosts, _, query = hosts.partition("?")
        tail = f"?{query}"
    if "#" in rest:
        raise ValueError("`#` has a meaning in an address; write %23 in a password")
    try:
        parts = urlsplit(f"postgresql:///{tail}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("the options after `?` are not written as name=value&name=value") from None
    _check_hosts(hosts)
    if "ssl" in options:
        truth = options.pop("ssl").lower()
        options.setdefault("sslmode", {"true": "require", "false": "disable"}.get(truth, truth))
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"sslmode is one of {', '.join(_SSL_MODES)}")
    user, colon, password = login.partition(":")
    quoted = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    query = urlencode({name: value for name, value in options.items() if name not in _ONLY_LIBPQ}, quote_via=quote)
    return f"postgresql://{quoted}{at}{hosts}{parts.path.rstrip('/')}" + (f"?{query}" if query else "")


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        _, _, port = host.rpartition("]")[2].partition(":")
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("the port after the host is no number from 1 to 65535 (write %2F for a / in a password)")


def _read_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    try:
        return SecretStr(asyncpg_dsn(url.get_secret_value()))
    except ValueError as error:
        raise ValueError(f"DATABASE_{(info.field_name or 'url').upper()}: {error}") from None


PostgresUrl = Annotated[SecretStr, AfterValidator(_read_url)]
"""An address of PostgreSQL. Once validated it is asyncpg's form of it; printing it shows nothing."""


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
        description="DATABASE_READER_URL: the same database with a login that is a member of switchboard_reader.",
    )
    read_pool_size: int = Field(
        default_factory=lambda: 3 * (os.cpu_count() or 2),
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

    def require_url(self) -> str:
        """Return asyncpg's form of `DATABASE_URL`.

        Raises:
            BackendNotConfigured: it is not set.
        """
        return _required(self.url, "DATABASE_URL", "postgresql://user:password@host:5432/customer_support")

    def require_reader_url(self) -> str:
        """Return asyncpg's form of `DATABASE_READER_URL`.

        Raises:
            BackendNotConfigured: it is not set.
        """
        return _required(
            self.reader_url,
            "DATABASE_READER_URL",
            "a login of the same database that is a member of switchboard_reader",
        )


def _required(url: SecretStr | None, variable: str, example: str) -> str:
    if url is None:
        raise BackendNotConfigured(f"{variable} is not set; set it to {example}")
    return url.get_secret_value()
