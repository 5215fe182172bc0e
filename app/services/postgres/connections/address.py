"""Addresses of PostgreSQL as people write them, read as libpq reads them."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

_SCHEMES = ("postgresql", "postgres")

Target = Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]
"""What `target_session_attrs` may ask of a host."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_WISHES = ("disable", "prefer", "require")
_CHOICES: Mapping[str, Sequence[str]] = {
    "channel_binding": _WISHES,
    "gssencmode": _WISHES,
    "load_balance_hosts": ("disable", "random"),
    "pgbouncer": ("true", "false"),
    "requiressl": ("0", "1"),
    "ssl": ("true", "false", *_SSL_MODES),
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "sslmode": _SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": get_args(Target),
}
"""Options that have one of a few values."""

TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_FOR_ASYNCPG = frozenset(
    {
        "database", "dbname", "host", "krbsrvname", "passfile", "password", "port", "service",
        "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslnegotiation", "sslpassword", "user",
        *TLS_FILES,
    }
)  # fmt: skip
"""Options that asyncpg reads from an address itself."""

_OF_THE_LOGIN = ("database", "dbname", "password", "user")

_OF_NO_CONSEQUENCE = frozenset(
    {
        "channel_binding", "client_encoding", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle",
        "keepalives_interval", "max_protocol_version", "min_protocol_version", "sslcompression", "sslsni",
        "tcp_user_timeout",
    }
)  # fmt: skip
"""libpq's options that asyncpg has no counterpart for, and that change nothing of what callers see."""

_UNKNOWN_OF_LIBPQ = (
    "gssdelegation", "gsslib", "oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "replication",
    "require_auth", "requirepeer", "scram_client_key", "scram_server_key", "servicefile", "sslcertmode",
    "sslkeylogfile",
)  # fmt: skip

_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(_UNKNOWN_OF_LIBPQ, "an option of libpq that the gateway does not know"),
    "schema": "an option of Prisma; the gateway's tables are found by search_path",
    "ApplicationName": "an option of JDBC; PostgreSQL's own is application_name",
    "charset": "an option of another program; the gateway speaks UTF-8",
    "encoding": "an option of another program; the gateway speaks UTF-8",
    "sslaccept": "an option of Prisma; sslmode says what is asked of a certificate",
    "uselibpqcompat": "an option of node-postgres; sslmode means what it means to libpq anyway",
    "currentSchema": "an option of JDBC; PostgreSQL's own is search_path",
    "connection_limit": "an option of Prisma; DATABASE_READ_POOL_SIZE and its like size the pools",
    "pool_timeout": "an option of Prisma; DATABASE_POOL_WAIT says how long a call waits",
    "socket_timeout": "an option of Prisma; DATABASE_STATEMENT_TIMEOUT limits statements",
    "statement_cache_size": "an option of a driver; behind a pooler the gateway prepares no statements anyway",
    "prepared_statement_cache_size": "an option of a driver; behind a pooler the gateway prepares none anyway",
    "prepareThreshold": "an option of JDBC; behind a pooler the gateway prepares no statements anyway",
    "pool_size": "an option of a pool; DATABASE_READ_POOL_SIZE and its like size the pools",
    "max_overflow": "an option of SQLAlchemy; DATABASE_READ_POOL_SIZE and its like size the pools",
    "command_timeout": "an option of a driver; DATABASE_STATEMENT_TIMEOUT limits statements",
    "hostaddr": "an option of libpq that the gateway does not know; write the address as the host",
    "async_fallback": "an option of SQLAlchemy, without a meaning here",
    "sslhost": "an option of a proxy, without a meaning here",
}  # fmt: skip
"""Options of other programs that people copy, and what to do instead. PostgreSQL would take them for its settings."""

