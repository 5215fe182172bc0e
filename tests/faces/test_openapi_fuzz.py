"""What schemathesis makes of the OpenAPI document: nothing of it is a 500, and every answer is documented."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.gateway import Served, serve
from tests.fixtures.postgres import TestDatabase

EXAMPLES = 6
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
NEVER_WELL = {f"/mcp/clock/tools/{name}" for name in ("wait_for_cancellation", "oversleep", "fail")}
"""Tools of the clock that never answer, or answer 5xx because they are asked to."""


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings())) as served:
        yield served


def fuzz(url: str, mode: GenerationMode, paths: str = "/") -> set[str]:
    """Call every operation below `paths` with generated requests; return the paths that were called."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=f"^{paths}")
    called: set[str] = set()
    session = requests.Session()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.path in NEVER_WELL:
            continue

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(cast("Iterable[HealthCheck]", HealthCheck)),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            called.add(case.operation.path)
            case.call_and_validate(base_url=url, session=session, checks=CHECKS, timeout=10)

        # An operation without arguments can't be called with invalid ones.
        with suppress(Unsatisfiable):
            check()
    session.close()
    return called


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
async def test_no_generated_request_meets_an_answer_that_is_not_documented(
    gateway: Served, mode: GenerationMode
) -> None:
    called = await asyncio.to_thread(fuzz, gateway.url, mode)
    assert {"/mcp/clock/tools/get_time", "/mcp/clock/tools/tick"} <= called


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
async def test_the_database_server_answers_generated_requests_as_documented(
    demo_database: TestDatabase, mode: GenerationMode
) -> None:
    async with serve(create_app([DatabaseMCPServer], Settings(), [demo_database.settings])) as served:
        called = await asyncio.to_thread(fuzz, served.url, mode, "/mcp/database/tools")
    assert called >= {f"/mcp/database/tools/{name}" for name in DatabaseMCPServer.tools}
