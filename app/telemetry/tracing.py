"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says to whom: a span a call, in its caller's trace.

The extra `otel` brings what is imported here, and nothing imports this but `app.cli.running.open_tracing`, so that
who traces nothing pays nothing. The provider is ours alone: libraries that look for the global one find none.
"""

import threading
import time

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.servers.calls import CallContext
from app.stages import CallSpan
from app.telemetry.activity import UNKNOWN
from app.version import VERSION

_CLOSED_WITHIN = 2.0
"""Seconds that the end of the process waits for a collector to take what is left."""
_NAMELESS = "unknown_service"
"""How the SDK calls a service that no variable names."""
_NO_FAILURES = ("ok", "cancelled")
_propagator = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Makes spans, and hands those that have ended to a thread that sends them by OTLP over HTTP.

    What a collector does not take in time is dropped there. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    OTEL_TRACES_SAMPLER and the other variables of the SDK hold.
    """

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_VERSION: VERSION})
        if str(resource.attributes[SERVICE_NAME]).startswith(_NAMELESS):
            resource = resource.merge(Resource({SERVICE_NAME: "switchboard"}))
        # At exit it would wait for a collector that is away; `close` does so for a moment only.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("switchboard", VERSION)

    def begin(self, server: str, operation: str, context: CallContext, *, tool: bool) -> CallSpan:
        """Begin the span of a call, as OpenTelemetry's conventions for MCP have it.

        Args:
            server: its id.
            operation: as it is declared; quoted where there is no such thing.
            context: who calls, and the trace that it is a part of.
            tool: whether it is a tool.
        """
        method, name = _named(operation, tool=tool)
        attributes = {
            "mcp.method.name": method,
            "switchboard.server": UNKNOWN if server[0] in "'\"" else server,
            "switchboard.face": context.face,
            "switchboard.request_id": context.request_id,
        }
        if tool:
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        if context.origin.conversation != "-":
            attributes["gen_ai.conversation.id"] = context.origin.conversation
        parent = _propagator.extract({"traceparent": context.origin.traceparent}, Context())
        title = f"{method} {name}".rstrip()
        return _CallSpan(self._tracer, self._tracer.start_span(title, parent, SpanKind.SERVER, attributes))

    def close(self) -> None:
        """Send what is left, unless nobody takes it in a moment."""
        closing = threading.Thread(target=self._provider.shutdown, name="the end of traces", daemon=True)
        closing.start()
        closing.join(_CLOSED_WITHIN)


class _CallSpan:
    """The span of a call, and those of its parts."""

    __slots__ = ("_epoch", "_inside", "_span", "_tracer", "traceparent")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span, Context())
        self._epoch = time.time_ns() - time.perf_counter_ns()
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, self._inside)
        self.traceparent = carrier["traceparent"]

    def part(self, name: str, began: float, ended: float) -> None:
        if self._span.is_recording():
            span = self._tracer.start_span(name, self._inside, start_time=self._epoch + round(began * 1e9))
            span.end(self._epoch + round(ended * 1e9))

    def end(self, outcome: str) -> None:
        self._span.set_attribute("switchboard.outcome", outcome)
        if outcome not in _NO_FAILURES:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _named(operation: str, *, tool: bool) -> tuple[str, str]:
    """Return the method of MCP that an operation stands for, and its name, none that a caller has made up."""
    if operation[0] in "'\"":
        return UNKNOWN, ""
    if tool:
        return "tools/call", operation
    if operation.startswith("watch "):
        return "resources/subscribe", operation.removeprefix("watch ")
    return ("resources/read", operation) if "://" in operation else (operation, "")