_SETTING = re.compile(r"[A-Za-z_][\w.]*")
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|\S)*)\s*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, None: 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Address:
    """An address of PostgreSQL, taken apart. Its text form shows nothing of it."""

    variable: str
    """The variable of the environment that it comes from, for messages."""
    dsn: str = field(repr=False)
    """What asyncpg reads: the login, the database and TLS."""
    hosts: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    """Each host (or the folder of a socket) with its port; empty leaves both to libpq's variables and defaults."""
    target: Target = "any"
    balanced: bool = False
    """Whether hosts are tried in random order (`load_balance_hosts`)."""
    connect_timeout: float | None = None
    """Seconds a host may take; None leaves it to the settings."""
    session: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Settings of the server that the address asks for, such as `statement_timeout`."""
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """The options after the `?`, for telling what is wrong with them."""
    pooled: bool = False
    """Whether it says `pgbouncer=true`."""
    complaint: str | None = None
    """An option that nobody can follow, and what to do about it."""

    @property
    def statement_timeout(self) -> float | None:
        """Seconds of `statement_timeout` in the address; None where it has none or PostgreSQL is to read it."""
        written = self.session.get("statement_timeout")
        found = _DURATION.fullmatch(written.strip()) if written else None
        return float(found[1]) * _SECONDS[found[2]] if found else None

    @property
    def wants_system_roots(self) -> bool:
        """Whether the machine's own certificates are trusted (`sslrootcert=system`), as libpq 16 does."""
        return self.options.get("sslrootcert") == "system"

    def with_login(self, user: str, password: str) -> str:
        """Return an address, as `read` takes it, of the same database for another login."""
        parts = urlsplit(self.dsn)
        options = {name: value for name, value in self.options.items() if name not in ("user", "password", "passfile")}
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
        query = urlencode(options, quote_via=quote)
        return urlunsplit(("postgresql", login, parts.path, query, ""))

    @classmethod
    def read(cls, url: str, variable: str = "DATABASE_URL") -> "Address":
        """Take an address apart.

        Accepts `postgresql://` and `postgres://`, with or without a driver (`postgresql+asyncpg://`); unix sockets
        (`postgresql:///support?host=/run/postgresql`); several hosts; passwords with an unquoted `@`; libpq's options
        and settings of the server.

        Raises:
            ValueError: it is no such address. The message says why and repeats nothing of it.
        """
        if url.strip()[:1] in ("'", '"'):
            raise ValueError("take the quotation marks around the address away; they are not a part of it")
        scheme, separator, rest = url.strip().partition("://")
        if not separator or scheme.partition("+")[0].lower() not in _SCHEMES:
            raise ValueError("expected postgresql://user:password@host:port/database")
        # urlsplit would take an `@` or a bracket in a password for something else, so the login is cut off first.
        authority, slash, tail = rest.partition("/")
        login, _, hosts = authority.rpartition("@")
        if not slash and "?" in hosts:
            hosts, _, query = hosts.partition("?")
            tail = f"?{query}"
        if "#" in rest:
            raise ValueError("`#` has a meaning in an address; write %23 in a password")
        try:
            parts = urlsplit(f"postgresql:///{tail}")
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ValueError("the options after `?` are not written as name=value&name=value") from None
        options = dict(pairs)
        _check_options(pairs)
        if "\0" in unquote(rest):
            raise ValueError("it holds a NUL (%00), which PostgreSQL can't have anywhere")
        _read_tls(options)
        kept = {name: value for name, value in options.items() if name in _FOR_ASYNCPG and name not in _OF_THE_LOGIN}
        if kept.get("sslrootcert") == "system":
            del kept["sslrootcert"]
        query = urlencode(kept, quote_via=quote)
        # What stands behind the `?` goes before what stands in front of it.
        user, _, password = login.partition(":")
        user, password = options.get("user", unquote(user)), options.get("password", unquote(password))
        database = options.get("dbname") or options.get("database")
        path = parts.path.rstrip("/") if database is None else f"/{quote(database, safe='')}"
        quoted = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        return cls(
            variable,
            dsn=f"postgresql://{quoted}{'@' if quoted else ''}{hosts}{path}" + (f"?{query}" if query else ""),
            hosts=_hosts(hosts, options),
            target=cast("Target", options.get("target_session_attrs", "any")),
            balanced=options.get("load_balance_hosts") == "random",
            connect_timeout=_connect_timeout(options.get("connect_timeout", "")),
            session=_session(options),
            options=options,
            pooled=options.get("pgbouncer", "").lower() == "true",
            complaint=_complaint(variable, options),
        )


def _check_options(pairs: Sequence[tuple[str, str]]) -> None:
    given = [name for name, _ in pairs]
    for name, value in pairs:
        choices = _CHOICES.get(name)
        if choices is not None and (value.lower() if name in ("pgbouncer", "ssl") else value) not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}")
        if given.count(name) > 1:
            # A name that nobody knows may be a part of a password.
            known = name in _CHOICES or name in _FOR_ASYNCPG
            raise ValueError(f"{name if known else 'an option after `?`'} is given more than once")


