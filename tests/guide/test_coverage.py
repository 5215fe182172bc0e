"""The guide's command for coverage, `pytest tests/mcp_servers/ -v --cov=app --cov-report=html`."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

_PROJECT = Path(__file__).parents[2]


async def test_the_tests_of_the_servers_are_found_and_measured(tmp_path: Path) -> None:
    report = tmp_path / "html"
    command = ("-m", "pytest", "tests/mcp_servers/", "-v", "--cov=app", f"--cov-report=html:{report}", "--collect-only")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=_PROJECT,
        env={**kept, "COVERAGE_FILE": str(tmp_path / "coverage")},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "gateway_py.html" in (report / "index.html").read_text()
