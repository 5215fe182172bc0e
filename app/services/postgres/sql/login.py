"""The login of `query_database`, which may do nothing but read the four tables: how it is made, and known."""

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import secrets
import time
from copy import copy
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import asyncpg

from app.errors import BackendNotConfigured, Conflict, Forbidden, GatewayError
from app.outages import Outages
from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connection, Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.connections.settings import PostgresSettings
from app.single_flight import SingleFlight

_log = logging.getLogger(__name__)

READER_LOGIN = "switchboard_reader_login"
"""The login that `switchboard dev` and the tests make; operators may choose another name."""

READER_CONNECTIONS = 32
"""The CONNECTION LIMIT that fits the settings' defaults: four processes of four connections, and their successors."""

_READER_SETTINGS = {
    "default_transaction_read_only": "'on'",
    "statement_timeout": "'30s'",
    "idle_in_transaction_session_timeout": "'60s'",
    "temp_file_limit": "'256MB'",
    # With it off, '\\'' ends a string for the server and not for the parser that looks for forbidden calls.
    "standard_conforming_strings": "'on'",
    "search_path": "{schema}, pg_temp",
}

_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_LIMIT_AND_TOO_MUCH = """
SELECT rolconnlimit,
       concat(CASE WHEN rolcreatedb THEN ' NOCREATEDB' END, CASE WHEN rolcreaterole THEN ' NOCREATEROLE' END)
FROM pg_roles WHERE rolname = $1
"""
_LOCK = "SELECT pg_advisory_xact_lock(7286459018242)"
_ITERATIONS = 4096
"""PostgreSQL's own."""
_TRY_AGAIN_AFTER = 60.0
"""Seconds for which it is remembered that the login could not be made: an attempt costs connections, and log lines."""
_REFUSALS = ("08", "28", "42")
"""Classes of SQLSTATE by which PostgreSQL, or a pooler, says that it does not know a login, or not so."""


@dataclass(frozen=True)
class ReaderLogin:
    """A login of `query_database` and what could not be set up for it."""

    url: str
    warnings: tuple[str, ...]
    """What the administrator's own rights did not allow, in words; empty with a superuser."""


async def ensure_reader_login(
    admin_url: str,
    password: str | None = None,
    *,
    name: str = READER_LOGIN,
    connections: int = READER_CONNECTIONS,
    change_password: bool = False,
    revoke_temporary: bool = True,
    outages: Outages | None = None,
) -> ReaderLogin:
    """Make, or bring up to date, a login that may do nothing but read the four tables.

    `switchboard dev`, `switchboard migrate --reader-password` and the tests call this. An operator may do the same by
    hand, as `docs/query-database.md` says. A role's settings are not inherited, so they stand on the login itself.

    Args:
        admin_url: the migrated database, with a login that may create roles.
        password: the login's password; a random one if left out.
        name: the login's name. Logins are of the whole cluster, so each database wants one of its own.
        connections: its CONNECTION LIMIT; a higher one that is there already stays.
        change_password: give a login that exists the password, whoever uses it with another one.
        revoke_temporary: take the right to temporary tables from everybody who was not given it by name, since the
            login has it through PUBLIC. It takes a decision, because the database may be others', too.
        outages: hears of the database when it can't be reached.

    Returns:
        The address of the same database with the new login, and what the administrator's rights did not allow.

    Raises:
        Conflict: the login exists with another password.
        GatewayError: the server can't be reached, or the administrator may not create roles.
    """
    address = Address.read(admin_url)
    password = password or secrets.token_urlsafe(24)
    url = address.with_login(name, password)
    connection = await Connector(lambda: address, connect_timeout=10, outages=outages).open()
    try:
        with postgres_errors():
            exists = await connection.fetchval(_EXISTS, name)
            if exists and not change_password:
                await _check_password(name, url)
            keeps_password = exists and not change_password
            warnings = await _make_reader_login(
                connection,
                name,
                None if keeps_password else password,
                connections,
                revoke_temporary=revoke_temporary,
            )
    finally:
        await connection.close()
    return ReaderLogin(url, tuple(warnings))


