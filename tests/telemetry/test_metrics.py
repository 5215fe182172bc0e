"""`/metrics`: what is measured, in either format, read by Prometheus itself, and by nobody who may not."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app.faces.metrics import MetricsPage
from app.guard.principal import Principal
from app.local.kafka import LocalKafka
from app.local.process import accepts_connections, child_process, free_port
from app.main import create_app
from app.measures import Measure
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.serving.process import Site, serve_sites
from app.settings import Settings
from app.telemetry.metrics import DURATION, SECONDS
from tests.clock import ClockMCPServer
from tests.faces.raw import client_of
from tests.fixtures.debian import PROGRAMS
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase

WITHIN = 30.0
"""Seconds in which everything that a test waits for happens, or the test fails."""
OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
SLOW = "SELECT count(*) FROM generate_series(1, 1000000000)"
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings())) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


async def scraped(http: httpx.AsyncClient) -> Samples:
    """Return what is measured, by name and labels."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def test_calls_are_counted_by_what_they_are_and_how_they_ended(http: httpx.AsyncClient) -> None:
    for zone in ("UTC", "UTC", "Atlantis"):
        await http.post("/mcp/clock/tools/get_time", json={"zone": zone})
    samples = await scraped(http)
    labels = {"server": "clock", "operation": "get_time", "face": "rest"}
    assert of(samples, f"{DURATION}_count", **labels, outcome="ok") == 2
    assert of(samples, f"{DURATION}_count", **labels, outcome="not_found") == 1
    buckets = [of(samples, f"{DURATION}_bucket", **labels, outcome="ok", le=f"{bound}") for bound in SECONDS]
    assert buckets == sorted(buckets)  # type: ignore[type-var]
    assert of(samples, f"{DURATION}_bucket", **labels, outcome="ok", le="+Inf") == 2
    assert 0 < (of(samples, f"{DURATION}_sum", **labels, outcome="ok") or 0) < math.inf


async def test_what_is_held_now_is_measured(http: httpx.AsyncClient, gateway: Served) -> None:
    assert of(await scraped(http), "switchboard_calls_in_flight", server="clock") == 0
    [clock] = gateway.app.state.gateway.servers.values()
    waiting = asyncio.create_task(http.post("/mcp/clock/tools/wait_for_cancellation"))
    await clock.started.wait()
    samples = await scraped(http)
    assert of(samples, "switchboard_calls_in_flight", server="clock") == 1
    assert of(samples, "switchboard_streams", server="clock") == 0
    assert of(samples, "switchboard_subscriptions") == 0
    assert of(samples, "switchboard_backend_up", server="clock") == 1
    assert of(samples, "switchboard_log_lines_dropped_total") is not None
    assert of(samples, "process_resident_memory_bytes") is not None
    [build] = [dict(labels) for name, labels in samples if name == "switchboard_build_info"]
    assert build.keys() == {"version", "python"}
    clock.outages.down("the clock", "it has stopped")
    assert of(await scraped(http), "switchboard_backend_up", server="clock") == 0
    clock.outages.up("the clock")
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_requests_that_come_to_no_call_are_counted_by_code(http: httpx.AsyncClient) -> None:
    async def counted() -> float:
        return of(await scraped(http), "switchboard_requests_refused_total", code="method_not_allowed") or 0

    before = await counted()
    await http.delete("/mcp/clock/tools/get_time")
    assert await counted() == before + 1


async def test_what_callers_make_up_and_who_they_are_is_no_label(http: httpx.AsyncClient) -> None:
    before = {(name, labels) for name, labels in await scraped(http) if name.startswith((DURATION, "switchboard"))}
    for number in range(50):
        headers = {"user-agent": f"made-up-{number}/1", "x-request-id": f"made-up-{number}"}
        await http.post(f"/mcp/clock/tools/made-up-{number}", headers=headers)
        await http.post(f"/mcp/made-up-{number}/tools/get_time", headers=headers)
        await http.get("/mcp/clock/resources/read", params={"uri": f"clock://made-up-{number}"}, headers=headers)
        await http.get("/mcp/clock/resources/read", params={"uri": f"clock://zones/made-up-{number}"}, headers=headers)
        await http.post("/mcp/clock/tools/get_time", json={"zone": f"made-up-{number}"}, headers=headers)
    after = await scraped(http)
    assert not [labels for _, labels in after if any("made-up" in value for _, value in labels)]
    assert len({labels for name, labels in after.keys() - before if name == f"{DURATION}_count"}) <= 6
    assert (
        of(after, f"{DURATION}_count", server="clock", operation="clock://zones/{zone}", face="rest", outcome="ok")
        == 50
    )


