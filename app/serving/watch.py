"""What an operator reads of the process: one line at the start, and what becomes of the backends while nobody calls."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from app.gateway import Gateway
from app.servers.readiness import readiness_of_all
from app.version import VERSION

_log = logging.getLogger("MCP")


@asynccontextmanager
async def watched(gateways: Sequence[tuple[str, Gateway]]) -> AsyncGenerator[None]:
    """Tell the log what is served, and look at each backend every `BACKEND_CHECK_INTERVAL` seconds.

    Calls that meet an outage tell of it, too: an outage is one line, whoever finds it.

    Args:
        gateways: those of the process, which are open, each with its address for people.
    """
    watching = asyncio.create_task(_watch(gateways), name="watch of the backends")
    watching.add_done_callback(_note_end)
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


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
