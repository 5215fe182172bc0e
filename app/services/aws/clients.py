"""The clients of AWS: made once, pooled, and kept apart by whether their calls may be repeated."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore import exceptions as boto
from pydantic import SecretStr

from app.errors import BackendNotConfigured, BackendTimeout, BackendUnavailable
from app.keep_alive import keep_alive
from app.outages import Outages, at, cause_of
from app.services.aws.failures import LOGIN_MISSING, REGION_MISSING, aws_failures
from app.services.aws.settings import AwsSettings
from app.stages import waiting_for

if TYPE_CHECKING:
    from types_aiobotocore_lambda.client import LambdaClient
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_ssm.client import SSMClient

_log = logging.getLogger(__name__)

_LOOKUP_LIMIT = 5.0
"""Seconds in which credentials must be found; a machine without a role would otherwise be asked for long."""

_ANY_NUMBER = 0
"""What aiohttp, below aiobotocore, takes for a pool without a limit: the gateway limits what uses it."""

_RETRY_LOOKUP_AFTER = 15.0
"""Seconds; until then a failed search for credentials is not made again."""


@dataclass(frozen=True)
class Clients:
    """One client a service, and a second one for calls that must not be repeated behind the caller's back.

    Each has connections of its own. Streams keep theirs for as long as their callers like, so they take none from
    the tools.
    """

    s3: "S3Client"
    s3_once: "S3Client"
    streams: "S3Client"
    streams_once: "S3Client"
    functions: "LambdaClient"
    functions_once: "LambdaClient"
    parameters: "SSMClient"


class Connection:
    """Hands out the clients. Without credentials it says so at each call and looks for them again now and then."""

    def __init__(self, settings: AwsSettings, stack: AsyncExitStack, outages: Outages) -> None:
        self._settings = settings
        self._outages = outages
        self._stack = stack
        self._clients: Clients | None = None
        self._lookup = asyncio.Lock()
        self._refusal: BackendUnavailable = BackendNotConfigured(LOGIN_MISSING, missing="AWS_ACCESS_KEY_ID")
        self._next_lookup = 0.0

    async def clients(self) -> Clients:
        """Return the clients.

        Raises:
            BackendNotConfigured: credentials or the region are missing, or the configuration can't be used.
            BackendUnavailable: the credentials' source did not answer.
        """
        if self._clients is not None:
            return self._clients
        async with self._lookup:
            if self._clients is None:
                now = asyncio.get_running_loop().time()
                if now < self._next_lookup:
                    raise copy(self._refusal)
                try:
                    self._clients = await self._open()
                except BackendUnavailable as error:
                    self._refusal = error
                    self._next_lookup = now + _RETRY_LOOKUP_AFTER
                    raise
        return self._clients

    def unconfigured(self) -> BackendNotConfigured | None:
        """Return what is missing, as far as it was looked for; None where the clients are there."""
        refusal = self._refusal if self._clients is None else None
        return copy(refusal) if isinstance(refusal, BackendNotConfigured) else None

    async def _open(self) -> Clients:
        async with AsyncExitStack() as opening:
            with aws_failures("sts:AssumeRole"):
                clients = await self._enter_clients(opening)
            await self._stack.enter_async_context(opening.pop_all())
        return clients

    async def _enter_clients(self, stack: AsyncExitStack) -> Clients:
        settings = self._settings
        session: Any = AioSession()  # half typed: the stubs of three services of hundreds are there
        if settings.profile:
            session.set_config_variable("profile", settings.profile)
        region = settings.region or session.get_config_variable("region")
        if not region:
            raise BackendNotConfigured(REGION_MISSING, missing="AWS_REGION")
        if settings.access_key_id is None and not await _finds_credentials(session):
            raise BackendNotConfigured(LOGIN_MISSING, missing="AWS_ACCESS_KEY_ID")
        login = {
            "aws_access_key_id": _secret(settings.access_key_id),
            "aws_secret_access_key": _secret(settings.secret_access_key),
            "aws_session_token": _secret(settings.session_token),
        }

        async def client(
            service: Literal["s3", "lambda", "ssm"],
            *,
            attempts: int,
            patience: float = settings.read_timeout,
            connections: int = settings.max_connections,
        ) -> Any:
            address = _checked_address(settings.endpoint(service))
            config = self._config(
                service, attempts=attempts, patience=patience, connections=connections, custom=address is not None
            )
            return await stack.enter_async_context(
                session.create_client(service, region_name=region, endpoint_url=address, config=config, **login)
            )

        often = settings.max_attempts
        return Clients(
            s3=await client("s3", attempts=often),
            s3_once=await client("s3", attempts=1),
            streams=await client("s3", attempts=often, connections=_ANY_NUMBER),
            streams_once=await client("s3", attempts=1, connections=_ANY_NUMBER),
            functions=await client("lambda", attempts=often),
            functions_once=await client(
                "lambda", attempts=1, patience=settings.lambda_timeout, connections=_ANY_NUMBER
            ),
            parameters=await client("ssm", attempts=often),
        )

    def _config(self, service: str, *, attempts: int, patience: float, connections: int, custom: bool) -> AioConfig:
        options: dict[str, Any] = {}
        if service == "s3":
            style = self._settings.s3_addressing_style or ("path" if custom else "auto")
            # Without the signature's version, addresses would be presigned in a form that new regions refuse.
            options = {"signature_version": "s3v4", "s3": {"addressing_style": style}}
        return AioConfig(
            connect_timeout=self._settings.connect_timeout,
            read_timeout=patience,
            max_pool_connections=connections,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # botocore's own `tcp_keepalive` sets socket options that aiobotocore leaves aside.
            connector_args={"socket_factory": _kept_alive},
            http_session_cls=_telling_of(self._outages, service),
            user_agent_extra="switchboard",
            **options,
        )


@asynccontextmanager
async def open_connection(settings: AwsSettings, outages: Outages | None = None) -> AsyncGenerator[Connection]:
    """Make the clients and close them at the end. Neither AWS nor credentials need be there.

    Args:
        settings: where AWS is, and under which login.
        outages: hears of it when it can't be reached.
    """
    _keep_secrets_out_of_logs()
    async with AsyncExitStack() as stack:
        connection = Connection(settings, stack, outages or Outages(_log))
        with suppress(BackendUnavailable):  # each call will say why
            await connection.clients()
        yield connection


async def _finds_credentials(session: Any) -> bool:
    try:
        async with asyncio.timeout(_LOOKUP_LIMIT):
            return await session.get_credentials() is not None
    except TimeoutError:
        raise BackendTimeout(f"No AWS credentials were found within {_LOOKUP_LIMIT:g} s.") from None


def _telling_of(outages: Outages, service: str) -> Any:
    """Return botocore's HTTP session as a class that tells of a service that can't be reached.

    What broke off is not told: a connection that AWS has closed is found out by whoever uses it next, and the attempt
    after it says whether anybody is there. How long a function takes is its own affair.
    """
    silent = (boto.ReadTimeoutError,) if service != "lambda" else ()
    unreachable = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)

    class Telling(AIOHTTPSession):  # pyright: ignore[reportUntypedBaseClass] - it has no types
        async def send(self, request: Any) -> Any:
            try:
                response: Any = await waiting_for(f"AWS {service}", super().send(request))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - as above
            except (*unreachable, *silent) as error:
                root = getattr(error, "kwargs", {}).get("error")
                outages.down(_place(service, request.url), cause_of(root if isinstance(root, Exception) else error))
                raise
            if outages.ongoing:
                outages.up(_place(service, request.url))
            return response

    return Telling


def _place(service: str, url: str) -> str:
    """Return what the log calls a service, the same for all buckets, which may have hosts of their own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    _, _, behind_bucket = host.partition(f".{service}.")
    return at(
        f"AWS {service}",
        f"{service}.{behind_bucket}" if behind_bucket else host,
        parts.port or (80 if parts.scheme == "http" else 443),
    )


def _kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    return keep_alive(socket.socket(family, kind, protocol))


def _checked_address(url: str | None) -> str | None:
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BackendNotConfigured("AWS_ENDPOINT_URL is no address of the form https://host:port.")
    return url


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


def _keep_secrets_out_of_logs() -> None:
    """At DEBUG botocore logs whole requests and answers: decrypted parameters, payloads, signatures."""
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
