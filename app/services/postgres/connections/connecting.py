"""Opens connections, one way for all: hosts as libpq tries them, poolers, and what is wrong when it is wrong."""

import asyncio
import configparser
import logging
import os
import random
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from app.errors import BackendNotConfigured, BackendTimeout, BackendUnavailable, GatewayError
from app.outages import Outages, at, cause_of
from app.services.postgres.connections.address import TLS_FILES, Address
from app.services.postgres.connections.settings import Pooler

if TYPE_CHECKING:
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection

_log = logging.getLogger(__name__)

MARGIN = 2.0
"""Seconds by which we wait longer than the server's own limit, so that its answer comes first if it can answer."""

_INTRODUCTION = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('default_transaction_read_only') = 'on'
"""
_FOR_EVERYBODY = {"application_name": "switchboard", "timezone": "UTC"}
"""Settings that a pooler knows and keeps apart for each of its clients. It refuses all others at the start."""


class Connection(_Base):
    """A connection, and what was found out about it when it was opened."""

    is_pooled: bool = False
    """Whether each transaction may run on another connection of the server: nothing of a session lasts."""
    in_recovery: bool = False
    """Whether the server is a standby."""
    reads_only: bool = False
    """Whether transactions read only unless they say otherwise, by the server's own settings."""
    pins: str = ""
    """What follows BEGIN where nothing of a session lasts: SQL that brings the settings. Empty elsewhere."""
    _worked: float = 0.0

    def end(self) -> None:
        """End it without a word, if it has not ended: a pool's proxy can't any more once its connection has."""
        if not self.is_closed():
            self.terminate()

    def _clean_tasks(self) -> None:
        """Let requests go on that end what it runs, once it has ended itself.

        asyncpg would give them up while they connect: PostgreSQL were not told, and a future of theirs that nobody
        waits for any more would say so in the log, once for each.
        """

    def has_worked(self, seconds: float, most: float) -> None:
        """Count the work of a connection, and end it once that is enough.

        Args:
            seconds: of this time.
            most: seconds in all, after which it ends.
        """
        self._worked += seconds
        if self._worked > most:
            self.end()


