"""Pages with a cursor and single rows."""

import json
from typing import Any

import pytest

from app.errors import InvalidArguments, NotFound
from app.services.postgres.connections.pools import Database, open_database
from app.services.postgres.desk.pages import ARTICLES, CUSTOMERS, INTERACTIONS, TICKETS, Listing, SupportRecords
from tests.fixtures.postgres import TestDatabase

LISTINGS = [CUSTOMERS, TICKETS, ARTICLES, INTERACTIONS]


async def page(pools: Database, listing: Listing[Any, Any], cursor: str | None, limit: int) -> dict[str, Any]:
    """Return a page, after its bytes have been found to be what the model says."""
    raw = (await SupportRecords(pools).page(listing, cursor, limit)).json
    listing.page.model_validate_json(raw, strict=True)
    assert list(json.loads(raw)) == list(listing.page.model_fields)
    return json.loads(raw)


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.name)
@pytest.mark.parametrize("limit", [1, 2, 3, 200])
async def test_pages_show_every_row_once_and_end_with_null(pools: Database, listing: Listing[Any, Any], limit: int):
    ids: list[Any] = []
    cursor, pages = None, 0
    while cursor is not None or not pages:
        found = await page(pools, listing, cursor, limit)
        assert len(found[listing.name]) <= limit
        ids += [row["id"] for row in found[listing.name]]
        cursor, pages = found["next_cursor"], pages + 1
    expected = {
        "customers": ["12345", "other", "quiet"],
        "tickets": [4, 3, 2, 1],
        "knowledge_articles": [1, 3],
        "interactions": [5, 4, 3, 2, 1],
    }
    assert ids == expected[listing.name]
    assert pages == -(-len(ids) // limit)


async def test_rows_that_appear_in_between_shift_no_page(pools: Database, desk: TestDatabase):
    first = await page(pools, TICKETS, None, 2)
    async with desk.connect() as connection:
        await connection.execute("INSERT INTO tickets (customer_id, subject) VALUES ('12345', 'newer')")
    second = await page(pools, TICKETS, first["next_cursor"], 2)
    assert [row["id"] for row in first["tickets"] + second["tickets"]] == [4, 3, 2, 1]


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.name)
async def test_an_empty_table_is_one_empty_page(database: TestDatabase, listing: Listing[Any, Any]):

    async with open_database(database.settings) as pools:
        assert await page(pools, listing, None, 10) == {"success": True, listing.name: [], "next_cursor": None}


async def test_a_damaged_or_foreign_cursor_is_refused(pools: Database):
    cursor = (await page(pools, TICKETS, None, 1))["next_cursor"]
    foreign = (await page(pools, CUSTOMERS, None, 1))["next_cursor"]
    damaged = [cursor[:i] + ("0" if cursor[i] != "0" else "1") + cursor[i + 1 :] for i in range(len(cursor))]
    for wrong in ["", "x", "zz" * 20, "é" * 12, cursor[:-1], cursor + "0", foreign, "ff" * 8, *damaged]:
        with pytest.raises(InvalidArguments, match="cursor"):
            await SupportRecords(pools).page(TICKETS, wrong, 1)


async def test_an_id_of_any_letters_survives_the_cursor(pools: Database, desk: TestDatabase):
    names = ["a" * 64, "a:b", "müller/ß?&#", "zebra 🦓"]
    async with desk.connect() as connection:
        await connection.executemany(
            "INSERT INTO customers (id, name, email) VALUES ($1, 'n', $2)",
            [(name, f"{n}@example.com") for n, name in enumerate(names)],
        )
    seen: list[str] = []
    cursor: str | None = None
    while True:
        found = await page(pools, CUSTOMERS, cursor, 1)
        seen += [row["id"] for row in found["customers"]]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted([*names, "12345", "other", "quiet"])


@pytest.mark.parametrize(
    ("listing", "row_id"),
    [(CUSTOMERS, "12345"), (TICKETS, 2), (ARTICLES, 3), (INTERACTIONS, 2)],
    ids=lambda given: getattr(given, "name", None),
)
async def test_one_row_is_what_its_model_says(pools: Database, listing: Listing[Any, Any], row_id: Any):
    raw = (await SupportRecords(pools).row(listing, row_id)).json
    listing.row.model_validate_json(raw, strict=True)
    name = list(listing.row.model_fields)[1]
    assert list(json.loads(raw)) == list(listing.row.model_fields)
    assert json.loads(raw)[name]["id"] == row_id
    assert list(json.loads(raw)[name]) == list(listing.record.model_fields)


@pytest.mark.parametrize(
    ("listing", "row_id"),
    [(CUSTOMERS, "nobody"), (TICKETS, 999), (ARTICLES, 999), (INTERACTIONS, 999)],
    ids=lambda given: getattr(given, "name", None),
)
async def test_a_row_that_is_not_there_is_not_found(pools: Database, listing: Listing[Any, Any], row_id: Any):
    with pytest.raises(NotFound, match=str(row_id)):
        await SupportRecords(pools).row(listing, row_id)


@pytest.mark.parametrize("hidden", [2, 4])
async def test_drafts_and_archived_articles_are_not_offered(pools: Database, hidden: int):
    with pytest.raises(NotFound):
        await SupportRecords(pools).row(ARTICLES, hidden)
