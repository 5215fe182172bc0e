"""What is told of a server of which some tools are off, and some work in part."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.catalogue import Catalogue
from app.errors import BackendNotConfigured, EmbeddingUnavailable, GatewayError
from app.faces.console.sight import Sight
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.declaring import tool
from app.servers.readiness import Standings, readiness_of_all
from app.settings import Settings
from tests.clock import ClockTime
from tests.faces.raw import client_of
from tests.fixtures.gateway import serve

OFF = BackendNotConfigured("DATABASE_READER_URL is not set; set it")
LIMITED = EmbeddingUnavailable("questions are answered by words alone: no model; install one")
BOTH = {"query": OFF, "search": LIMITED}


class PartlyMCPServer(BaseMCPServer):
    """Answers, but not for all tools."""

    server_id = "partly"

    def __init__(self, said: Mapping[str, GatewayError]) -> None:
        super().__init__()
        self.said = said

    async def ping(self) -> Mapping[str, GatewayError]:
        return self.said

    @tool(read_only=True)
    async def query(self) -> ClockTime:
        """Query."""
        raise NotImplementedError

    @tool(read_only=True)
    async def search(self) -> ClockTime:
        """Search."""
        raise NotImplementedError


@pytest.mark.parametrize(
    ("said", "off", "limited", "detail", "words"),
    [
        (
            BOTH,
            {"query"},
            {"search"},
            "Off: query. Limited: search.",
            (
                "ready but for query (DATABASE_READER_URL is not set),"
                " limited in search (questions are answered by words alone: no model)"
            ),
        ),
        ({"query": OFF}, {"query"}, set(), "Off: query.", "ready but for query (DATABASE_READER_URL is not set)"),
        (
            {"search": LIMITED},
            set(),
            {"search"},
            "Limited: search.",
            "limited in search (questions are answered by words alone: no model)",
        ),
    ],
)
async def test_what_works_in_part_is_told_apart_from_what_is_off(
    said: Mapping[str, GatewayError], off: set[str], limited: set[str], detail: str, words: str
) -> None:
    server = PartlyMCPServer(said)
    states = await readiness_of_all({"partly": server}, lambda _: {})
    state = states["partly"]
    assert (set(state.tools_off or ()), set(state.tools_limited or ())) == (off, limited)
    assert (state.ready, state.answers, state.state) == (False, True, "degraded")
    assert (state.detail, state.in_words()) == (detail, words)

    standings = Standings()
    standings.note(states, 1.0)
    standing = standings.of("partly")
    assert standing is not None
    shown: dict[str, Any] = Sight(Catalogue([server]), None, everything=True).shown("partly", standing)
    assert (set(shown["off"]), set(shown["limited"]), shown["reason"]) == (off, limited, None)

    async with serve(create_app([server], Settings())) as served, client_of(served) as http:
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        told = ready.json()["servers"]["partly"]
        assert (set(told.get("tools_off") or ()), set(told.get("tools_limited") or ())) == (off, limited)


async def test_the_doctor_warns_of_what_works_in_part_and_calls_broken_what_is_off() -> None:
    found = await PartlyMCPServer({"search": LIMITED}).examine()
    assert [(each.state, each.text.partition(":")[0]) for each in found] == [
        ("ok", "it answers"),
        ("warning", "search works in part"),
    ]
    [broken] = await PartlyMCPServer({"query": OFF}).examine()
    assert broken.state == "broken"
