"""The client of a gateway: call tools and read resources by name, whatever the way there.

    async with MCPClient("http://127.0.0.1:8000") as client:
        context = await client.call_tool("mcp_database", "get_customer_context", {"customer_id": "12345"})

A call that fails raises one of `agents.errors`. What is safe to repeat is repeated, at another address
of the server if it has several; what is not is never sent twice.
"""
# ruff: noqa: ASYNC109 - callers of a client look for `timeout`, and here it spans repeats

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, TypeVar, cast
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator

from agents.balancing import Balancer, Endpoint, RetryPolicy
from agents.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    CallFailed,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    FieldError,
    InvalidArguments,
    MalformedAnswer,
    NotRun,
    ServerNotFound,
    TooManyRequests,
    failure_of_problem,
)
from agents.transports import HttpTransport, JsonObject, Transport, WebSocketTransport

Mode = Literal["concurrent", "sequential"]
Outcome = JsonObject | CallFailed
"""A call of a batch: its result object, or the exception that `call_tool` would have raised."""

_T = TypeVar("_T")
_TransportT = TypeVar("_TransportT")

_HTTP, _WEBSOCKET = ("http", "https"), ("ws", "wss")
_IN_HEADERS = "".join(map(chr, range(0x20, 0x7F)))
_CONNECTIONS = 100
_KEEP_ALIVE = 3.0
"""Seconds that an idle connection is kept: less than servers keep it (uvicorn 5 s), or calls meet closed ones."""
_LISTING_LIFETIME = 300.0
"""Seconds for which what a server says of its tools is remembered."""
_CONTENT = ("body", "content", "data", "message", "payload", "value")
"""Arguments of which a tool's `encoding` speaks."""
_WORTH_TRYING = 0.01
"""Seconds that a call must have left for another attempt."""
_PIPELINED = 32
"""Calls of a batch that are under way on a WebSocket at the same time."""


class ServerConfig(BaseModel):
    """Where one server is."""

    model_config = ConfigDict(extra="forbid")

    uri: list[str] = Field(min_length=1, validation_alias=AliasChoices("uri", "uris"))
    """One address or several that are equally good."""
    token: SecretStr | None = None
    """Sent as `Authorization: Bearer …`."""

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("token")
    @classmethod
    def _fit_for_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        _sendable(token.get_secret_value() if token else None)
        return token

    @field_validator("uri")
    @classmethod
    def _known_schemes(cls, uris: list[str]) -> list[str]:
        for uri in uris:
            parts = urlsplit(uri)
            if parts.scheme not in (*_HTTP, *_WEBSOCKET) or not parts.hostname:
                raise ValueError(f"{uri!r} is not an http(s):// or ws(s):// address")
        return uris


class ClientConfig(BaseModel):
    """Where the servers are.

    `{"servers": {"mcp_database": {"uri": "ws://localhost:8001"}, "mcp_kafka": {"uri": "http://localhost:8000/mcp/kafka"}}}`
    """

    model_config = ConfigDict(extra="forbid")

    servers: dict[str, ServerConfig] = {}
    gateway: ServerConfig | None = None
    """The gateway that has every server which `servers` does not name."""


class BatchCall(TypedDict):
    """One call of `MCPClient.batch`."""

    server: str
    tool: str
    arguments: NotRequired[Mapping[str, Any]]


