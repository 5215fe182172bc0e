"""The demo world: always the same, always consistent, and worth showing."""

import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

from app.services.postgres.demo.world import create_world, seed
from tests.fixtures.postgres import TestDatabase

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
TIMES = {"created_at", "updated_at", "first_response_at", "resolved_at"}


def without_times(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


async def test_seed_fills_an_empty_database_once(database: TestDatabase) -> None:
    loaded = await seed(database.url)
    assert loaded is not None
    assert (loaded.customers, loaded.tickets) == (300, 3003)
    assert loaded.articles >= 64
    assert loaded.interactions >= 9000
    assert await seed(database.url) is None
    async with database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM interactions") == loaded.interactions
        new = await connection.fetchval(
            "INSERT INTO tickets (customer_id, subject) VALUES ('12345', 'A new one') RETURNING id"
        )
        assert new == loaded.tickets + 1


async def test_seed_leaves_a_database_with_any_row_alone(database: TestDatabase) -> None:
    async with database.connect() as connection:
        await connection.execute("INSERT INTO customers (id, name, email) VALUES ('1', 'Ada', 'ada@example.com')")
        assert await seed(database.url) is None
        assert await connection.fetchval("SELECT count(*) FROM knowledge_articles") == 0


async def test_seed_leaves_fresh_statistics(database: TestDatabase) -> None:
    await seed(database.url)
    async with database.connect() as connection:
        estimate = await connection.fetchval("SELECT reltuples FROM pg_class WHERE relname = 'tickets'")
        assert estimate == 3003


def test_the_world_is_the_same_on_another_day_but_for_its_times() -> None:
    today, later = create_world(NOW), create_world(NOW + timedelta(days=17, hours=5))
    for kind in ("customers", "tickets", "articles", "interactions"):
        assert without_times(getattr(today, kind)) == without_times(getattr(later, kind)), kind
    assert today == create_world(NOW)


def test_the_world_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import hashlib\nfrom datetime import datetime, UTC\n"
        "from app.services.postgres.demo.world import create_world\n"
        "world = create_world(datetime(2026, 3, 4, tzinfo=UTC))\n"
        "print(hashlib.sha256(repr(world).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_times_are_in_order_and_in_the_past() -> None:
    world = create_world(NOW)
    for ticket in world.tickets:
        assert ticket["created_at"] <= ticket["updated_at"] <= NOW
        assert (ticket["resolved_at"] is not None) == (ticket["status"] in {"resolved", "closed"})
        if ticket["first_response_at"] is not None:
            assert ticket["created_at"] <= ticket["first_response_at"] <= (ticket["resolved_at"] or NOW)
    starts = {ticket["id"]: ticket["created_at"] for ticket in world.tickets}
    for interaction in world.interactions:
        assert interaction["created_at"] <= NOW
        assert interaction["created_at"] >= starts.get(interaction["ticket_id"], NOW - timedelta(days=372))


def test_the_desk_has_a_believable_rhythm() -> None:
    world = create_world(NOW)
    weekend = sum(ticket["created_at"].weekday() >= 5 for ticket in world.tickets)
    assert 0 < weekend < len(world.tickets) / 10
    statuses = Counter(ticket["status"] for ticket in world.tickets)
    assert set(statuses) == {"open", "pending", "escalated", "resolved", "closed"}
    assert statuses["escalated"] < len(world.tickets) / 50
    waited = {
        ticket["id"]: ticket["resolved_at"] - ticket["created_at"] for ticket in world.tickets if ticket["resolved_at"]
    }
    quick, slow = [], []
    for interaction in world.interactions:
        if interaction["satisfaction"] is not None and interaction["ticket_id"] is not None:
            (quick if waited[interaction["ticket_id"]] < timedelta(hours=4) else slow).append(
                interaction["satisfaction"]
            )
    assert sum(quick) / len(quick) > sum(slow) / len(slow) + 0.3


async def test_customer_12345_has_a_story(database: TestDatabase) -> None:
    await seed(database.url)
    async with database.connect() as connection:
        customer = await connection.fetchrow("SELECT name, company, plan FROM customers WHERE id = '12345'")
        assert tuple(customer or ()) == ("Maya Lindholm", "Juniper Books", "business")
        statuses = await connection.fetch("SELECT status FROM tickets WHERE customer_id = '12345' ORDER BY created_at")
        assert [row["status"] for row in statuses] == ["resolved", "closed", "open"]
        notes = await connection.fetchval(
            "SELECT count(*) FROM interactions WHERE customer_id = '12345' AND internal AND ticket_id IS NOT NULL"
        )
        assert notes >= 2
        assert await connection.fetchval("SELECT min(satisfaction) FROM interactions WHERE customer_id = '12345'") == 4


def test_articles_have_what_a_knowledge_base_needs() -> None:
    articles = create_world(NOW).articles
    published = [article for article in articles if article["status"] == "published"]
    assert len([article for article in published if article["language"] == "en"]) >= 64
    assert {article["language"] for article in published} == {"en", "de", "es"}
    assert {article["status"] for article in articles} == {"draft", "published", "archived"}
    for article in articles:
        assert 150 <= len(article["body"].split()) <= 400, article["slug"]
        assert article["tags"], article["slug"]
