"""What Prometheus reads: the account of calls, and whatever else is measured, in its text format or OpenMetrics."""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from app.measures import Measure
from app.telemetry.activity import Histogram, Key, prometheus_buckets

DURATION = "mcp_server_operation_duration_seconds"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""OpenTelemetry's bounds for operations of MCP servers, and three below them, where most of ours end."""
_LABELS = ("server", "operation", "face", "outcome")
_DECISIONS = "switchboard_guard_decisions_total"


class Metrics(Collector):
    """All that is measured of a gateway, as `prometheus_client` collects it.

    Its own counters are not used: a child of its histogram costs a call three times what the whole account does.

    Args:
        totals: how long calls took, by server, operation, face and outcome.
        refusals: what the guard has refused, by outcome and rule.
        measures: everything else.
    """

    def __init__(
        self, totals: Mapping[Key, Histogram], refusals: Mapping[tuple[str, str], int], measures: Iterable[Measure]
    ) -> None:
        self._totals = totals
        self._refusals = refusals
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        """Iterate over the metrics, each once."""
        yield self._durations()
        yield self._decisions()
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for measure in self._measures:
            family = families.get(measure.name)
            if family is None:
                made = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
                family = families[measure.name] = made(measure.name, measure.about, labels=tuple(measure.labels))
            family.add_metric(tuple(measure.labels.values()), measure.value)
        yield from families.values()

    def _durations(self) -> Metric:
        about = "How long operations took, from their look-up to their end."
        family = HistogramMetricFamily(DURATION, about, labels=_LABELS)
        milliseconds = tuple(round(seconds * 1e3, 3) for seconds in SECONDS)
        names = [*map(str, SECONDS), "+Inf"]
        for key, histogram in self._totals.items():
            counts = [count for _, count in prometheus_buckets(histogram, milliseconds)]
            buckets = [(name, float(count)) for name, count in zip(names, [*counts, histogram.count], strict=True)]
            family.add_metric(key, buckets, histogram.ms / 1e3)
        return family

    def _decisions(self) -> Metric:
        family = CounterMetricFamily(
            _DECISIONS,
            "What the guard has said no to, by the outcome of the call and the rule.",
            labels=("outcome", "rule"),
        )
        for (outcome, rule), count in self._refusals.items():
            family.add_metric((outcome, rule), count)
        return family


def exposition(metrics: Metrics, *, open_metrics: bool) -> tuple[bytes, str]:
    """Return what Prometheus reads, and its media type. A thousand series take some 100 ms: not on the event loop.

    Args:
        metrics: what is shown, beside what the process itself takes.
        open_metrics: in OpenMetrics 1.0, else in Prometheus's own text format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    ProcessCollector(registry=registry)
    if open_metrics:
        return cast("bytes", openmetrics.generate_latest(registry)), openmetrics.CONTENT_TYPE_LATEST  # pyright: ignore[reportUnknownMemberType] - it has no types
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