async def test_open_metrics_is_spoken_with_who_asks_for_it(http: httpx.AsyncClient) -> None:
    await http.post("/mcp/clock/tools/get_time")
    answer = await http.get("/metrics", headers={"accept": OPEN})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert {family.name for family in parse_open_metrics(answer.text)} >= {DURATION, "switchboard_guard_decisions"}
    for accept in ("", "*/*", "text/plain", "application/openmetrics-text;q=0, */*", "application/openmetrics"):
        answer = await http.get("/metrics", headers={"accept": accept})
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8", accept
    head = await http.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.debian("prometheus")
async def test_promtool_finds_nothing_to_say_of_them(http: httpx.AsyncClient) -> None:
    await http.post("/mcp/clock/tools/get_time")
    exposed = (await http.get("/metrics")).content
    checking = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await checking.communicate(exposed)
    assert (checking.returncode, said) == (0, b"")


@pytest.mark.debian("prometheus")
async def test_prometheus_itself_scrapes_them(gateway: Served, http: httpx.AsyncClient, tmp_path: Path) -> None:
    for _ in range(7):
        await http.post("/mcp/clock/tools/get_time")
    scraping = {
        "job_name": "switchboard",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{gateway.port}"]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scraping]}))
    port = free_port()
    command = [
        PROGRAMS["prometheus"],
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with AsyncExitStack() as stack:
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN)
        prometheus = await stack.enter_async_context(client)

        async def is_ready() -> bool:
            # It takes connections before it answers queries.
            return await accepts_connections(port) and (await prometheus.get("/-/ready")).status_code == 200

        async def ask(query: str) -> list[dict[str, Any]]:
            """Return what Prometheus knows once it knows anything."""
            async with asyncio.timeout(WITHIN):
                while True:
                    answer = await prometheus.get("/api/v1/query", params={"query": query})
                    if found := answer.json()["data"]["result"]:
                        return list(found)

        await stack.enter_async_context(child_process(command, log=tmp_path / "log", is_ready=is_ready))
        [count] = await ask(f'{DURATION}_count{{operation="get_time",outcome="ok"}}')
        assert count["value"][1] == "7"
        assert count["metric"].keys() == {"__name__", "server", "operation", "face", "outcome", "instance", "job"}
        [quantile] = await ask(f"histogram_quantile(0.5, {DURATION}_bucket{{operation='get_time',outcome='ok'}})")
        assert 0 < float(quantile["value"][1]) <= 1
        assert await ask("up == 1")


async def test_the_metrics_of_all_sites_are_at_a_port_of_loopback() -> None:
    """There nobody is asked for a key, pages of other sites are refused, and nothing else is served."""
    port = free_port()
    given = Settings(port=0, metrics_port=port, allowed_hosts=["gateway.example"])

    class OtherMCPServer(ClockMCPServer):
        """Tells the time, too."""

        server_id = "other"

    sites = [Site(create_app([kind()], given), given) for kind in (ClockMCPServer, OtherMCPServer)]
    ready: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_sites(sites, lambda ports: ready.set_result(list(ports))))
    try:
        async with asyncio.timeout(WITHIN):
            ports = await ready
        assert len(ports) == 2
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            samples = await scraped(http)
            for server in ("clock", "other"):
                assert of(samples, "switchboard_calls_in_flight", server=server) == 0
            assert (await http.get("/metrics", headers={"host": "evil.example"})).status_code == 421
            for path in ("/", "/mcp", "/openapi.json", "/ready"):
                answer = await http.get(path)
                assert (answer.status_code, "GET /metrics is all" in answer.json()["detail"]) == (404, True)
    finally:
        serving.cancel()
        await asyncio.wait([serving])


