"""Serves the application with uvicorn and stops it in order."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Generator
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

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PING_INTERVAL, _PONG_WITHIN = 20.0, 20.0
"""Seconds between two pings of a WebSocket, and until the answer to one must be there."""
_NEW_OBJECTS = 10_000
"""Objects that may be new, and not yet gone, before the collector looks for cycles: more than calls in flight have."""


class PortInUse(RuntimeError):
    """Another process listens on the port; the message says how to choose another."""


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: it would raise them again and cut off our own cleaning up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


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

    Calls get `settings.shutdown_grace` seconds; a second signal cuts them off.

    Args:
        app: what to serve.
        settings: where, and how long calls may take at the end.
        on_ready: called with the port once it answers; the system chooses one where the settings say 0.

    Raises:
        PortInUse: the address is taken.
    """
    gateway: Gateway = app.state.gateway
    server = _Server(uvicorn_config(app, settings))

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True
        # Streams never end by themselves: uvicorn would wait for them until the grace is over.
        gateway.closing.set()

    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        with contextlib.closing(_bind(settings)) as listener:
            running = asyncio.ensure_future(server.serve([listener]))
            while not server.started and not running.done():
                await asyncio.wait([running], timeout=0.02)
            if not running.done():
                # What is there now stays: the collector need not look at it again in the middle of calls.
                gc.collect()
                gc.freeze()
                # Nearly all of a call dies by reference counting: a look at every 700 new objects finds nothing.
                gc.set_threshold(_NEW_OBJECTS)
                on_ready(listener.getsockname()[1])
            await running
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
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
