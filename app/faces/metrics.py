"""`/metrics`, as Prometheus scrapes it: for those who may read it, or on a port of loopback for this machine."""

import asyncio
import logging
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.errors import GatewayError
from app.faces.http import refused
from app.gateway import Gateway
from app.logs import dropped_lines
from app.measures import Measure
from app.servers.base import BaseMCPServer
from app.telemetry.activity import Activity, together
from app.telemetry.metrics import Metrics, exposition
from app.version import VERSION

PATH = "/metrics"
_MEASURED_WITHIN = 1.0
"""Seconds that a server has to say what it measures."""
_OPEN_METRICS = "application/openmetrics-text"
_REFUSED = re.compile(r"q\s*=\s*0(\.0*)?")
_log = logging.getLogger(__name__)


class MetricsPage:
    """Answers scrapes.

    Args:
        gateways: those of the process whose metrics are shown, each with its account of calls.
        open_to_all: asks nobody for a scope, where only this machine can ask.
    """

    def __init__(self, gateways: Sequence[tuple[Gateway, Activity]], *, open_to_all: bool = False) -> None:
        self._gateways = gateways
        self._open_to_all = open_to_all
        self._scraping = asyncio.Lock()

    def route(self) -> Route:
        """Return its route. It is not in `/openapi.json`, which shows what agents may use."""
        return Route(PATH, self._answer, methods=["GET"])

    async def _answer(self, request: Request) -> Response:
        principal = request.scope["state"]["principal"]
        if not self._open_to_all and (refusal := self._gateways[0][0].refuses_operator("metrics:read", principal)):
            raise refusal
        async with self._scraping:  # one scrape at a time asks the servers, and takes a thread
            measures = [*_of_process(), *[each for gateway, _ in self._gateways for each in await _of(gateway)]]
            refusals: Counter[tuple[str, str]] = Counter()
            for _, activity in self._gateways:
                refusals.update(activity.refusals)
            totals = together(activity.totals() for _, activity in self._gateways)
            open_metrics = _wants_open_metrics(request.headers.get("accept", ""))
            body, media_type = await asyncio.to_thread(
                exposition, Metrics(totals, refusals, measures), open_metrics=open_metrics
            )
        return Response(body, headers={"content-type": media_type, "cache-control": "no-store"})


def _wants_open_metrics(accept: str) -> bool:
    """Tell whether an `Accept` header asks for OpenMetrics; all who do not are answered in the older format."""
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        if media_range == _OPEN_METRICS and not any(map(_REFUSED.fullmatch, parameters)):
            return True
    return False


def _of_process() -> Iterator[Measure]:
    build = {"version": VERSION, "python": platform.python_version()}
    yield Measure("switchboard_build_info", "Which version runs.", 1, build)
    dropped = "Lines of the log that were never written, since nobody took those before them in time."
    yield Measure("switchboard_log_lines_dropped", dropped, dropped_lines(), kind="counter")
    about = "Requests that came to no call, by the code of the failure: no key, another path, no JSON."
    for code, count in sorted(refused.items()):
        yield Measure("switchboard_requests_refused", about, count, {"code": code}, "counter")


async def _of(gateway: Gateway) -> list[Measure]:
    """Return what is measured of a gateway and its servers."""
    subscribed = "Subscriptions to resources, and streams of events."
    measures = [Measure("switchboard_subscriptions", subscribed, gateway.subscriptions)]
    for of, budget in (("unfinished requests", gateway.unfinished), ("unsent answers", gateway.results)):
        held, most = "Bytes that all callers hold together.", "Bytes that all callers may hold together."
        measures.append(Measure("switchboard_held_bytes", held, budget.held, {"of": of}))
        measures.append(Measure("switchboard_held_bytes_limit", most, budget.limit, {"of": of}))
    for name, server in gateway.servers.items():
        of = {"server": name}
        measures += [
            Measure("switchboard_calls_in_flight", "Calls that a server works on.", gateway.in_flight(name), of),
            Measure("switchboard_streams", "Streams that a server carries.", len(gateway.streams(name)), of),
        ]
        if server.unconfigured() is None:
            up = "Whether no backend of a configured server is known to be down."
            measures.append(Measure("switchboard_backend_up", up, not server.outages.ongoing, of))
    for found in await asyncio.gather(*(_measured(server) for server in gateway.servers.values())):
        measures += found
    return measures


async def _measured(server: BaseMCPServer) -> Iterable[Measure]:
    """Return what a server measures; nothing if its backend does not say it in time, which `backend_up` tells of."""
    try:
        async with asyncio.timeout(_MEASURED_WITHIN):
            return await server.measures()
    except (TimeoutError, GatewayError) as error:
        _log.debug("%s could not be measured: %s", server.server_id, error)
        return ()
