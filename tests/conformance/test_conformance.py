"""The official conformance suites, both versions, against our faces."""

import re
from pathlib import Path

import pytest

from tests.conformance.conftest import HERE, RunNode
from tests.fixtures.gateway import Served

_SCENARIO = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", re.MULTILINE)
_NOT_SCORED = re.compile(r"^  [✓✗] (\S+) \(", re.MULTILINE)
_LISTED = re.compile(r"^  - (\S+)", re.MULTILINE)


@pytest.mark.parametrize(
    ("suite", "options", "scored", "listed"),
    [
        ("conformance-2025", (), 30, True),
        ("conformance-2026", ("--requirements", "2025-11-25"), 30, True),
        ("conformance-2026", ("--requirements", "2026-07-28"), 37, False),
    ],
)
async def test_the_official_suite_passes_but_for_what_is_listed(
    gateway: Served, node: RunNode, suite: str, options: tuple[str, ...], scored: int, listed: bool
) -> None:
    program = Path("node_modules") / suite / "dist" / "index.js"
    _, output = await node(program, "server", "--url", f"{gateway.url}/mcp/conformance", *options)
    summary = output.partition("=== SUMMARY ===")[2]
    not_scored = _NOT_SCORED.findall(summary)
    # A scenario that found nothing to check has not passed.
    passed = {
        name: int(failures) == 0 and int(successes) > 0
        for name, successes, failures in _SCENARIO.findall(summary)
        if name not in not_scored
    }
    assert len(passed) == scored, output
    failing = {name for name, well in passed.items() if not well}
    expected = _LISTED.findall((HERE / "expected_failures.yaml").read_text()) if listed else []
    assert failing == set(expected), summary


async def test_scenarios_without_fixtures_pass_against_an_ordinary_server(gateway: Served, node: RunNode) -> None:
    for scenario in ("tools-list", "resources-list", "dns-rebinding-protection", "sep-2164-resource-not-found"):
        code, output = await node(
            Path("node_modules") / "conformance-2026" / "dist" / "index.js",
            *("server", "--url", f"{gateway.url}/mcp/clock", "--scenario", scenario, "--spec-version", "2026-07-28"),
        )
        assert code == 0, output