class SilentMCPServer(ClockMCPServer):
    """Measures, and never says what."""

    server_id = "silent"

    async def measures(self) -> list[Measure]:
        await asyncio.Event().wait()
        return []


async def test_a_backend_that_says_nothing_holds_up_no_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.faces.metrics._MEASURED_WITHIN", 0.05)
    async with serve(create_app([SilentMCPServer()], Settings())) as served, client_of(served) as http:
        assert of(await scraped(http), "switchboard_calls_in_flight", server="silent") == 0


async def test_pools_and_search_are_measured(database: TestDatabase) -> None:
    patient = database.settings.model_copy(update={"pool_wait": 60.0})
    app = create_app([DatabaseMCPServer], Settings(), [patient])
    async with serve(app) as served, client_of(served) as http:
        await http.post("/mcp/database/tools/get_analytics", json={})
        await http.post("/mcp/database/tools/query_database", json={"query": "SELECT 1"})
        samples = await scraped(http)
        for pool, opened in (("read", 0), ("report", 1), ("write", 0), ("reader", 1)):
            known = {"server": "database", "pool": pool}
            states = [of(samples, "switchboard_pool_connections", **known, state=state) for state in ("used", "idle")]
            assert states == [0, opened], pool
            assert of(samples, "switchboard_pool_waiting", **known) == 0
            assert (of(samples, "switchboard_pool_size", **known) or 0) >= 1
        assert of(samples, "switchboard_search_mode", mode="lexical", configured="lexical") == 1
        server = app.state.gateway.servers["database"]
        size = int(of(samples, "switchboard_pool_size", server="database", pool="reader") or 0)
        lasting = {"query": SLOW, "timeout_ms": 60_000}
        slow = [
            asyncio.create_task(http.post("/mcp/database/tools/query_database", json=lasting, timeout=60))
            for _ in range(size + 2)
        ]
        async with asyncio.timeout(WITHIN):
            while [each.value for each in server.reader.measures("database")] != [size, size, 0, 2]:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
        samples = await scraped(http)
        assert of(samples, "switchboard_pool_connections", server="database", pool="reader", state="used") == size
        assert of(samples, "switchboard_pool_waiting", server="database", pool="reader") == 2
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)


async def test_the_lag_of_groups_that_we_serve_is_measured(
    kafka_broker: LocalKafka, topic_name: str, group_id: str
) -> None:
    app = create_app([KafkaMCPServer], Settings(), [settings_for_kafka(kafka_broker)])
    async with serve(app) as served, client_of(served) as http:
        assert not [name for name, _ in await scraped(http) if name == "switchboard_kafka_group_lag"]
        for tool, arguments in (
            ("create_topic", {}),
            ("publish_message", {"message": "one"}),
            ("publish_message", {"message": "two"}),
            ("consume_messages", {"group_id": group_id, "max_messages": 1}),
        ):
            answer = await http.post(f"/mcp/kafka/tools/{tool}", json={"topic": topic_name, **arguments})
            assert answer.status_code == 200, answer.text
        answer = await http.post(
            "/mcp/kafka/tools/consume_messages",
            json={"topic": topic_name, "group_id": group_id, "max_messages": 1, "ack": answer.json()["ack"]},
        )
        assert of(await scraped(http), "switchboard_kafka_group_lag", group=group_id) == 1


def test_whoever_is_bound_to_a_customer_may_not_even_where_nobody_is_asked() -> None:
    gateway = create_app([ClockMCPServer()], Settings()).state.gateway
    assert gateway.refuses_operator("metrics:read", Principal("anna", customer="anna")).code == "not_confined"
    assert gateway.refuses_operator("metrics:read", Principal("alice")) is None
    assert MetricsPage([]).route().methods == {"GET", "HEAD"}