class Connector:
    """Opens connections to one address.

    Args:
        where: returns the address, or raises `BackendNotConfigured`; asked when a connection is opened.
        connect_timeout: seconds that a host may take, unless the address says otherwise.
        pooler: how a pooler in front of the server lends its connections.
        session: settings of the server that each connection has. What the address asks for goes first.
        command_timeout: seconds after which a statement is given up, for a server that does not answer.
        outages: hears of each host that can't be used; shared by all that open connections for one server.
    """

    def __init__(
        self,
        where: Callable[[], Address],
        *,
        connect_timeout: float,
        pooler: Pooler = "auto",
        session: Mapping[str, str] | None = None,
        command_timeout: float | None = None,
        outages: Outages | None = None,
    ) -> None:
        self._where = where
        self._connect_timeout = connect_timeout
        self._pooler: Pooler = pooler
        self._session = session or {}
        self._command_timeout = command_timeout
        self._outages = outages or Outages(_log)

    async def open(self) -> Connection:
        """Open a connection.

        The hosts are tried in turn, each for its whole time. One that refuses the login ends it, since another would
        refuse it too; so it is with libpq.

        Raises:
            BackendNotConfigured: a setting is wrong; the message names it.
            BackendTimeout: no host answered in time.
            BackendUnavailable: no host can be reached, or none is what `target_session_attrs` asks for.
        """
        address = self._where()
        hosts: list[_Host] = list(address.hosts) or [None]
        if address.balanced:
            random.shuffle(hosts)
        failure: GatewayError | None = None
        answered = False
        for target in ("standby", "any") if address.target == "prefer-standby" else (address.target,):
            for host in hosts:
                try:
                    connection = await self._connect(address, host)
                except _ERRORS as error:
                    failure = self._failure(error, address, host)
                    if not isinstance(error, _FOR_THE_NEXT_HOST) or _is_about_tls(error, address):
                        raise failure from error
                    continue
                answered = True
                if _suits(connection, target):
                    self._outages.up(_place(host), _place(host, address))
                    return connection
                connection.terminate()
        if failure is not None and not answered:
            raise failure
        raise BackendUnavailable(
            f"{address.variable}: no host that answers is what target_session_attrs={address.target} asks for;"
            " try again shortly"
        )

    async def _connect(self, address: Address, host: "_Host") -> Connection:
        options: dict[str, Any] = {"host": host[0], "port": host[1]} if host else {}
        if address.wants_system_roots:
            options["ssl"] = ssl.create_default_context()
        session = {**self._session, **address.session}
        seconds = address.connect_timeout or self._connect_timeout
        if (service := address.options.get("service")) and not _is_known(service):
            raise _UnknownService
        async with asyncio.timeout(seconds):
            connection = await asyncpg.connect(
                address.dsn,
                **options,
                # Which host suits is judged here: asyncpg takes settings of ours for the server's.
                target_session_attrs=SessionAttribute.any,
                timeout=2 * seconds,  # the limit is the one around this
                command_timeout=self._patience(address),
                # A cache names its statements, and behind a pooler another connection does not know the name.
                statement_cache_size=0,
                connection_class=Connection,
                server_settings={name: session.get(name, value) for name, value in _FOR_EVERYBODY.items()},
            )
            try:
                await self._introduce(connection, address, session)
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _patience(self, address: Address) -> float | None:
        """Return how long we wait for a statement: a little longer than the server works on it."""
        if self._command_timeout is None or address.statement_timeout is None:
            return self._command_timeout
        return address.statement_timeout + MARGIN if address.statement_timeout else None

    async def _introduce(self, connection: Connection, address: Address, session: Mapping[str, str]) -> None:
        """Find out who answers, and bring the settings: once and for all or, behind a pooler, for each transaction."""
        process, in_recovery, read_only = await connection.fetchrow(_INTRODUCTION) or (0, False, False)
        connection.in_recovery, connection.reads_only = in_recovery, in_recovery or read_only
        # A pooler gives its clients numbers of its own.
        is_pooler = process != connection.get_server_pid()
        lends_transactions = address.pooled or is_pooler if self._pooler == "auto" else self._pooler == "transaction"
        connection.is_pooled = lends_transactions
        if not session:
            return
        pins = f"SELECT {_settings_sql(session, local=lends_transactions)}"
        if connection.is_pooled:
            connection.pins = f"; {pins}"
        try:
            await connection.execute(f"BEGIN; {pins}; ROLLBACK" if lends_transactions else pins)
        except asyncpg.PostgresError as error:
            if error.sqlstate not in _REFUSED_SETTINGS:
                raise
            raise _WrongSetting(await self._refused_setting(connection)) from error

    async def _refused_setting(self, connection: Connection) -> str | None:
        """Return the address's setting that the server does not take; None if it is one of ours."""
        for name, value in self._where().session.items():
            setting = _settings_sql({name: value}, local=True)
            try:
                await connection.execute(f"ROLLBACK; BEGIN; SELECT {setting}; ROLLBACK")
            except asyncpg.PostgresError:
                return name
        return None

    def _failure(self, error: BaseException, address: Address, host: "_Host") -> GatewayError:
        """Return what to tell the caller of a connection that did not open; the log gets the cause."""
        failure = _explained(error, address, address.connect_timeout or self._connect_timeout)
        # A host that is away is so for every login; what it refuses to one it may grant to another.
        answers = isinstance(error, asyncpg.PostgresError) and not isinstance(error, _ENDED)
        if answers or isinstance(failure, BackendNotConfigured):
            self._outages.down(_place(host, address), f"{failure.detail} ({_cause(error)})")
        else:
            self._outages.down(_place(host), _cause(error))
        return failure


_Host = tuple[str, int] | None


class _WrongSetting(Exception):
    """PostgreSQL does not take a setting; its name, or None for one of ours."""


class _UnknownService(Exception):
    """The address names a service that no file describes. asyncpg would go on without."""


_ERRORS = (
    OSError,
    ValueError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    _WrongSetting,
    _UnknownService,
)
_ENDED = (asyncpg.OperatorInterventionError, asyncpg.ConnectionDoesNotExistError)
"""The host stops, or the connection broke before it was there."""
_FOR_THE_NEXT_HOST = (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)
"""The host can't be reached, or is not ready. TimeoutError is an OSError."""
_REFUSED_SETTINGS = ("42704", "22023", "42501", "42602", "55P02")


def _suits(connection: Connection, target: str) -> bool:
    match target:
        case "read-write":
            return not connection.reads_only
        case "read-only":
            return connection.reads_only
        case "primary":
            return not connection.in_recovery
        case "standby":
            return connection.in_recovery
        case _:
            return True