def _read_tls(options: dict[str, str]) -> None:
    """Bring other spellings to libpq's own."""
    if "ssl" in options:
        truth = options.pop("ssl").lower()
        options.setdefault("sslmode", {"true": "require", "false": "disable"}.get(truth, truth))
    if options.pop("requiressl", "0") == "1":
        options.setdefault("sslmode", "require")
    if options.get("sslrootcert") == "system":
        options.setdefault("sslmode", "verify-full")
    mode = options.get("sslmode", "prefer")
    if options.get("sslnegotiation") == "direct" and mode in _SSL_MODES[:3]:
        raise ValueError("sslnegotiation=direct goes with sslmode=require, verify-ca or verify-full only")
    least, most = options.get("ssl_min_protocol_version"), options.get("ssl_max_protocol_version")
    if least and most and _TLS_VERSIONS.index(least) > _TLS_VERSIONS.index(most):
        raise ValueError("ssl_min_protocol_version is above ssl_max_protocol_version")


def _hosts(written: str, options: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    hosts = [_host_and_port(host) for host in written.split(",")] if written else []
    if options.get("host"):
        # A port in front of the `?` still counts.
        ports = {port for _, port in hosts}
        port = ports.pop() if len(ports) == 1 else None
        hosts = [(host, port) for host in options["host"].split(",")]
    if any(not host for host, _ in hosts) and (len(hosts) > 1 or written):
        raise ValueError("a host is empty")
    ports = [_port(port) for port in options["port"].split(",")] if options.get("port") else []
    if ports and len(ports) not in (1, len(hosts) or 1):
        raise ValueError("port: give one, or one for each host")
    if not hosts:
        return ()
    common = ports * len(hosts) if len(ports) == 1 else ports
    return tuple((host, (common[n] if common else port) or 5432) for n, (host, port) in enumerate(hosts))


def _host_and_port(written: str) -> tuple[str, int | None]:
    if "[" in written or "]" in written or written.count(":") > 1:
        host, closed, rest = written[1:].partition("]")
        try:
            ipaddress.IPv6Address(unquote(host))
        except ValueError:
            host = ""
        if not (host and closed and written.startswith("[") and (not rest or rest.startswith(":"))):
            raise ValueError("a host with colons is an IPv6 address in brackets, [::1]:5432")
        host, port = unquote(host), rest[1:]
    else:
        host, _, port = written.partition(":")
    return unquote(host), _port(port) if port else None


def _port(written: str) -> int:
    if not (written.isdecimal() and 0 < int(written) < 65536):
        raise ValueError("the port is no number from 1 to 65535 (write %2F for a / in a password)")
    return int(written)


def _connect_timeout(written: str) -> float | None:
    if not written:
        return None
    if not written.isdecimal():
        raise ValueError("connect_timeout is a whole number of seconds")
    return float(written) or None


def _session(options: Mapping[str, str]) -> dict[str, str]:
    """Return what the address asks of the server: its own settings, and those in `options=-c name=value`."""
    ours = {"connect_timeout", "load_balance_hosts", "options", "pgbouncer", "target_session_attrs"}
    settings: dict[str, str] = {}
    written = options.get("options", "").strip()
    place = 0
    while place < len(written):
        found = _OPTION.match(written, place)
        if found is None:
            raise ValueError("options: expected -c name=value")
        settings[found[1].replace("-", "_")] = re.sub(r"\\(.)", r"\1", found[2])
        place = found.end()
    if "fallback_application_name" in options:
        settings.setdefault("application_name", options["fallback_application_name"])
    known = _FOR_ASYNCPG | _OF_NO_CONSEQUENCE | ours | _FOREIGN.keys() | {"fallback_application_name"}
    settings |= {name: value for name, value in options.items() if name not in known}
    return settings


def _complaint(variable: str, options: Mapping[str, str]) -> str | None:
    for name in options:
        if name in _FOREIGN:
            return f"{variable}: `{name}` is {_FOREIGN[name]}; take it out of the address"
        if not _SETTING.fullmatch(name):
            return f"{variable}: an option after `?` has a name that no setting of PostgreSQL can have; take it out"
    if options.get("sslrootcert") == "system" and options["sslmode"] != "verify-full":
        return f"{variable}: sslrootcert=system goes with sslmode=verify-full only"
    if options.get("gssencmode") == "require":
        return f"{variable}: gssencmode=require can't be had, since the gateway encrypts by TLS (sslmode); take it out"
    return None
