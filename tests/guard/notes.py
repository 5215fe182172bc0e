"""A server whose tools are worth guarding, and a policy for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.catalogue import Catalogue
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.principal import Principal
from app.guard.vocabulary import vocabulary_of
from app.main import GatewayApp, create_app
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext
from app.servers.declaring import resource, route, tool, watch
from app.servers.resources import Update
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.guard.callers import known_by_name

POLICY = """\
[role.reader]
allow = ["notes:read"]

[role.clerk]
allow = ["notes:read_note", "notes:write_note"]
limit = "1/h burst 3"

[role.customer_bot]
bound = "customer"
allow = ["notes:read_note", "notes:write_note", "notes:list_notes"]
deny = ["notes:delete_note"]

[role.customer_bot.tool."notes:read_note"]
shelf = { in = ["letters"] }
name = { prefix = "customers/{customer}/" }

[role.customer_bot.tool."notes:write_note"]
name = { set = "customer-{customer}" }

[role.filer]
allow = ["notes:read_note"]

[role.filer.tool."notes:read_note"]
name = { prefix = "filed/" }

[role.archivist]
allow = ["notes:write", "notes:read_note"]

[role.slow]
allow = ["notes:read"]
limits = { "notes:list_notes" = "1/h burst 2" }

[limits]
"clock:get_time" = "1/h burst 3"

[role.timekeeper]
allow = ["clock:read"]
limits = { clock = "1/h burst 2" }

[tool."notes:delete_note"]
name = { prefix = "old/" }
"""

CUSTOMER = "12345"
PRINCIPALS = (
    Principal("nobody"),
    Principal("reader", frozenset({"reader"})),
    Principal("clerk", frozenset({"clerk"})),
    Principal("bot", frozenset({"customer_bot"}), customer=CUSTOMER),
    Principal("unbound", frozenset({"customer_bot"})),
    Principal("archivist", frozenset({"archivist"})),
    Principal("both", frozenset({"archivist", "customer_bot"}), customer=CUSTOMER),
    Principal("filing archivist", frozenset({"filer", "archivist"})),
    Principal("developer", frozenset({"developer"})),
    Principal("slow", frozenset({"slow"})),
    Principal("slow too", frozenset({"slow"})),
    Principal("timekeeper", frozenset({"timekeeper"})),
    Principal("timekeeper too", frozenset({"timekeeper"})),
)


class Note(Result):
    shelf: str
    name: str
    text: str = ""


class ReadNote(BaseModel):
    """Which note; `title` and a nested `note` are other spellings."""

    model_config = ConfigDict(extra="forbid")

    shelf: str = "letters"
    name: str

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, given: Any) -> Any:
        if isinstance(given, dict) and "note" in given:
            given = {**given["note"], **{key: value for key, value in given.items() if key != "note"}}
        if isinstance(given, dict) and "title" in given:
            given = {("name" if key == "title" else key): value for key, value in given.items()}
        return given


class NotesMCPServer(BaseMCPServer):
    """Keeps notes."""

    @tool(read_only=True, needs_rule="name")
    async def read_note(self, arguments: ReadNote) -> Note:
        """Return a note."""
        return Note(shelf=arguments.shelf, name=arguments.name)

    @tool(read_only=True, public=True)
    async def list_notes(self, context: CallContext) -> Note:
        """Return a note of all notes; it is not plain."""
        return Note(shelf="all", name=context.principal.id)

    @tool(needs_rule="name")
    async def write_note(self, name: str, text: str = "", labels: list[str] | None = None) -> Note:
        """Write a note."""
        return Note(shelf="letters", name=name, text=text)

    @tool()
    async def delete_note(self, name: str) -> Note:
        """Delete a note."""
        return Note(shelf="letters", name=name)

    @resource("notes://shelves{?limit}")
    async def shelves(self, limit: int = 10) -> Note:
        """All shelves."""
        return Note(shelf="all", name=str(limit))

    @resource("notes://shelves/{shelf}")
    async def a_shelf(self, shelf: str) -> Note:
        """One shelf."""
        return Note(shelf=shelf, name="-")

    @watch("notes://shelves/{shelf}")
    @asynccontextmanager
    async def watch_shelf(self, shelf: str) -> AsyncIterator[AsyncIterator[Update]]:
        async def never() -> AsyncIterator[Update]:
            return
            yield {}

        yield never()

    @route("/files/{shelf}/{name:path}", methods=("GET",), acts_as="read_note")
    async def note_stream(self, request: Request, context: CallContext, shelf: str, name: str) -> Response:
        """Stream a note."""
        return PlainTextResponse(f"{shelf} {name}")


def guarded(tmp_path: Path, text: str = POLICY) -> GatewayApp:
    """Return a gateway that knows the callers above by the header `X-Test-Caller`, and holds them to a policy."""
    file = tmp_path / "switchboard.toml"
    file.write_text(text)
    kinds = [NotesMCPServer, ClockMCPServer()]
    guard = Guard(Policy.load(file, vocabulary_of(Catalogue(kinds))))
    return known_by_name(create_app(kinds, Settings(), guard=guard), *PRINCIPALS)
