"""The alerts and the dashboard that operators are given: of metrics that there are, and they fire when they should."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import app
from app.telemetry.metrics import DURATION

ROOT = Path(app.__file__).parent.parent
OPERATIONS = ROOT / "docs" / "operations"
ALERTS = OPERATIONS / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((OPERATIONS / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
METRIC = re.compile(r"\b(?:switchboard|mcp_server|process)_[a-z_]+\b")
LABELS = {"server", "operation", "face", "outcome", "pool", "state", "rule", "code", "group", "of", "le", "job"}


def exposed() -> set[str]:
    """Return the names of all metrics that the product writes, as Prometheus stores them."""
    sources = [path.read_text() for path in (ROOT / "app").rglob("*.py")]
    measuring = "".join(source for source in sources if "Measure(" in source or "MetricFamily(" in source)
    named = set(re.findall(r'"(switchboard_[a-z_]+)"', measuring))
    histogram = {f"{DURATION}_{part}" for part in ("bucket", "count", "sum")}
    process = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    return named | {f"{name}_total" for name in named} | histogram | process


def promtool(*arguments: str | Path) -> str:
    checking = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert checking.returncode == 0, checking.stdout + checking.stderr
    return checking.stdout


def test_what_is_asked_for_is_there() -> None:
    asked = set(METRIC.findall(" ".join(QUERIES) + re.sub(r"#.*", "", ALERTS.read_text())))
    assert len(asked) > 12
    assert asked <= exposed() | {DURATION}


def test_the_page_names_each_metric_and_none_that_is_not() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"`(switchboard_[a-z_]+)`", page.partition("## Traces")[0]))
    sources = exposed()
    assert listed <= sources
    gauges = {name for name in sources if name.startswith("switchboard") and not name.endswith("_total")}
    assert not {name for name in gauges if name not in listed and f"{name}_total" not in listed}


def test_labels_are_those_that_there_are() -> None:
    for query in QUERIES:
        grouped = re.findall(r"(?:by|on) \(([^)]*)\)", query)
        matched = re.findall(r"[{,]\s*([a-z]+)\s*[=!]", query)
        assert {label.strip() for labels in grouped for label in labels.split(",")} | set(matched) <= LABELS, query


@pytest.mark.debian("prometheus")
def test_each_query_is_one_that_prometheus_understands(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", tmp_path / "rules.json")
    assert "6 rules found" in promtool("check", "rules", ALERTS)


CALLS = f'{DURATION}_count{{job="switchboard",server="database",outcome="%s"}}'
SEARCHED = 'switchboard_search_mode{job="switchboard",mode="%s",configured="%s"}'
WELL = {
    'up{job="switchboard"}': "1x60",
    'switchboard_backend_up{job="switchboard",server="database"}': "1x60",
    CALLS % "ok": "0+600x60",
    CALLS % "backend_timeout": "0+1x60",
    CALLS % "not_found": "0+600x60",
    'switchboard_pool_waiting{job="switchboard",server="database",pool="read"}': "0 5 0 5 0 5 0 5 0 5 0 5 0x60",
    'switchboard_kafka_group_lag{job="switchboard",group="desk"}': "5000-100x60",
    SEARCHED % ("lexical", "lexical"): "1x60",
    SEARCHED % ("semantic", "semantic"): "1x20 _x10 1x30",
    SEARCHED % ("lexical", "semantic"): "_x20 1x10 _x30",
}


@pytest.mark.debian("prometheus")
@pytest.mark.parametrize(
    ("alert", "series"),
    [
        (None, {}),
        ("SwitchboardDown", {'up{job="switchboard"}': "1x5 0x60"}),
        ("SwitchboardBackendDown", {'switchboard_backend_up{job="switchboard",server="database"}': "1x5 0x60"}),
        ("SwitchboardFailing", {CALLS % "backend_timeout": "0+100x60"}),
        ("SwitchboardFailing", {CALLS % "internal_error": "0+100x60"}),
        ("SwitchboardSaturated", {CALLS % "too_many_requests": "0+100x60"}),
        ("SwitchboardSaturated", {'switchboard_pool_waiting{job="switchboard",server="database",pool="read"}': "3x60"}),
        ("SwitchboardKafkaLag", {'switchboard_kafka_group_lag{job="switchboard",group="desk"}': "5000+10x60"}),
        ("SwitchboardSearchByWords", {SEARCHED % ("lexical", "semantic"): "_x20 1x40"}),
    ],
)
def test_an_alert_fires_when_it_should_and_alone(tmp_path: Path, alert: str | None, series: dict[str, str]) -> None:
    names = re.findall(r"alert: (\w+)", ALERTS.read_text())
    assert alert is None or alert in names
    given = [{"series": name, "values": values} for name, values in {**WELL, **series}.items()]
    checks = []
    for name in names:
        # What exactly an alert says is for people; that it fires, and for what, is held.
        value = f'count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}})'
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name == alert else []
        checks.append({"expr": value, "eval_time": "50m", "exp_samples": samples})
    written = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": checks}],
    }
    (tmp_path / "test.json").write_text(json.dumps(written))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.json")
