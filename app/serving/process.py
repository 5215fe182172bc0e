"""Serves the application with uvicorn and stops it in order."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from pydantic_settings import BaseSettings

from app.catalogue import load_servers
from app.faces.identity import Identity
from app.gateway import Gateway
from app.guard.guard import Guard
from app.keep_alive import keep_alive
from app.main import create_app, create_metrics_app
from app.servers.base import ServerKind
from app.serving.addresses import ServerAddress, address_class
from app.serving.connections import Connections
from app.serving.http import HttpProtocol
from app.serving.watch import watched
from app.serving.websocket import WebSocketProtocol
from app.settings import Settings
from app.signals import stopping_by
from app.telemetry.recorder import Tracing

_log = logging.getLogger(__name__)
_PING_INTERVAL, _PONG_WITHIN = 20.0, 20.0
"""Seconds between two pings of a WebSocket, and until the answer to one must be there."""
_TICK = 0.02
"""Seconds between two looks at whether a server has started, or has nothing left to do."""
_CUT_OFF_WITHIN = 1.0
"""Seconds that calls get to end after they were cut off."""
_NEW_OBJECTS = 10_000
"""Objects that may be new, and not yet gone, before the collector looks for cycles: more than calls in flight have."""


class PortInUse(RuntimeError):
    """Another process listens on the port; the message says how to choose another."""


class _Server(uvicorn.Server):
    """uvicorn, which ends as the gateway wants it: nothing new, what runs is answered, then all is closed.

    uvicorn's own end closes WebSockets at once, whatever runs on them; and its signals are left to us.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop(self, number: signal.Signals) -> None:
        """Begin the end: say so to `/ready`, wait `SHUTDOWN_DELAY`, then stop. The second time, stop at once."""
        loop = asyncio.get_running_loop()
        if self._gateway.stopping:
            self.should_exit = self.force_exit = True
        else:
            self._gateway.stopping = True
            loop.call_later(self._gateway.settings.shutdown_delay, self._end)

    def _end(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, let calls end for `SHUTDOWN_GRACE` seconds, and cut off what is left."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in self._http():
            connection.shutdown()
        # Streams never end by themselves; WebSockets take the grace as theirs, and say goodbye.
        self._gateway.closing.set()
        await self._until(lambda: self._is_idle() or self.force_exit, self._gateway.settings.shutdown_grace)
        if tasks := self.server_state.tasks:
            _log.warning("%d requests and connections were cut off, since SHUTDOWN_GRACE was over", len(tasks))
        # A call whose caller has gone ends by itself; uvicorn would log the trace of one that is cancelled.
        for connection in self._http():
            connection.transport.abort()
        await self._until(self._is_idle, _CUT_OFF_WITHIN)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=_CUT_OFF_WITHIN)

    def _http(self) -> list[HttpProtocol]:
        return [connection for connection in self.server_state.connections if isinstance(connection, HttpProtocol)]

    def _is_idle(self) -> bool:
        return not (self.server_state.connections or self.server_state.tasks)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(_TICK)


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves the gateway; tests serve by the same."""
    gateway: Gateway = app.state.gateway
    connections = Connections(settings)
    gateway.results.make_room = connections.cut_off_who_waits_longest
    http = partial(HttpProtocol, connections, gateway.unfinished)
    websocket = partial(WebSocketProtocol, gateway.unfinished)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn's own trust every proxy on this machine; ours are in TRUSTED_PROXIES
        # uvicorn calls them as it does its own classes.
        http=cast("type[asyncio.Protocol]", http),
        ws=cast("type[asyncio.Protocol]", websocket),
        ws_max_size=settings.max_request_bytes,
        ws_per_message_deflate=settings.websocket_compression,
        ws_ping_interval=_PING_INTERVAL,
        ws_ping_timeout=_PONG_WITHIN,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )


@dataclass(frozen=True)
class Site:
    """An application and the address that it has to itself."""

    app: FastAPI
    settings: Settings
    port_variable: str = "PORT"
    """The variable that chooses its port, for messages."""

    @property
    def gateway(self) -> Gateway:
        """The gateway behind the application."""
        return self.app.state.gateway


class _Running:
    """Servers that answer on their listeners; one that ends takes the others along."""

    def __init__(self, sites: Sequence[Site], listeners: Sequence[socket.socket]) -> None:
        self.ports: list[int] = [listener.getsockname()[1] for listener in listeners]
        self._servers: list[_Server] = []
        for site in sites:
            config = uvicorn_config(site.app, site.settings)
            config.lifespan = "off"  # it is ours: uvicorn's can't be interrupted, and runs in a task that nobody awaits
            self._servers.append(_Server(config, site.gateway))
        self._tasks = [
            asyncio.ensure_future(server.serve([listener]))
            for server, listener in zip(self._servers, listeners, strict=True)
        ]

    async def started(self) -> bool:
        """Wait until all answer; tell whether they do."""
        while not all(server.started for server in self._servers) and not any(task.done() for task in self._tasks):
            await asyncio.wait(self._tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
        return not any(task.done() for task in self._tasks)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Begin the end of all, as `_Server.stop` does."""
        for server in self._servers:
            server.stop(number)

    async def ended_or(self, other: "asyncio.Task[Any]") -> None:
        """Wait until one of them has ended, or something else."""
        await asyncio.wait([*self._tasks, other], return_when=asyncio.FIRST_COMPLETED)

    async def ended(self) -> None:
        """Wait until all have ended, as they do when one has."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for server in self._servers:
            server.should_exit = True
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.result()

    async def cut_off(self) -> None:
        """End all at once: the loop has to forget their listeners before these are closed."""
        for server in self._servers:
            server.should_exit = server.force_exit = True
        await asyncio.wait(self._tasks)


async def serve(app: FastAPI, settings: Settings, on_ready: Callable[[int], None] = lambda port: None) -> None:
    """Serve until SIGINT or SIGTERM, then end streams, let calls finish, and return.

    `/ready` says so for `settings.shutdown_delay` seconds before anything else ends. Calls get
    `settings.shutdown_grace` seconds; a second signal cuts them off. One that comes before we serve ends the start.

    Args:
        app: what to serve.
        settings: where, and how long calls may take at the end.
        on_ready: called with the port once it answers; the system chooses one where the settings say 0.

    Raises:
        PortInUse: the address is taken.
    """
    await serve_sites([Site(app, settings)], lambda ports: on_ready(ports[0]))


async def serve_sites(sites: Sequence[Site], on_ready: Callable[[Sequence[int]], None] = lambda ports: None) -> None:
    """Serve several applications, each on its own address, as `serve` does one.

    Raises:
        PortInUse: an address is taken; nothing was opened.
    """
    starting = asyncio.current_task()
    assert starting is not None
    serving = False
    try:
        async with AsyncExitStack() as stack:
            all_sites = [*sites, *_metrics_sites(sites)]
            with stopping_by(lambda _: starting.cancel()):
                listeners = await _open(stack, all_sites)
            running = _Running(all_sites, listeners)
            serving = True
            stack.push_async_callback(running.cut_off)
            with stopping_by(running.stop):
                if await running.started():
                    _keep_what_is_there()
                    on_ready(running.ports[: len(sites)])
                    async with watched(_addresses(sites, running.ports)):
                        await running.ended()
                else:
                    await running.ended()
    except asyncio.CancelledError:
        if starting.uncancel() or serving:
            raise


@asynccontextmanager
async def serve_servers(
    servers: Sequence[ServerKind] = (), settings: Settings | None = None
) -> AsyncGenerator[Mapping[str, int]]:
    """Serve each server on an address of its own for as long as the block runs, in a program of one's own.

    A server listens on `<NAME>_MCP_HOST` and `<NAME>_MCP_PORT`: `DB_MCP_PORT` (8001), `KAFKA_MCP_PORT` (8002),
    `AWS_MCP_PORT` (8003). Any other has a port that the system chooses, unless a variable gives it one. Its WebSocket
    is at `/`, too. Signals are the program's own affair.

    Args:
        servers: classes, or servers that are constructed already; all of the catalogue if left out.
        settings: of the process; read from the environment if left out.

    Yields:
        The ports by the servers' names.

    Raises:
        PortInUse: an address is taken; nothing was opened.
    """
    settings = settings or Settings()
    kinds = servers or load_servers(settings.servers)
    sites = [own_site(kind, address_class(kind.server_id).model_validate({}), settings) for kind in kinds]
    ready: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    # In a task of their own: they may be entered in one task of the program and left in another.
    holding = asyncio.create_task(_hold(sites, ready, stop))
    try:
        await asyncio.wait((holding, ready), return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            holding.result()
            raise RuntimeError("a server ended at its start; the log says why")
        ports = zip(sites, ready.result(), strict=True)
        yield {name: port for site, port in ports for name in site.gateway.catalogue.servers}
    finally:
        ready.cancel()
        stop.set()
        await asyncio.wait([holding])
    holding.result()


async def _hold(sites: Sequence[Site], ready: "asyncio.Future[Sequence[int]]", stop: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        all_sites = [*sites, *_metrics_sites(sites)]
        running = _Running(all_sites, await _open(stack, all_sites))
        stopping = asyncio.create_task(stop.wait())
        try:
            if await running.started() and not ready.done():
                async with watched(_addresses(sites, running.ports)):
                    ready.set_result(running.ports[: len(sites)])
                    await running.ended_or(stopping)
        finally:
            stopping.cancel()
            running.stop()
            await running.ended()


def own_site(
    kind: ServerKind,
    address: ServerAddress,
    settings: Settings,
    service_settings: Sequence[BaseSettings] = (),
    guard: Guard | None = None,
    identity: Identity | None = None,
    tracing: Tracing | None = None,
) -> Site:
    """Return a server alone, at an address of its own and, for WebSockets, at the root of that."""
    settings = settings.model_copy(update=address.model_dump())
    app = create_app(
        [kind],
        settings,
        service_settings,
        root_server=kind.server_id,
        guard=guard,
        identity=identity,
        tracing=tracing,
    )
    return Site(app, settings, f"{address.model_config.get('env_prefix', '')}PORT")


async def _open(stack: AsyncExitStack, sites: Sequence[Site]) -> list[socket.socket]:
    """Take every address, and only then open what is behind them."""
    listeners = [stack.enter_context(contextlib.closing(_bind(site.settings, site.port_variable))) for site in sites]
    for site in sites:
        await stack.enter_async_context(site.app.router.lifespan_context(site.app))
    return listeners


def _addresses(sites: Sequence[Site], ports: Sequence[int]) -> list[tuple[str, Gateway]]:
    def url(host: str, port: int) -> str:
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    return [(url(site.settings.host, port), site.gateway) for site, port in zip(sites, ports, strict=False)]


def _metrics_sites(sites: Sequence[Site]) -> list[Site]:
    """Return where the metrics of all sites are served to this machine: at METRICS_PORT, if there is one."""
    settings = sites[0].settings
    if settings.metrics_port is None:
        return []
    own = {"host": "127.0.0.1", "port": settings.metrics_port, "allowed_hosts": ["127.0.0.1", "localhost"]}
    settings = settings.model_copy(update={**own, "trusted_proxies": [], "root_path": ""})
    return [Site(create_metrics_app([site.app for site in sites], settings), settings, "METRICS_PORT")]


def _keep_what_is_there() -> None:
    """Spare the collector another look, in the middle of calls, at what has been made for all of them."""
    gc.collect()
    gc.freeze()
    # Nearly all of a call dies by reference counting: a look at every 700 new objects finds nothing.
    gc.set_threshold(_NEW_OBJECTS)


def _bind(settings: Settings, variable: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, TCP's delays are switched off for each connection; with 0, which means the same, asyncio leaves them on.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keep_alive(listener)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"Can't listen on {settings.host}:{settings.port} ({error.strerror}). Choose another with {variable}=…."
        ) from None
    listener.set_inheritable(True)
    return listener


def require_free_port(settings: Settings) -> None:
    """Find out early, before slow preparations.

    Raises:
        PortInUse: the address is taken.
    """
    _bind(settings, "PORT").close()
