"""What the support database could do now, for probes: has it our tables, of this version, and may we write?"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from app.errors import BackendNotConfigured, BackendUnavailable, GatewayError
from app.services.postgres.connections.pools import ReadPool, Statement
from app.services.postgres.versions import newest_version

TABLES = ("customers", "tickets", "interactions", "knowledge_articles")
"""Those that callers read and write."""

_TABLES = Statement(
    text(f"""
    SELECT CAST(json_build_object(
        'missing', count(*) FILTER (WHERE relation IS NULL),
        'hidden', count(*) FILTER (WHERE NOT has_table_privilege(relation, 'SELECT')),
        'writes', bool_and(has_table_privilege(relation, 'INSERT')) FILTER (WHERE name = 'interactions')
            AND bool_and(has_any_column_privilege(relation, 'UPDATE')) FILTER (WHERE name = 'tickets'),
        'standby', pg_is_in_recovery(),
        'versioned', coalesce(has_table_privilege(to_regclass('alembic_version'), 'SELECT'), false)
    ) AS text)
    FROM (SELECT name, to_regclass(name) AS relation
          FROM unnest(ARRAY{list(TABLES)}) AS name) AS ours
    """)  # noqa: S608 - made of constants
)
_VERSION = Statement(text("SELECT CAST(to_json(max(version_num)) AS text) FROM alembic_version"))


@dataclass(frozen=True)
class Condition:
    """A database that can be read."""

    writing: GatewayError | None
    """Why nothing can be written; None if it can."""


async def condition_of(reads: ReadPool) -> Condition:
    """Look at a database.

    Raises:
        BackendUnavailable: it does not answer, or lacks our tables or a part of them.
        BackendNotConfigured: the login may not read them.
    """
    found: dict[str, Any] = json.loads(await reads.fetch_json(_TABLES) or b"{}")
    if found["missing"]:
        raise BackendUnavailable("the database lacks our tables; run `switchboard migrate`")
    if found["hidden"]:
        raise BackendNotConfigured("the login of DATABASE_URL may not read our tables; grant it SELECT on them")
    if found["versioned"]:
        version = json.loads(await reads.fetch_json(_VERSION) or b"null") or "none"
        # A newer one is a deployment's, whose old processes go on until they are replaced.
        if version == "none" or version < newest_version():
            raise BackendUnavailable(
                f"the database's tables are of version {version}, and this gateway wants {newest_version()}; run"
                " `switchboard migrate`"
            )
    if found["standby"]:
        return Condition(
            BackendUnavailable("DATABASE_URL leads to a standby, which can't be written to; see target_session_attrs")
        )
    if not found["writes"]:
        return Condition(BackendNotConfigured("the login of DATABASE_URL may not write; grant it INSERT and UPDATE"))
    return Condition(writing=None)
