"""Traces: a span a call in its caller's trace, sent by OTLP, and nothing at all where nobody traces."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import func, select

from app.cli.running import UnusableSettings, open_tracing
from app.local.kafka import LocalKafka
from app.local.process import free_port
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.services.postgres.connections.pools import Statement
from app.settings import Settings
from app.stages import Stages
from app.telemetry.tracing import OpenTelemetry
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, client_of, headers, request, websocket
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Collector:
    """Takes what is sent by OTLP over HTTP."""

    def __init__(self) -> None:
        taken: list[ExportTraceServiceRequest] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name for it
                """Say nothing."""

        self.taken = taken
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        """Return what was sent, in the order of their starts."""
        resources = [resource for sent in self.taken for resource in sent.resource_spans]
        found = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def calls(self) -> list[Span]:
        return [span for span in self.spans() if span.kind == Span.SPAN_KIND_SERVER]

    def parts(self, call: Span) -> list[str]:
        return [span.name for span in self.spans() if span.parent_span_id == call.span_id]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[Collector]:
    collector = Collector()
    serving = threading.Thread(target=collector.server.serve_forever)
    serving.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    serving.join()


@pytest.fixture
def tracing(collector: Collector) -> OpenTelemetry:
    return OpenTelemetry()


@pytest.fixture
async def gateway(tracing: OpenTelemetry) -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings(), tracing=tracing)) as served:
        yield served


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


async def test_a_call_is_a_span_in_its_callers_trace(
    gateway: Served, tracing: OpenTelemetry, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = {"traceparent": PARENT, "x-conversation-id": "c-7", "x-request-id": "r-7"}
    async with client_of(gateway) as http:
        await http.post("/mcp/clock/tools/get_time", json={"zone": "said-in-secret"}, headers=said)
        await http.get("/mcp/clock/resources/read", params={"uri": "clock://zones/Mars"}, headers=said)
    tracing.close()
    called, read = collector.calls()
    assert (called.name, read.name) == ("tools/call get_time", "resources/read clock://zones/{zone}")
    for span in (called, read):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
        assert span.status.code == Status.STATUS_CODE_UNSET
        assert collector.parts(span) == ["parsed", "ran", "wrote"]
    assert attributes(called) == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_time",
        "gen_ai.conversation.id": "c-7",
        "switchboard.server": "clock",
        "switchboard.face": "rest",
        "switchboard.request_id": "r-7",
        "switchboard.outcome": "ok",
    }
    [resource] = {str(sent.resource_spans[0].resource) for sent in collector.taken}
    assert "switchboard" in resource
    assert "said-in-secret" not in str(collector.taken)
    assert "Mars" not in str(collector.taken)
    [line, _] = [each.getMessage() for each in caplog.records if "operation=" in each.getMessage()]
    assert f" traceparent=00-{TRACE_ID}-{called.span_id.hex()}-01 " in line


@pytest.mark.parametrize("era", ERAS)
async def test_mcp_names_the_trace_in_meta(
    gateway: Served, tracing: OpenTelemetry, collector: Collector, era: str
) -> None:
    message = request(era, "tools/call", {"name": "get_time"}, traceparent=PARENT)
    async with client_of(gateway) as http:
        await http.post("/mcp/clock", json=message, headers=headers(era, message))
    async with websocket(gateway, era) as messages:
        await messages.ask({**message, "id": 9})
    tracing.close()
    found = [span for span in collector.calls() if span.name == "tools/call get_time"]
    assert [(span.trace_id.hex(), span.parent_span_id.hex()) for span in found] == [(TRACE_ID, SPAN_ID)] * 2


async def test_a_failure_is_told_and_what_callers_make_up_is_no_name(
    gateway: Served, tracing: OpenTelemetry, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(gateway) as http:
        await http.post("/mcp/clock/tools/get_time", json={"zone": "Atlantis"})
        await http.post("/mcp/clock/tools/made-up")
    tracing.close()
    failed, refused = collector.calls()
    assert (failed.name, attributes(failed)["error.type"]) == ("tools/call get_time", "not_found")
    assert (refused.name, attributes(refused)["error.type"]) == ("unknown", "unknown_tool")
    assert failed.status.code == refused.status.code == Status.STATUS_CODE_ERROR
    assert failed.trace_id != refused.trace_id
    lines = [each.getMessage() for each in caplog.records if "operation=" in each.getMessage()]
    for span, line in zip((failed, refused), lines, strict=True):
        assert f" traceparent=00-{span.trace_id.hex()}-{span.span_id.hex()}-0" in line


async def test_a_caller_that_is_not_sampled_is_not_sent(
    gateway: Served, tracing: OpenTelemetry, collector: Collector
) -> None:
    async with client_of(gateway) as http:
        answer = await http.post("/mcp/clock/tools/get_time", headers={"traceparent": f"{PARENT[:-2]}00"})
    tracing.close()
    assert (answer.status_code, collector.spans()) == (200, [])


async def test_a_collector_that_is_away_holds_up_no_call_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("app.telemetry.tracing._CLOSED_WITHIN", 0.1)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    tracing = OpenTelemetry()
    async with serve(create_app([ClockMCPServer()], Settings(), tracing=tracing)) as served, client_of(served) as http:
        assert (await http.post("/mcp/clock/tools/get_time")).status_code == 200
    tracing.close()


async def test_messages_name_the_trace_for_their_readers(
    kafka_broker: LocalKafka, topic_name: str, tracing: OpenTelemetry, collector: Collector
) -> None:
    app = create_app([KafkaMCPServer], Settings(), [settings_for_kafka(kafka_broker)], tracing=tracing)
    async with serve(app) as served, client_of(served) as http:
        await http.post("/mcp/kafka/tools/create_topic", json={"topic": topic_name})
        keyed = {"idempotency_key": "k"}
        for more in ({}, keyed, keyed, {"headers": {"traceparent": "own"}}):
            arguments = {"topic": topic_name, "message": "hello", **more}
            answer = await http.post(
                "/mcp/kafka/tools/publish_message", json=arguments, headers={"traceparent": PARENT}
            )
            assert answer.status_code == 200, answer.text
        read = {"topic": topic_name, "start": "earliest"}
        messages = (await http.post("/mcp/kafka/tools/consume_messages", json=read)).json()["messages"]
    tracing.close()
    published = [span for span in collector.calls() if span.name == "tools/call publish_message"]
    traces = [message["headers"]["traceparent"] for message in messages]
    assert traces == [
        f"00-{TRACE_ID}-{published[0].span_id.hex()}-01",
        f"00-{TRACE_ID}-{published[1].span_id.hex()}-01",
        "own",
    ]


class FixedSpan:
    """The span of a call."""

    traceparent = PARENT

    def part(self, name: str, began: float, ended: float) -> None: ...

    def end(self, outcome: str) -> None: ...


async def test_waiting_for_a_backend_is_a_part_of_the_call(
    database: TestDatabase, tracing: OpenTelemetry, collector: Collector
) -> None:
    app = create_app([DatabaseMCPServer], Settings(), [database.settings], tracing=tracing)
    async with serve(app) as served, client_of(served) as http:
        await http.post("/mcp/database/tools/get_analytics", json={}, headers={"traceparent": PARENT})
    tracing.close()
    [called] = collector.calls()
    assert collector.parts(called) == ["parsed", "ran", "waited for a connection", "wrote"]
    within = [each for each in collector.spans() if each.parent_span_id == called.span_id]
    for span in within:
        # The clocks are two, and not read at the same moment.
        assert called.start_time_unix_nano <= span.start_time_unix_nano + 100_000_000
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= called.end_time_unix_nano + 100_000_000


async def test_postgresql_names_the_trace_while_it_works_for_it(database: TestDatabase) -> None:
    whole = Statement(select(func.to_json(func.current_setting("application_name"))), for_staff=True)
    app = create_app([DatabaseMCPServer], Settings(), [database.settings])

    @asynccontextmanager
    async def traced() -> AsyncGenerator[None]:
        with Stages(logging.getLogger("MCP"), "look", "r-1", FixedSpan(), []).shown():
            yield

    async with serve(app):
        server = app.state.gateway.servers["database"]

        async def named() -> list[object]:
            async with server.reader._sessions.begin(5) as connection:
                reading = await connection.fetchval("SELECT current_setting('application_name')")
            writing = await server.database.write(
                lambda session: session.scalar(select(func.current_setting("application_name")))
            )
            fixed = (await server.database.reads.fetch_json(whole)).decode().strip('"')
            return [reading, writing, fixed]

        before = await named()
        async with traced():
            assert await named() == [f"switchboard {TRACE_ID}"] * 3
        assert await named() == before


def test_nothing_is_imported_where_nobody_traces() -> None:
    program = """
import sys
from app.cli.running import open_tracing, read_settings
from app.cli import serve, stdio
from app.settings import Settings
with open_tracing(Settings()) as tracing:
    assert tracing is None
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_extra_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.running._TRACING", "app.telemetry.of_somebody_else")
    settings = Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:4318")
    told = pytest.raises(UnusableSettings, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*switchboard-gateway\[otel\]")
    with told, open_tracing(settings):
        pass


async def test_the_command_line_traces_where_it_is_told_to(collector: Collector) -> None:
    with open_tracing(Settings(otel_exporter_otlp_endpoint=collector.url)) as tracing:
        app = create_app([ClockMCPServer()], Settings(), tracing=tracing)
        async with serve(app) as served, client_of(served) as http:
            await asyncio.gather(*(http.post("/mcp/clock/tools/get_time") for _ in range(20)))
    assert len(collector.calls()) == 20