async def _check_password(name: str, url: str) -> None:
    """Log in, since nothing else tells whether a password is the one that a login has."""
    try:
        # A wrong password is no outage of DATABASE_URL, and the conflict says what there is to say.
        connection = await Connector(lambda: Address.read(url), connect_timeout=10, outages=Outages(None)).open()
    except BackendNotConfigured:
        raise Conflict(
            f"The login {name} exists in this cluster, and not with this password: whoever uses it would be locked out."
            " Choose another name by --reader-login, or ask for the change by --change-reader-password."
        ) from None
    await connection.close()


async def _make_reader_login(
    connection: Connection, name: str, password: str | None, connections: int, *, revoke_temporary: bool
) -> list[str]:
    async with connection.transaction():
        # Gateways that start at the same moment do all of it one after the other: PostgreSQL refuses two that change
        # the same role at once.
        await connection.execute(_LOCK)
        quoted, database, schema, secret = await connection.fetchrow(
            "SELECT quote_ident($1), quote_ident(current_database()), quote_ident(current_schema()), quote_literal($2)",
            name,
            password and scram_verifier(password),
        ) or ("", "", "", "")
        limit, takes = await connection.fetchrow(_LIMIT_AND_TOO_MUCH, name) or (None, "")
        # PostgreSQL lets only those take a right away who have it, so it is left alone where there is nothing to take.
        await connection.execute(
            f"{'CREATE' if limit is None else 'ALTER'} ROLE {quoted} LOGIN {f'PASSWORD {secret}' if secret else ''}"
            f"{takes} INHERIT CONNECTION LIMIT {limit if limit == -1 else max(limit or 0, connections)}"
        )
        await connection.execute(f"GRANT switchboard_reader TO {quoted}")
        optional = {
            f"GRANT CONNECT ON DATABASE {database} TO switchboard_reader": "may not grant CONNECT on the database",
        }
        if revoke_temporary:
            statement = f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"
            optional[statement] = "may not revoke TEMPORARY on the database from PUBLIC"
        for setting, value in _READER_SETTINGS.items():
            optional[f"ALTER ROLE {quoted} SET {setting} = {value.format(schema=schema)}"] = f"may not set {setting}"
        warnings: list[str] = []
        for statement, refusal in optional.items():
            try:
                async with connection.transaction():
                    await connection.execute(statement)
            except asyncpg.InsufficientPrivilegeError:
                warnings.append(f"the administrator's login {refusal}; run as a superuser: {statement}")
    return warnings


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password, so that the password itself is in no statement and in no log.

    One that is not ASCII goes as it is, since PostgreSQL would prepare it first as SASLprep says.
    """
    if not password.isascii():
        return password
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


@dataclass(frozen=True)
class DerivedLogin:
    """A login that follows from that of `DATABASE_URL`, so that all gateways with that address know it.

    Its name is one of the database and of the login that made it; its password follows from that login's, by a
    function that can't be gone back. Whoever knows the one may do all that the other may, and more.
    """

    name: str
    _origin: Address

    def address(self) -> Address:
        """Return where it logs in; it takes some 50 ms, so that nobody can try many passwords against this one."""
        _, password, _ = _login_of(self._origin)
        derived = hashlib.scrypt(password.encode(), salt=f"switchboard {self.name}".encode(), n=2**14, r=8, p=1)
        text = base64.urlsafe_b64encode(derived[:30]).decode()
        return Address.read(self._origin.with_login(self.name, text), "query_database")


def derived_login(settings: PostgresSettings) -> DerivedLogin:
    """Return the login that `query_database` has where `DATABASE_READER_URL` is not set.

    Raises:
        BackendNotConfigured: `DATABASE_URL` is not set either, or names no password that one could follow from.
    """
    origin = settings.address if settings.url else settings.reader_address
    user, password, database = _login_of(origin)
    if not (user and password):
        raise BackendNotConfigured(
            "DATABASE_READER_URL is not set, and DATABASE_URL holds no password that a login of query_database could"
            " follow from; make one by `switchboard migrate` with DATABASE_READER_PASSWORD, and set it",
            missing="DATABASE_READER_URL",
        )
    digest = hashlib.sha256(f"{database}\0{user}".encode()).hexdigest()
    return DerivedLogin(f"switchboard_reader_{digest[:12]}", origin)


def reader_login_name(settings: PostgresSettings) -> str:
    """Return the name of the login that `query_database` has.

    Raises:
        BackendNotConfigured: there is none.
    """
    return _login_of(settings.reader_address)[0] if settings.reader_url else derived_login(settings).name


def _login_of(address: Address) -> tuple[str, str, str]:
    """Return user, password and database of an address, with libpq's variables for what it leaves out."""
    parts, options = urlsplit(address.dsn), address.options
    user = unquote(parts.username or "") or options.get("user") or os.environ.get("PGUSER", "")
    password = unquote(parts.password or "") or options.get("password") or os.environ.get("PGPASSWORD", "")
    database = unquote(parts.path.lstrip("/")) or options.get("dbname") or options.get("database")
    return user, password, database or os.environ.get("PGDATABASE") or user


