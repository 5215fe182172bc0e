"""A gateway that asks for keys, and a key for each kind of person who might look at its console."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.catalogue import Catalogue
from app.faces.identity import COOKIE, Identity
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.key_file import KeyFile
from app.guard.keys import StoredKey, mint
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.vocabulary import vocabulary_of
from app.main import create_app
from app.servers.base import BaseMCPServer, ServerKind
from app.servers.declaring import tool
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import Served, serve

POLICY = """\
[auth]

[role.operator]
allow = ["console:read", "console:act", "clock:write", "vault:write"]

[role.keeper]
allow = ["console:read", "console:act", "console:keys", "console:settings", "clock:write"]
limits = { clock = "100/s" }

[role.auditor]
allow = ["console:read", "console:keys"]

[role.ruled]
allow = ["console:read", "console:act", "console:keys", "clock:get_time"]

[role.ruled.tool."clock:get_time"]
zone = { in = ["UTC"] }

[role.hasty]
allow = ["console:read", "console:act", "console:keys", "console:settings"]
limit = "3/h burst 3"

[role.watcher]
allow = ["console:read", "clock:write"]

[role.timekeeper]
allow = ["console:read", "console:act", "clock:get_time"]

[role.looker]
allow = ["console:read"]

[role.stranger]
allow = ["clock:write", "vault:write"]

[role.bot]
bound = "customer"
allow = ["clock:write"]
"""
_ROLES = ("operator", "keeper", "auditor", "ruled", "hasty", "watcher", "timekeeper", "looker", "stranger")
MARK = {"x-switchboard-console": "1"}


class VaultMCPServer(BaseMCPServer):
    """Holds what few may open."""

    @tool(read_only=True)
    async def open_vault(self) -> ClockTime:
        """Open it."""
        return ClockTime(zone="gold")


@dataclass
class Desk:
    """The gateway, where its keys are kept, and the keys that there are."""

    served: Served
    store: KeyFile
    tokens: dict[str, str]
    keys: dict[str, StoredKey]
    clock: ClockMCPServer

    def bearer(self, role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[role]}"}

    async def sign_in(self, http: httpx.AsyncClient, role: str) -> str:
        """Show a key; return the session."""
        answer = await http.post("/console/session", json={"key": self.tokens[role]}, headers=MARK)
        assert answer.status_code == 204, answer.text
        token = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
        http.cookies.clear()
        return str(token)

    async def revoke(self, role: str) -> None:
        await self.store.end(self.keys[role].id, 1.0)


def cookie(token: str) -> dict[str, str]:
    return {"cookie": f"other=1; {COOKIE}={token}"}


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    more: Sequence[ServerKind] = (),
    settings: Settings | None = None,
    rate: Rate = Rate(10_000, 10_000),  # noqa: B008 - it can't be changed
    **door: Any,
) -> AsyncGenerator[Desk]:
    """Serve a clock and a vault to people with keys."""
    named = ", ".join(f'"{kind.server_id}:read"' for kind in more)
    (directory / "switchboard.toml").write_text(POLICY.replace('"vault:write"]', f'"vault:write", {named}]', 1))
    store = KeyFile(directory / "keys.json")
    tokens, keys = {}, {}
    for role in (*_ROLES, "bot"):
        roles = {"bot", "operator"} if role == "bot" else {role}
        tokens[role], keys[role] = mint(frozenset(roles), customer="anna" if role == "bot" else None)
        await store.add(keys[role])

    clock = ClockMCPServer()
    guard, identity = keyed(directory, [clock, VaultMCPServer, *more], store, rate, **door)
    app = create_app([clock, VaultMCPServer, *more], settings or Settings(), guard=guard, identity=identity)
    async with serve(app) as served:
        yield Desk(served, store, tokens, keys, clock)


def keyed(
    directory: Path,
    kinds: Sequence[ServerKind],
    store: KeyFile,
    rate: Rate = Rate(10_000, 10_000),  # noqa: B008 - it can't be changed
    **door: Any,
) -> tuple[Guard, Identity]:
    """Return what holds callers to the policy in a directory, and what asks them for keys."""

    @asynccontextmanager
    async def open_file() -> AsyncGenerator[KeyFile]:
        yield store

    with chdir(directory):  # so that lines are told by the name of the file alone
        guard = Guard(Policy.load(Path("switchboard.toml"), vocabulary_of(Catalogue(kinds))))
    return guard, Identity(Keyring(open_file, rate), administer=open_file, **door)


class Events:
    """What a viewer's stream of events tells."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines: AsyncIterator[str] = answer.aiter_lines()

    async def next(self, name: str) -> Any:
        """Return the content of the next event of a name; others are left out."""
        async with asyncio.timeout(WITHIN):
            found = ""
            async for line in self._lines:
                if line.startswith("event: "):
                    found = line.removeprefix("event: ")
                elif line.startswith("data: ") and found == name:
                    return json.loads(line.removeprefix("data: "))
        raise EOFError(f"the stream ended before {name!r}")

    async def call_of(self, operation: str) -> dict[str, Any]:
        """Return the next call of an operation that is told."""
        while True:
            for call in (await self.next("calls"))["calls"]:
                if call["operation"] == operation:
                    told: dict[str, Any] = call
                    return told

    async def ended(self) -> None:
        """Return when the stream has ended; what comes before is left out."""
        async with asyncio.timeout(WITHIN):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def looking(served: Served, fields: dict[str, str]) -> AsyncGenerator[Events]:
    """Open a stream of events."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(served))
        answer = await stack.enter_async_context(http.stream("GET", "/console/events", headers=fields))
        assert answer.status_code == 200, (await answer.aread()).decode()
        yield Events(answer)
