"""What the process does by itself while it serves: it says so, warms its servers up, and looks at their backends."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from app.errors import GatewayError
from app.gateway import Gateway
from app.servers.readiness import readiness_of_all
from app.version import VERSION

_log = logging.getLogger("MCP")


@asynccontextmanager
async def watched(gateways: Sequence[tuple[str, Gateway]]) -> AsyncGenerator[None]:
    """Tell the log what is served, have servers warm up, and look at backends every `BACKEND_CHECK_INTERVAL` seconds.

    Calls that meet an outage tell of it, too: an outage is one line, whoever finds it. All of it goes on beside the
    calls, and none waits for it.

    Args:
        gateways: those of the process, which are open, each with its address for people.
    """
    watching = asyncio.create_task(_watch(gateways), name="watch of the backends")
    watching.add_done_callback(_note_end)
    warming = asyncio.create_task(_warm_up(gateways), name="warm-up of the servers")
    try:
        yield
    finally:
        watching.cancel()
        warming.cancel()
        await asyncio.wait([watching, warming])


async def _watch(gateways: Sequence[tuple[str, Gateway]]) -> None:
    _log.info("%s", await _start_line(gateways))
    interval = gateways[0][1].settings.backend_check_interval
    while interval:
        await asyncio.sleep(interval)
        for _, gateway in gateways:
            await _look(gateway)


async def _look(gateway: Gateway) -> None:
    servers = {name: server for name, server in gateway.servers.items() if server.unconfigured() is None}
    states = await readiness_of_all(servers, gateway.turned_off)
    gateway.standings.note(states, time.time())
    for name, state in states.items():
        outages, place = servers[name].outages, f"The backend of {name}"
        if state.answers:
            outages.up(place)
        elif not outages.ongoing:
            # A call would be answered so, and nobody has told the log of a better reason.
            outages.down(place, state.detail or "it does not answer")


async def _warm_up(gateways: Sequence[tuple[str, Gateway]]) -> None:
    servers = [server for _, gateway in gateways for server in gateway.servers.values() if not server.unconfigured()]
    outcomes = await asyncio.gather(*(server.warm_up() for server in servers), return_exceptions=True)
    for server, outcome in zip(servers, outcomes, strict=True):
        # That a backend is away the look at it tells.
        if outcome is not None and not isinstance(outcome, GatewayError):
            _log.error(
                "server %s: unforeseen failure of its warm-up; first calls take longer",
                server.server_id,
                exc_info=outcome,
            )


async def _start_line(gateways: Sequence[tuple[str, Gateway]]) -> str:
    parts: list[str] = []
    for address, gateway in gateways:
        states = await readiness_of_all(gateway.servers, gateway.turned_off)
        gateway.standings.note(states, time.time())
        told = ", ".join(f"{name} {state.in_words()}" for name, state in states.items())
        parts.append(f"on {address}: {told or 'no server'}")
    settings = gateways[0][1].settings
    return (
        f"Switchboard {VERSION} {'; '.join(parts)}; at most {settings.max_calls_in_flight} calls and"
        f" {settings.max_streams} streams a server, {settings.max_request_bytes} bytes a request,"
        f" {settings.tool_timeout:g} s a call"
    )


def _note_end(watching: asyncio.Task[None]) -> None:
    if not watching.cancelled() and (error := watching.exception()) is not None:
        _log.error("the watch of the backends failed; outages are told by calls alone", exc_info=error)