def _settings_sql(settings: Mapping[str, str], *, local: bool) -> str:
    written = str(local).lower()
    return ", ".join(f"pg_catalog.set_config({_quoted(n)}, {_quoted(v)}, {written})" for n, v in settings.items())


def _quoted(text: str) -> str:
    """Return a string literal that means the same whatever `standard_conforming_strings` says."""
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f"E'{doubled}'" if "\\" in text else f"'{doubled}'"


def _place(host: _Host, address: Address | None = None) -> str:
    """Return what the log calls a host, or an address's login at it."""
    backend = f"PostgreSQL for {address.variable}" if address else "PostgreSQL"
    return at(backend, *host) if host else f"{backend} at the host of PGHOST, or the local one"


def _cause(error: BaseException) -> str:
    """Return what the operator needs: the driver's and the system's words, which callers don't get."""
    if isinstance(error, asyncpg.PostgresError):
        return f"SQLSTATE {error.sqlstate}: {error.args[0] if error.args else ''}"
    return cause_of(error)


def _is_about_tls(error: BaseException, address: Address) -> bool:
    """Tell whether an error is of the certificates or of the agreement on TLS, and so the same at every host."""
    refused = isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)
    return refused or isinstance(error, ssl.SSLError) or _wrong_file(address) is not None


def _explained(error: BaseException, address: Address, seconds: float) -> GatewayError:
    """Return what to tell the caller: which setting is wrong and why, or that the server is not there."""
    variable = address.variable
    mode = address.options.get("sslmode", "prefer")
    match error:
        case TimeoutError():
            return BackendTimeout(f"PostgreSQL of {variable} did not answer within {seconds:g} s; try again shortly")
        case socket.gaierror() if error.errno == socket.EAI_AGAIN:
            return BackendUnavailable(
                f"the name of {variable}'s host can't be resolved now, since DNS does not answer; try again shortly"
            )
        case socket.gaierror():
            return BackendNotConfigured(f"{variable}: its host has a name that DNS does not know; correct the host")
        case UnicodeError():
            return BackendNotConfigured(f"{variable}: its host has a name that no host can have; correct the host")
        case _UnknownService():
            return BackendNotConfigured(
                f"{variable}: no file (PGSERVICEFILE, ~/.pg_service.conf) describes the service that it names"
            )
        case _WrongSetting(args=(str(name),)):
            return _not_taken(name, variable)
        case _WrongSetting():
            return BackendNotConfigured(
                "PostgreSQL does not know a setting that the gateway uses; it has to be version 15 or newer"
            )
        case ssl.SSLCertVerificationError():
            reason = _CERTIFICATE.get(error.verify_code, "can't be verified")
            return BackendNotConfigured(
                f"{variable}: the server's certificate {reason}, as sslmode={mode} asks for; correct sslrootcert"
                " or the host"
            )
        case asyncpg.PostgresError():
            return _of_the_server(error, address)
        case _:
            pass
    if (problem := _wrong_file(address)) is not None:
        return BackendNotConfigured(f"{variable}: {problem}")
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return BackendNotConfigured(
            f"{variable}: sslmode={mode} asks for TLS, which the server does not offer; turn it on there, or choose"
            " sslmode=prefer"
        )
    if isinstance(error, ssl.SSLError):
        others = ", ".join(name for name in address.options if name.startswith("ssl") and name != "sslmode")
        return BackendNotConfigured(
            f"{variable}: the server and the gateway can't agree on TLS (sslmode={mode}{', ' if others else ''}"
            f"{others}); the log says why"
        )
    if isinstance(error, OSError):
        return BackendUnavailable(f"PostgreSQL of {variable} can't be reached; try again shortly")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError | ValueError):
        if mode in ("verify-ca", "verify-full") and "sslrootcert" not in address.options:
            return BackendNotConfigured(
                f"{variable}: sslmode={mode} needs the authority that signed the server's certificate: add"
                " sslrootcert=FILE, or sslrootcert=system with sslmode=verify-full"
            )
        return BackendNotConfigured(
            f"{variable}: an option of TLS, of the hosts or of the login can't be used as it is written; the log says"
            " which"
        )
    if isinstance(error, asyncpg.InterfaceError):
        return BackendNotConfigured(
            f"{variable}: the gateway can't log in the way that the server wants (pg_hba.conf); the log says which"
        )
    return BackendUnavailable(f"PostgreSQL of {variable} ended the connection while it was opened; try again shortly")


