"""The film of a session that is talked into reading another customer: it shows the refusals, and does not lie."""

import io

from agents.confined import VICTIM, run_confined_demo
from app.main import create_app
from app.routers.database import DatabaseMCPServer
from app.settings import Settings
from tests.fixtures.gateway import serve
from tests.fixtures.postgres import TestDatabase
from tests.guard.bound import bound


async def test_a_bound_session_reaches_nothing_of_the_other_and_one_that_is_not_bound_is_told_so(
    demo_database: TestDatabase,
) -> None:
    async with demo_database.connect() as connection:
        exists = await connection.fetchval("SELECT EXISTS (SELECT FROM customers WHERE id = $1)", VICTIM)
    assert exists, "of nobody anything would be kept"
    for customer, code in (("12345", 0), (None, 1)):
        app = bound(create_app([DatabaseMCPServer], Settings(), [demo_database.settings]), customer)
        out = io.StringIO()
        async with serve(app) as served:
            assert await run_confined_demo(served.url, out=out) == code, out.getvalue()
        shown = out.getvalue()
        assert ("REACHED" in shown) is bool(code)
        assert ("Nothing of another customer was there" in shown) is not bool(code)
        assert code or shown.count("✓ refused") == 5, shown


async def test_a_gateway_that_is_not_there_proves_nothing(unused_port: int) -> None:
    out = io.StringIO()
    assert await run_confined_demo(f"http://127.0.0.1:{unused_port}", out=out) == 1
    assert "make run" in out.getvalue()