async def make_derived_login(settings: PostgresSettings, outages: Outages | None = None) -> ReaderLogin:
    """Make the derived login, or bring it up to date, as far as the login of `DATABASE_URL` may.

    Raises:
        BackendNotConfigured: it may not, or nothing can be derived; the message says what to do.
        GatewayError: the database can't be reached, or is not migrated.
    """
    derived = derived_login(settings)
    address = await asyncio.to_thread(derived.address)
    try:
        return await ensure_reader_login(
            settings.administration_url,
            _login_of(address)[1],
            name=derived.name,
            connections=settings.reader_connections,
            change_password=True,
            revoke_temporary=False,
            outages=outages,
        )
    except Forbidden:
        raise BackendNotConfigured(
            "query_database has a login of its own, and that of DATABASE_URL may not make one; make it by `switchboard"
            " migrate` with DATABASE_READER_PASSWORD as somebody who may, and set DATABASE_READER_URL"
            " (docs/query-database.md)",
            missing="DATABASE_READER_URL",
        ) from None


class ReaderConnector:
    """Opens connections of the login of `query_database`, which it makes where there is none yet, if it may.

    Args:
        settings: of the service.
        outages: hears of the database when it can't be reached.
    """

    def __init__(self, settings: PostgresSettings, outages: Outages | None = None) -> None:
        self._settings = settings
        self._outages = outages
        self._address = settings.reader_address if settings.reader_url else None
        self._makes = self._address is None
        """Whether nobody has found the derived login to work yet."""
        self._refusal: GatewayError | None = None
        self._try_again_at = 0.0
        self._making = SingleFlight[None]()
        self._connector = self._connector_for(outages)

    async def address(self) -> Address:
        """Return where it connects to.

        Raises:
            BackendNotConfigured: there is nothing to go by.
        """
        if self._address is None:
            self._address = await asyncio.to_thread(derived_login(self._settings).address)
        return self._address

    async def open(self) -> Connection:
        """Open a connection.

        Raises:
            GatewayError: as `Connector.open`; the login does not exist and can't be made.
        """
        await self.address()
        if self._makes:
            await self._making.run(self._find_or_make)
        return await self._connector.open()

    async def _find_or_make(self) -> None:
        """See to it that there is a login, at the first connection."""
        if not self._makes:
            return
        if self._refusal is not None and time.monotonic() < self._try_again_at:
            raise copy(self._refusal)
        try:
            if await self._works():
                self._makes = False
                return
            login = await make_derived_login(self._settings, self._outages)
        except BackendNotConfigured as error:
            self._refusal, self._try_again_at = error, time.monotonic() + _TRY_AGAIN_AFTER
            raise
        self._makes = False
        _log.info("made the login of query_database; without rights that its maker lacks: %d", len(login.warnings))

    async def _works(self) -> bool:
        """Tell whether the login is there with the password that follows; that it is not is no outage."""
        try:
            connection = await self._connector_for(Outages(None)).open()
        except GatewayError as error:
            state = error.__cause__.sqlstate or "" if isinstance(error.__cause__, asyncpg.PostgresError) else ""
            if state[:2] in _REFUSALS:
                return False
            raise
        connection.terminate()
        return True

    def _connector_for(self, outages: Outages | None) -> Connector:
        return Connector(
            self._known_address,
            connect_timeout=self._settings.connect_timeout,
            pooler=self._settings.pooler,
            session={"application_name": "switchboard query_database"},
            outages=outages,
        )

    def _known_address(self) -> Address:
        assert self._address is not None
        return self._address