def _not_taken(name: str, variable: str) -> BackendNotConfigured:
    return BackendNotConfigured(
        f"{variable}: PostgreSQL does not take `{name}` as it is given there, since it knows no such setting or"
        " not that value, or the login may not set it; correct it or take it out of the address"
    )


def _is_known(service: str) -> bool:
    """Tell whether the file of services that libpq would read describes one."""
    services = configparser.ConfigParser(interpolation=None)
    try:
        services.read(os.environ.get("PGSERVICEFILE") or Path("~/.pg_service.conf").expanduser())
    except configparser.Error:
        return False
    return service in services


_CERTIFICATE = {
    2: "is not signed by an authority in sslrootcert",
    3: "can't be looked up in sslcrl, which names no list of its authority",
    9: "is not valid yet",
    10: "has expired",
    11: "can't be looked up in sslcrl, whose list is not valid yet",
    12: "can't be looked up in sslcrl, whose list has expired",
    18: "is signed by itself and is not in sslrootcert",
    19: "is not signed by an authority in sslrootcert",
    20: "is not signed by an authority in sslrootcert",
    21: "is not signed by an authority in sslrootcert",
    23: "was revoked (sslcrl)",
    62: "is made out to another name than the host in the address",
    64: "is made out to another name than the host in the address",
}
"""By OpenSSL's numbers."""


_PARAMETER = re.compile(r'parameter "(\w+)"')


def _of_the_server(error: asyncpg.PostgresError, address: Address) -> GatewayError:
    state, message, variable = error.sqlstate or "", str(error.args[0]) if error.args else "", address.variable
    match state:
        case "28P01":
            file = address.options.get("passfile")
            missing = file and not Path(file).is_file()
            return BackendNotConfigured(
                f"PostgreSQL refuses the login of {variable}; check its user and password"
                + (" (passfile names a file that does not exist)" if missing else "")
            )
        case _ if state in _REFUSED_SETTINGS and (named := _PARAMETER.search(message)):
            written = {name.lower(): name for name in address.session}
            return _not_taken(written.get(named[1].lower(), named[1]), variable)
        case "28000":
            return BackendNotConfigured(
                f"PostgreSQL refuses the login of {variable}: it has no such user, or pg_hba.conf does not let it in"
                " from here, or not with this sslmode"
            )
        case "3D000":
            return BackendNotConfigured(
                f"PostgreSQL has no database of the name in {variable}; create it or correct the address"
            )
        case "53300":
            return BackendUnavailable(f"PostgreSQL has no free connection for {variable}; try again shortly")
        case "08P01" if message == "SSL required":
            mode = address.options.get("sslmode", "prefer")
            return BackendNotConfigured(
                f"{variable}: the pooler in front of the server wants TLS, and sslmode={mode} does without; choose"
                " sslmode=require"
            )
        case "08P01":
            return BackendUnavailable(
                f"the server of {variable}, or a pooler in front of it, refuses the connection; the log says why"
            )
        case _ if state.startswith("57"):
            return BackendUnavailable(f"PostgreSQL of {variable} is starting or stopping; try again shortly")
        case _ if state.startswith("28"):
            return BackendNotConfigured(f"PostgreSQL refuses the login of {variable}; the log says why")
        case _:
            return BackendUnavailable(f"PostgreSQL of {variable} did not open a connection; the log says why")


def _wrong_file(address: Address) -> str | None:
    """Return what is wrong with a file that the address names, None if all can be used."""
    paths = {name: path for name in TLS_FILES if (path := address.options.get(name)) and path != "system"}
    for name, path in paths.items():
        try:
            Path(path).open("rb").close()
        except FileNotFoundError:
            return f"{name} names a file that does not exist"
        except OSError as error:
            return f"{name} names a file that can't be read ({error.strerror})"
    for name, path in paths.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if name in ("sslrootcert", "sslcrl"):
                context.load_verify_locations(path)
            elif name == "sslcert":
                context.load_cert_chain(
                    path, address.options.get("sslkey"), password=address.options.get("sslpassword", "")
                )
        except OSError:
            return {
                "sslcert": "sslcert and sslkey don't belong together, are not in PEM form, or sslpassword is wrong",
                "sslrootcert": "sslrootcert names a file without certificates in PEM form",
                "sslcrl": "sslcrl names a file without a list in PEM form",
            }[name]
    return None
