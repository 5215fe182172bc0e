"""A small support desk of known rows, and the pools onto it."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest

from app.services.postgres.connections.pools import Database, open_database
from tests.fixtures.postgres import TestDatabase

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
"""The instant around which everything of the small desk happened."""

_ROWS = """
INSERT INTO customers (id, name, email, plan, created_at) VALUES
    ('12345', 'Ada Lovelace', 'ada@example.com', 'pro', '2026-01-05 10:00Z'),
    ('quiet', 'Never Wrote', 'quiet@example.com', 'free', '2026-02-01 10:00Z'),
    ('other', 'Bob Other', 'bob@example.com', 'free', '2026-02-01 10:00Z');
INSERT INTO tickets (id, customer_id, subject, status, priority, channel, assigned_agent, created_at,
                     first_response_at, resolved_at) OVERRIDING SYSTEM VALUE VALUES
    (1, '12345', 'Old and open', 'open', 'high', 'email', 'maria', '2026-02-01 08:00Z', NULL, NULL),
    (2, '12345', 'Solved later', 'resolved', 'low', 'chat', 'maria', '2026-03-02 08:00Z',
        '2026-03-02 08:30Z', '2026-03-02 10:00Z'),
    (3, '12345', 'Escalated', 'escalated', 'urgent', 'email', NULL, '2026-03-03 08:00Z', '2026-03-03 09:30Z', NULL),
    (4, 'other', 'Of another', 'open', 'normal', 'web', NULL, '2026-03-03 12:00Z', NULL, NULL);
SELECT setval('tickets_id_seq', 100);
INSERT INTO interactions (id, customer_id, ticket_id, channel, direction, internal, agent_id, query_text,
                          agent_response, satisfaction, created_at) OVERRIDING SYSTEM VALUE VALUES
    (1, '12345', 2, 'chat', 'inbound', false, 'maria', 'It broke', 'We look', 5, '2026-03-02 08:30Z'),
    (2, '12345', 2, 'chat', 'inbound', true, 'maria', 'He sounds angry', NULL, NULL, '2026-03-02 08:40Z'),
    (3, '12345', 3, 'email', 'outbound', false, 'bot', NULL, 'Escalated it', 2, '2026-03-03 09:30Z'),
    (4, '12345', NULL, 'chat', 'inbound', false, NULL, 'Hello?', NULL, NULL, '2026-03-05 23:59:59Z'),
    (5, 'other', 4, 'email', 'inbound', false, NULL, 'Hi', NULL, NULL, '2026-03-03 12:00Z');
SELECT setval('interactions_id_seq', 100);
INSERT INTO knowledge_articles (slug, title, body, status) VALUES
    ('one', 'One', 'First.', 'published'), ('draft', 'Draft', 'Not yet.', 'draft'),
    ('two', 'Two', 'Second.', 'published'), ('gone', 'Gone', 'No more.', 'archived');
"""


@pytest.fixture
async def desk(database: TestDatabase) -> TestDatabase:
    """A database with the small desk's rows."""
    async with database.connect() as connection:
        await connection.execute(_ROWS)
    return database


@pytest.fixture
async def pools(desk: TestDatabase) -> AsyncGenerator[Database]:
    """The pools onto the small desk."""
    async with open_database(desk.settings) as opened:
        yield opened
