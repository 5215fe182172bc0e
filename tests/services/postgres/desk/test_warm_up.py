"""What statements cost once is paid before the first callers come."""

from typing import Any

import pytest

from app.local.process import free_port
from app.routers.database import DatabaseMCPServer
from app.services.postgres.connections import pools
from app.services.postgres.desk.analytics import GroupBy, Period
from app.services.postgres.desk.pages import ARTICLES, CUSTOMERS, INTERACTIONS, TICKETS, Listing
from tests.fixtures.postgres import TestDatabase, settings_for
from tests.services.postgres.statements import statements

LISTINGS: tuple[Listing[Any, Any], ...] = (CUSTOMERS, TICKETS, ARTICLES, INTERACTIONS)


@pytest.fixture(autouse=True)
def _cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be as in a process that has just begun."""
    for statement in statements("app.services.postgres.desk"):
        monkeypatch.setattr(statement, "_compiled", None)


def compile_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(statement: object) -> None:
        raise AssertionError(f"a caller waits for this to be compiled: {statement}")

    monkeypatch.setattr(pools, "_Compiled", compiled)


async def test_the_first_callers_of_a_warm_server_wait_for_no_statement(
    demo_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = DatabaseMCPServer(settings=demo_database.settings)
    async with server.opened():
        await server.warm_up()
        compile_no_more(monkeypatch)
        for customer in (None, "12345"):
            await server.desk.customer_context("12345", 1, 1, notes=customer is None)
            for listing in LISTINGS:
                await server.records.page(listing, None, 1, customer)
            await server.records.row(CUSTOMERS, "12345", customer)
            await server.records.row(ARTICLES, 1, customer)
        for group_by in GroupBy:
            await server.analytics.report(Period.read("7 days"), group_by)


async def test_a_server_warms_up_without_its_database_and_forgets_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    server = DatabaseMCPServer(settings=settings_for(f"postgresql://u:p@127.0.0.1:{free_port()}/d"))
    async with server.opened():
        await server.warm_up()
    compile_no_more(monkeypatch)
    assert all(statement.sql for statement in statements("app.services.postgres.desk"))
