"""Serves the application with uvicorn and stops it in order."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.gateway import Gateway
from app.keep_alive import keep_alive
from app.serving.connections import Connections
from app.serving.http import HttpProtocol
from app.serving.websocket import WebSocketProtocol
from app.settings import Settings
from app.signals import stopping_by

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
    http = partial(HttpProtocol, Connections(settings), gateway.unfinished)
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
    gateway: Gateway = app.state.gateway
    config = uvicorn_config(app, settings)
    config.lifespan = "off"  # it is ours: uvicorn's can't be interrupted, and runs in a task that nobody awaits
    server = _Server(config, gateway)
    starting = asyncio.current_task()
    assert starting is not None
    with contextlib.closing(_bind(settings)) as listener:
        try:
            async with AsyncExitStack() as stack:
                with stopping_by(lambda _: starting.cancel()):
                    await stack.enter_async_context(app.router.lifespan_context(app))
                with stopping_by(server.stop):
                    await _serve(server, listener, on_ready)
        except asyncio.CancelledError:
            if starting.uncancel() or server.started:
                raise


async def _serve(server: _Server, listener: socket.socket, on_ready: Callable[[int], None]) -> None:
    running = asyncio.ensure_future(server.serve([listener]))
    while not server.started and not running.done():
        await asyncio.wait([running], timeout=_TICK)
    if not running.done():
        # What is there now stays: the collector need not look at it again in the middle of calls.
        gc.collect()
        gc.freeze()
        # Nearly all of a call dies by reference counting: a look at every 700 new objects finds nothing.
        gc.set_threshold(_NEW_OBJECTS)
        on_ready(listener.getsockname()[1])
    await running


def _bind(settings: Settings) -> socket.socket:
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
            f"Can't listen on {settings.host}:{settings.port} ({error.strerror}). Choose another with PORT=8001."
        ) from None
    listener.set_inheritable(True)
    return listener


def require_free_port(settings: Settings) -> None:
    """Find out early, before slow preparations.

    Raises:
        PortInUse: the address is taken.
    """
    _bind(settings).close()