@dataclass
class _Server:
    """A server as the client knows it."""

    balancer: Balancer[Transport]
    gateways: Balancer[HttpTransport] | None
    """Where its calls can be sent in batches; None where only the server's own addresses are known."""
    tools: dict[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    """What the server said of its tools, by name."""
    listed_at: float | None = None
    listing: asyncio.Task[list[JsonObject]] | None = None
    """The listing that is under way, which all calls share that wait for it."""


@dataclass(frozen=True)
class _Prepared:
    """A call of a batch, ready to be sent."""

    position: int
    name: str
    server: _Server
    tool: str
    arguments: JsonObject
    safe: bool

    @property
    def entry(self) -> JsonObject:
        return {"server": self.name, "tool": self.tool, "arguments": self.arguments}


class MCPClient:
    """Calls the servers of one gateway or of several.

    Args:
        config: the gateway's base URL; several base URLs of equally good gateways; or a mapping as
            `ClientConfig` describes it, which names servers one by one. `http(s)://` speaks REST,
            `ws(s)://` MCP over WebSocket. `mcp_database` and `database` name the same server.
        name: how the client introduces itself, which the gateway's log repeats.
        token: sent as `Authorization: Bearer …` to servers whose configuration names none of their own.
        timeout: seconds a call may take, repeats included.
        attempt_timeout: seconds one attempt may take; None leaves it the time that the call has left.
        connect_timeout: seconds a connection may take to come about.
        batch_size: calls that are sent in one batch; what is more goes in further ones.
        retry: when failed attempts are repeated.

    Raises:
        ValueError: the configuration makes no sense; the message says where.
    """

    def __init__(
        self,
        config: str | Sequence[str] | Mapping[str, Any] | ClientConfig,
        *,
        name: str = "switchboard-client",
        token: str | None = None,
        timeout: float = 30.0,
        attempt_timeout: float | None = None,
        connect_timeout: float = 3.0,
        batch_size: int = 50,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._config = _read_config(config)
        # Headers hold ASCII; a name of other letters is still told from others.
        self._user_agent = quote(name.strip(), safe=_IN_HEADERS)
        self._token = _sendable(token)
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._connect_timeout = connect_timeout
        self._batch_size = batch_size
        self._retry = retry or RetryPolicy()
        self._servers: dict[str, _Server] = {}
        self._gateways: dict[tuple[str, ...], Balancer[HttpTransport]] = {}
        # The time limit is kept for a whole call, here; httpx would start anew with each chunk of an answer.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=connect_timeout),
            # Nothing here is a session: what a server wants remembered is its own affair.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            event_hooks={"response": [_stay]},
            limits=httpx.Limits(
                max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. The client can't be used afterwards."""
        for server in self._servers.values():
            if server.listing is not None:
                server.listing.cancel()
                await asyncio.wait([server.listing])
            for endpoint in server.balancer.endpoints:
                await endpoint.transport.close()
        await self._http.aclose()

    async def call_tool(
        self, server: str, tool: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> JsonObject:
        """Run a tool and return its result object, in which `success` is True.

        A read-only tool is repeated after a passing failure, and so is one that takes an `idempotency_key`,
        which is made here unless the arguments hold one.

        Args:
            server: the server's name, with or without `mcp_`.
            tool: the tool's name.
            arguments: as the tool's schema describes them. Bytes are sent as base64, and the argument that says so,
                such as `encoding`, is set.
            timeout: seconds the call may take, repeats included; the client's own if left out.

        Raises:
            CallFailed: one of its kinds, with the gateway's code, message and request id.
        """
        deadline = self._deadline(timeout)
        known = self._server(server)
        ready, safe = await self._prepare(known, tool, arguments or {}, deadline)
        return await self._attempt(
            known.balancer, lambda transport: transport.call_tool(tool, ready), safe=safe, deadline=deadline
        )

    async def get_resource(self, server: str, uri: str, *, timeout: float | None = None) -> Any:
        """Return a resource: parsed if it is JSON, as text if it is text, else as bytes.

        Raises:
            CallFailed: as for `call_tool`.
        """
        return await self._attempt(
            self._server(server).balancer,
            lambda transport: transport.read_resource(uri),
            safe=True,
            deadline=self._deadline(timeout),
        )

    async def list_tools(self, server: str, *, timeout: float | None = None) -> list[JsonObject]:
        """Return a server's tools as MCP describes them: name, inputSchema, outputSchema, annotations.

        Raises:
            CallFailed: as for `call_tool`.
        """
        return await self._list(self._server(server), self._deadline(timeout))

    async def batch(
        self,
        calls: Sequence[BatchCall],
        *,
        mode: Mode = "concurrent",
        stop_on_error: bool = False,
        timeout: float | None = None,
    ) -> list[Outcome]:
        """Run many calls, side by side or in their order; return what became of each, in their order.

        Over HTTP a batch is one request to `/mcp/batch`, over a WebSocket its calls are pipelined. What is safe
        to repeat is repeated as in `call_tool`; in a sequential batch, which must keep its order, only if the
        whole batch is.

        Args:
            calls: `{"server": …, "tool": …, "arguments": {…}}`.
            mode: "concurrent" or "sequential".
            stop_on_error: in a sequential batch, run nothing after the first failure; what is left gets `NotRun`.
            timeout: seconds the whole batch may take; the client's own if left out.

        Returns:
            A result object or a `CallFailed` for each call. Failures are not raised.
        """
        deadline = self._deadline(timeout)
        outcomes: list[Outcome | None] = [None] * len(calls)

        async def prepare(position: int, call: BatchCall) -> _Prepared | None:
            name, tool = _plain(call["server"]), call["tool"]
            try:
                server = self._server(name)
                arguments, safe = await self._prepare(server, tool, call.get("arguments") or {}, deadline)
            except CallFailed as failure:
                outcomes[position] = failure
                return None
            return _Prepared(position, name, server, tool, arguments, safe)

        prepared = await asyncio.gather(*(prepare(position, call) for position, call in enumerate(calls)))
        ready = [call for call in prepared if call is not None]
        if mode == "concurrent":
            await self._side_by_side(ready, outcomes, deadline)
        else:
            await self._in_order(ready, outcomes, deadline, stop_on_error=stop_on_error)
        return cast("list[Outcome]", outcomes)

    # Batches

    async def _side_by_side(self, calls: list[_Prepared], outcomes: list[Outcome | None], deadline: float) -> None:
        # What is safe to repeat goes apart from what is not, so that a lost batch of it can be sent again.
        groups: dict[tuple[int, bool], list[_Prepared]] = {}
        alone: list[_Prepared] = []
        for call in calls:
            gateways = call.server.gateways
            (alone if gateways is None else groups.setdefault((id(gateways), call.safe), [])).append(call)
        places = asyncio.Semaphore(_PIPELINED)

        async def run_alone(call: _Prepared, failed: CallFailed | None = None) -> None:
            async with places:
                outcomes[call.position] = await self._outcome(call, deadline, failed)

        async def run_together(chunk: list[_Prepared]) -> None:
            if await self._send_batch(chunk, outcomes, deadline, {"mode": "concurrent"}):
                ends = [(call, outcomes[call.position]) for call in chunk if call.safe]
                again = [(call, end) for call, end in ends if isinstance(end, CallFailed) and _passing(end)]
                await asyncio.gather(*(run_alone(call, failed) for call, failed in again))

        await asyncio.gather(
            *(run_alone(call) for call in alone),
            *(run_together(chunk) for group in groups.values() for chunk in _chunks(group, self._batch_size)),
        )

    async def _in_order(
        self, calls: list[_Prepared], outcomes: list[Outcome | None], deadline: float, *, stop_on_error: bool
    ) -> None:
        positions = range(len(outcomes))
        failed = [p for p in positions if outcomes[p] is not None]
        stop_at = failed[0] if failed and stop_on_error else len(outcomes)
        together = len({id(call.server.gateways) for call in calls}) == 1 and calls[0].server.gateways is not None
        options = {"mode": "sequential", "stop_on_error": stop_on_error}
        for chunk in _chunks(calls, self._batch_size if together else 1):
            todo = [call for call in chunk if call.position < stop_at]
            if todo and together:
                await self._send_batch(todo, outcomes, deadline, options)
            elif todo:
                [call] = todo
                outcomes[call.position] = await self._outcome(call, deadline)
            if stop_on_error:
                fell = (c.position for c in todo if isinstance(outcomes[c.position], CallFailed))
                stop_at = min(stop_at, *fell, len(outcomes))
        for position in positions:
            if position > stop_at or outcomes[position] is None:
                outcomes[position] = NotRun(f"Call {stop_at} of the batch failed, and the batch stops at the first.")

    async def _send_batch(
        self, calls: list[_Prepared], outcomes: list[Outcome | None], deadline: float, options: JsonObject
    ) -> bool:
        """Send one batch and note what became of its calls; return whether it was answered."""
        gateways = calls[0].server.gateways
        assert gateways is not None
        request = {"calls": [call.entry for call in calls], **options}
        try:
            entries = await self._attempt(
                gateways,
                lambda transport: transport.batch(request),
                safe=all(call.safe for call in calls),
                deadline=deadline,
            )
            if len(entries) != len(calls):
                raise MalformedAnswer(f"{len(entries)} answers came for a batch of {len(calls)} calls.")
        except CallFailed as failure:
            for call in calls:
                outcomes[call.position] = failure
            return False
        for call, entry in zip(calls, entries, strict=True):
            outcomes[call.position] = _outcome_of(entry)
        return True

    async def _outcome(self, call: _Prepared, deadline: float, failed: CallFailed | None = None) -> Outcome:
        try:
            return await self._attempt(
                call.server.balancer,
                lambda transport: transport.call_tool(call.tool, call.arguments),
                safe=call.safe,
                deadline=deadline,
                failed=failed,
            )
        except CallFailed as failure:
            return failure

    # One call

    async def _prepare(
        self, server: _Server, tool: str, arguments: Mapping[str, Any], deadline: float
    ) -> tuple[JsonObject, bool]:
        """Return the arguments to send, and whether sending them twice does no harm."""
        if server.listed_at is None or self._retry.clock() - server.listed_at > _LISTING_LIFETIME:
            await self._learn(server, deadline)
        described = server.tools.get(tool, {})
        ready = _bytes_as_base64(arguments, _part(_part(described, "inputSchema"), "properties"))
        if _part(described, "annotations").get("readOnlyHint") is True:
            return ready, True
        if "idempotency_key" in _part(_part(described, "inputSchema"), "properties"):
            if ready.get("idempotency_key") is None:
                ready["idempotency_key"] = uuid4().hex
            return ready, True
        return ready, False

    async def _learn(self, server: _Server, deadline: float) -> None:
        """Learn what a server says of its tools, at once for all calls that wait for it."""
        if server.listing is None or server.listing.done():
            server.listing = asyncio.create_task(self._list(server, self._deadline(None)))
            # Its failure belongs to those who wait for it, be there any left or not.
            server.listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(deadline - self._retry.clock()):
                await asyncio.shield(server.listing)
        except TimeoutError as error:
            raise CallTimeout("The server did not say in time what its tools are.") from error
        except CallFailed as failure:
            if server.listed_at is None or not _passing(failure):
                raise

    async def _list(self, server: _Server, deadline: float) -> list[JsonObject]:
        tools = await self._attempt(
            server.balancer, lambda transport: transport.list_tools(), safe=True, deadline=deadline
        )
        server.tools = {str(tool.get("name")): tool for tool in tools}
        server.listed_at = self._retry.clock()
        return tools

    async def _attempt(
        self,
        balancer: Balancer[_TransportT],
        operation: Callable[[_TransportT], Awaitable[_T]],
        *,
        safe: bool,
        deadline: float,
        failed: CallFailed | None = None,
    ) -> _T:
        """Run an operation at one address after another until it succeeds or nothing more makes sense.

        Args:
            balancer: the addresses.
            operation: one attempt.
            safe: whether it may be sent again although it may have run already.
            deadline: when the caller stops waiting, by the policy's clock.
            failed: how the first attempt ended, if it was made elsewhere.
        """
        policy, tried, finished_rounds = self._retry, set[Endpoint[_TransportT]](), 0
        if failed is not None:
            tried.update(balancer.endpoints)
        while True:
            if failed is not None and len(tried) == len(balancer.endpoints):
                finished_rounds += 1
                delay = policy.delay(finished_rounds, failed.retry_after)
                if finished_rounds >= policy.rounds or policy.clock() + delay >= deadline:
                    raise failed
                await policy.sleep(delay)
                tried.clear()
            endpoint = balancer.pick(tried)
            tried.add(endpoint)
            try:
                answer = await self._once(endpoint, operation, deadline)
            except CallFailed as failure:
                failed = failure
            else:
                balancer.succeeded(endpoint)
                return answer
            if not _passing(failed):
                if not isinstance(failed, MalformedAnswer):
                    balancer.succeeded(endpoint)
                raise failed
            out_of_time = deadline - policy.clock() < _WORTH_TRYING
            if not (out_of_time and isinstance(failed, CallTimeout)):
                # An impatient caller says nothing about the address; everything else does.
                balancer.failed(endpoint, failed.retry_after)
            if out_of_time or not (safe or isinstance(failed, ConnectionFailed)):
                raise failed

    async def _once(
        self, endpoint: Endpoint[_TransportT], operation: Callable[[_TransportT], Awaitable[_T]], deadline: float
    ) -> _T:
        seconds = min(deadline - self._retry.clock(), self._attempt_timeout or float("inf"))
        try:
            with endpoint.in_use() as transport:
                async with asyncio.timeout(seconds):
                    return await operation(transport)
        except TimeoutError as error:
            raise CallTimeout(f"No answer came within {seconds:.3g} s.") from error

    def _deadline(self, timeout: float | None) -> float:
        return self._retry.clock() + (self._timeout if timeout is None else timeout)

    # Configuration

    def _server(self, name: str) -> _Server:
        plain = _plain(name)
        if plain not in self._servers:
            own = self._config.servers.get(plain)
            config = own or self._config.gateway
            if config is None:
                raise ServerNotFound(f"No server {name!r} is configured. Servers: {', '.join(self._config.servers)}.")
            token = config.token.get_secret_value() if config.token else self._token
            try:
                self._servers[plain] = self._open(plain, config.uri, token, shared=own is None)
            except UnicodeEncodeError as error:
                raise ServerNotFound("A server's name holds half of a surrogate pair.") from error
        return self._servers[plain]

    def _open(self, name: str, uris: list[str], token: str | None, *, shared: bool) -> _Server:
        headers = {"user-agent": self._user_agent, **({"authorization": f"Bearer {token}"} if token else {})}
        urls = [_address(uri, name, shared=shared) for uri in uris]
        transports: list[Transport] = [
            WebSocketTransport(url, headers, self._connect_timeout)
            if urlsplit(url).scheme in _WEBSOCKET
            else HttpTransport(self._http, url, headers)
            for url in urls
        ]
        roots = tuple(url.removesuffix(f"/{name}").removesuffix(f"/mcp_{name}") for url in urls)
        batched = all(urlsplit(root).scheme in _HTTP and root.endswith("/mcp") for root in roots)
        gateways = None
        if batched:
            if (*roots, token or "") not in self._gateways:
                self._gateways[*roots, token or ""] = Balancer(
                    [HttpTransport(self._http, root, headers) for root in roots], self._retry
                )
            gateways = self._gateways[*roots, token or ""]
        return _Server(Balancer(transports, self._retry), gateways)


def _read_config(config: str | Sequence[str] | Mapping[str, Any] | ClientConfig) -> ClientConfig:
    if isinstance(config, ClientConfig):
        read = config
    elif isinstance(config, Mapping):
        read = ClientConfig.model_validate(config)
    else:
        read = ClientConfig.model_validate({"gateway": {"uri": config if isinstance(config, str) else list(config)}})
    if not read.servers and read.gateway is None:
        raise ValueError("the configuration names no server and no gateway")
    return read.model_copy(update={"servers": {_plain(name): server for name, server in read.servers.items()}})


def _sendable(token: str | None) -> str | None:
    """Return a token as it is.

    Raises:
        ValueError: no header can hold it.
    """
    if token and not (token.isascii() and token.isprintable()):
        raise ValueError("a token has letters, digits and signs of ASCII only; this one has others")
    return token


async def _stay(response: httpx.Response) -> None:
    """Drop where a redirect leads: nothing follows it, and httpx fails at some of what is no address."""
    response.headers.pop("location", None)


def _plain(name: str) -> str:
    return name.removeprefix("mcp_")


def _address(uri: str, name: str, *, shared: bool) -> str:
    """Return where a server is: a server's own address stands as it is, a gateway's gets the server's path."""
    uri = uri.rstrip("/")
    parts = urlsplit(uri)
    websocket = parts.scheme in _WEBSOCKET
    if not shared and (parts.path or websocket):
        return uri
    return f"{uri.removesuffix('/mcp')}/mcp/{quote(name, safe='')}" + ("/ws" if websocket else "")


def _passing(failure: CallFailed) -> bool:
    """Whether a failure may pass by itself: the one list of what is worth another attempt."""
    if isinstance(failure, BackendNotConfigured | BackendTimeout):
        return False
    # A bare 500 is no tool's answer: a dying gateway's, or that of a proxy in front of it.
    return failure.code == "http_500" or isinstance(
        failure, ConnectionFailed | ConnectionLost | CallTimeout | TooManyRequests | BackendUnavailable
    )


def _part(described: JsonObject, name: str) -> JsonObject:
    """Return an object within an object; an empty one for whatever a server may send in its place."""
    part = described.get(name)
    return cast("JsonObject", part) if isinstance(part, dict) else {}


def _outcome_of(entry: JsonObject) -> Outcome:
    result, error = entry.get("result"), entry.get("error")
    if isinstance(result, dict):
        return cast("JsonObject", result)
    if isinstance(error, dict):
        return failure_of_problem(cast("JsonObject", error))
    return MalformedAnswer("An answer of the batch holds neither a result nor an error.")


def _bytes_as_base64(arguments: Mapping[str, Any], properties: JsonObject) -> JsonObject:
    """Return arguments without bytes, of which JSON knows none: they are base64, and said to be.

    Args:
        arguments: as the caller gave them.
        properties: of the tool's input schema; empty where that is not known.

    Raises:
        InvalidArguments: the tool takes no bytes there, nor does any within a list or an object; or another argument
            says that they are something else.
    """
    ready = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, bytes | bytearray | memoryview):
            if (place := _bytes_within(value, name)) is not None:
                raise _refused(place, "holds bytes, of which JSON knows none; decode them to text, or send base64")
            continue
        possible = (f"{name}_encoding", *(["encoding"] if name in _CONTENT else []))
        says = next((said for said in possible if said in properties or (not properties and said == "encoding")), None)
        if says is None or (properties and "base64" not in str(properties[says])):
            raise _refused(name, "holds bytes, and the tool takes none there; decode them to text")
        if arguments.get(says) not in (None, "base64"):
            raise _refused(
                says, f"says that `{name}` is something else than base64, as which bytes are sent; leave it out"
            )
        ready |= {name: base64.b64encode(cast("bytes", value)).decode(), says: "base64"}
    return ready


def _bytes_within(value: Any, place: str) -> str | None:
    """Return where bytes stand within a value, which would go out as if they had been text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return place
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        members = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, list | tuple):
        members = enumerate(cast("Sequence[Any]", value))
    return next((found for key, member in members if (found := _bytes_within(member, f"{place}.{key}"))), None)


def _refused(name: str, reason: str) -> InvalidArguments:
    return InvalidArguments(f"{name}: {reason}.", errors=[FieldError(name, reason)])


def _chunks(calls: list[_Prepared], size: int) -> list[list[_Prepared]]:
    return [calls[start : start + size] for start in range(0, len(calls), size)]
