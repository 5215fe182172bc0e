"""Every method of MCP and of HTTP, by every kind of caller: what has no row here fails."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import mcp_types as types
import pytest
from websockets.exceptions import InvalidStatus

from app.catalogue import Catalogue
from app.faces.identity import Identity
from app.faces.protocol import ProtocolServer
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.keys import KeyStore, KnownKeys, mint
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.vocabulary import vocabulary_of
from app.main import GatewayApp, create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import Face, JsonObject
from app.servers.declaring import resource, tool, watch
from app.servers.resources import Update
from app.settings import Settings
from tests.clock import ClockTime
from tests.faces.raw import ERAS, client_of, headers, request, websocket
from tests.fixtures.gateway import Served, serve

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
"""Of `logging/setLevel`, which is there for clients of 2025."""
POLICY = """
[auth]
[role.stranger]
allow = []
[role.caller]
allow = ["script:play", "script://acts"]
[role.reader]
allow = ["script:write"]
[role.bot]
bound = "customer"
allow = ["script:write"]
"""
UNKNOWN = ("none", "garbage", "expired", "revoked")
KNOWN = {"wrong role": "stranger", "narrow role": "caller", "right role": "reader", "bound": "bot"}
OK, UNAUTHENTICATED, SCOPE, NOT_CONFINED = "ok", "unauthenticated", "insufficient_scope", "not_confined"
NO_METHOD = "Method not found"
SECRET = "to be or not to be"
"""What a prompt says, and its completion."""
LEGACY, MODERN = ERAS


class ScriptMCPServer(BaseMCPServer):
    """Plays."""

    def __init__(self) -> None:
        super().__init__(server_id="script", name="Script MCP Server")
        self.mcp_handlers = {
            "on_list_prompts": self.prompts,
            "on_get_prompt": self.prompt,
            "on_completion": self.completion,
            "on_set_logging_level": self.level,
        }

    @tool(read_only=True, public=True)
    async def play(self) -> ClockTime:
        """Play."""
        return ClockTime(zone="stage")

    @resource("script://acts", public=True)
    async def acts(self) -> ClockTime:
        """Tell of the acts."""
        return ClockTime(zone="acts")

    @watch("script://acts")
    @asynccontextmanager
    async def watch_acts(self) -> AsyncGenerator[AsyncIterator[Update]]:
        async def never() -> AsyncIterator[Update]:
            return
            yield {}

        yield never()

    async def prompts(self, context: Any, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name=SECRET)])

    async def prompt(self, context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = types.TextContent(type="text", text=SECRET)
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def completion(self, context: Any, params: Any) -> types.CompleteResult:
        return types.CompleteResult(completion=types.Completion(values=[SECRET]))

    async def level(self, context: Any, params: Any) -> types.EmptyResult:
        return types.EmptyResult()


class Row:
    """A method of MCP.

    Args:
        params: what is asked for.
        eras: in which there is the method.
        narrow, bound: what is answered to who may call a tool and read a resource alone, and to who is bound.
        stranger: what is answered at the address of all servers to who may do nothing.
    """

    def __init__(
        self,
        params: JsonObject | None = None,
        *,
        eras: tuple[str, ...] = ERAS,
        narrow: str = OK,
        bound: str = OK,
        stranger: str = OK,
        duplex: bool = False,
    ) -> None:
        self.params = params or {}
        self.eras = eras
        self.duplex = duplex
        """It is there on connections alone that both sides write to."""
        self.answers = {"narrow role": narrow, "right role": OK, "bound": bound, "wrong role": stranger}


ACTS: JsonObject = {"uri": "script://acts"}
PROMPTS: JsonObject = {"ref": {"type": "ref/prompt", "name": SECRET}, "argument": {"name": "act", "value": "1"}}
OF_PROMPTS: dict[str, Any] = {"narrow": SCOPE, "bound": NOT_CONFINED, "stranger": SCOPE}
METHODS: dict[str, Row] = {
    "ping": Row(eras=(LEGACY,)),
    "server/discover": Row(eras=(MODERN,)),
    "tools/list": Row(),
    "tools/call": Row({"name": "play", "arguments": {}}, stranger=SCOPE),
    "resources/list": Row(),
    "resources/templates/list": Row(),
    "resources/read": Row(ACTS, stranger=SCOPE),
    "resources/subscribe": Row(ACTS, eras=(LEGACY,), duplex=True, stranger=SCOPE, bound=NOT_CONFINED),
    "resources/unsubscribe": Row(ACTS, eras=(LEGACY,), duplex=True),
    "subscriptions/listen": Row(
        {"notifications": {"resourceSubscriptions": ["script://acts"]}},
        eras=(MODERN,),
        stranger=SCOPE,
        bound=NOT_CONFINED,
    ),
    "prompts/list": Row(),
    "prompts/get": Row({"name": SECRET}, **OF_PROMPTS),
    "completion/complete": Row(PROMPTS, **OF_PROMPTS),
    "logging/setLevel": Row({"level": "debug"}, eras=(LEGACY,), **OF_PROMPTS),
}
NOT_OFFERED = {"initialize", "tasks/list", "tasks/get", "tasks/result", "tasks/cancel"}
"""Of requests that clients may send: `initialize` is answered before there is anybody to ask for something, and tasks
are answered by no server here."""
NEVER_EMPTY = {"tools/list", "resources/list", "prompts/list"}
"""Listings, which leave out what the caller may not use."""


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Served, Mapping[str, str]]]:
    now = time.time()
    tokens: dict[str, str] = {"garbage": mint(frozenset({"reader"}))[0]}
    stored: list[Any] = []
    for caller, role in {"expired": "reader", "revoked": "reader", **KNOWN}.items():
        customer = "anna" if caller == "bound" else None
        expires_at = now - 1 if caller == "expired" else None
        tokens[caller], key = mint(frozenset({role}), customer=customer, expires_at=expires_at)
        stored.append(key if caller != "revoked" else type(key)(key.id, key.hash, key.roles, revoked_at=now - 1))

    @asynccontextmanager
    async def opened() -> AsyncGenerator[KeyStore]:
        yield KnownKeys(stored)

    app = gateway_of(tmp_path_factory.mktemp("methods"), Identity(Keyring(opened, Rate(100_000, 100_000))))
    async with serve(app) as served:
        yield served, tokens


def gateway_of(directory: Path, identity: Identity | None = None) -> GatewayApp:
    (directory / "switchboard.toml").write_text(POLICY)
    kinds = [ScriptMCPServer()]
    guard = Guard(Policy.load(directory / "switchboard.toml", vocabulary_of(Catalogue(kinds))))
    return create_app(kinds, Settings(), guard=guard, identity=identity, root_server="script")


def test_each_method_that_clients_may_send_or_that_is_handled_has_a_row(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path).state.gateway
    subscriptions: Any = object()
    for handled in (
        ProtocolServer(gateway, None, "mcp"),
        ProtocolServer(gateway, "script", "websocket", subscriptions),
    ):
        assert handled._request_handlers.keys() <= METHODS.keys()
    union: Any = types.ClientRequest
    sent = {each.model_fields["method"].default for each in get_args(getattr(union, "__value__", union))}
    assert sent <= METHODS.keys() | NOT_OFFERED
    assert {"tools/call", "prompts/get", "completion/complete"} <= sent


def test_each_face_has_rows() -> None:
    ways = {"rest", "batch", "mcp", "websocket", "stdio", "stream"}
    assert set(get_args(Face)) == ways | {"internal"}, "a new way in wants rows here, and in test_matrix.py"


def outcome(status: int, text: str) -> str:
    """Return what was answered: `ok`, or a problem's code."""
    if text.startswith(("event:", "data:", ":", "id:")):
        [*_, text] = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    answer: dict[str, Any] = json.loads(text)
    if "jsonrpc" not in answer:
        return str(answer["code"]) if status >= 400 else OK
    if "error" in answer:
        error = answer["error"]
        return str(error["data"]["code"] if isinstance(error.get("data"), dict) else error["message"])
    if answer.get("result", {}).get("isError"):
        return str(json.loads(answer["result"]["content"][0]["text"])["code"])
    return OK


async def over_http(served: Served, path: str, era: str, message: Any, fields: dict[str, str]) -> tuple[str, str]:
    fields = {**headers(era, message), **fields}
    async with client_of(served) as http, http.stream("POST", path, json=message, headers=fields) as answer:
        text = ""
        async for line in answer.aiter_lines():
            text += f"{line}\n"
            if line.startswith("data: {"):
                break
        return outcome(answer.status_code, text), text


async def over_websocket(served: Served, path: str, era: str, message: Any, fields: dict[str, str]) -> tuple[str, str]:
    try:
        async with websocket(served, era, path, additional_headers=fields) as messages:
            await messages.send(message)
            while True:
                answer = await messages.receive()
                if answer.get("id") == message["id"] or "acknowledged" in answer.get("method", ""):
                    text = json.dumps(answer)
                    return outcome(200, text), text
    except InvalidStatus as refused:
        text = (refused.response.body or b"").decode()
        return outcome(refused.response.status_code, text), text


PATHS = ("/mcp", "/mcp/", "/mcp/script", "/mcp/mcp_script/", "/mcp/ws", "/mcp/script/ws", "/mcp/mcp_script/ws/", "/")


def answers_to(caller: str, row: Row, path: str) -> set[str]:
    """Return what a caller may be answered at an address."""
    if caller in UNKNOWN:
        return {UNAUTHENTICATED}
    if caller == "wrong role" and path not in ("/mcp", "/mcp/", "/mcp/ws"):
        return {SCOPE}  # nothing of the server is for it
    return {row.answers[caller]}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("caller", [*UNKNOWN, *KNOWN])
async def test_each_method_is_answered_to_who_may_ask(
    rig: tuple[Served, Mapping[str, str]], caller: str, path: str
) -> None:
    served, tokens = rig
    fields = {"authorization": f"Bearer {tokens[caller]}"} if caller in tokens else {}
    duplex = "ws" in path or path == "/"
    ask = over_websocket if duplex else over_http
    different: list[str] = []
    for method, row in METHODS.items():
        for era in ERAS:
            message = request(era, method, row.params, number=7)
            got, text = await ask(served, path, era, message, fields)
            allowed = answers_to(caller, row, path)
            if caller not in UNKNOWN and (era not in row.eras or (row.duplex and not duplex)):
                allowed |= {NO_METHOD, *([SCOPE] if caller == "wrong role" else [])}
                allowed -= {OK}
            if got not in allowed:
                different.append(f"{method} {era}: {got}, not {allowed}: {text[:200]}")
            if caller != "right role" and SECRET in text:
                different.append(f"{method} {era} tells {text[:200]}")
            if caller == "right role" and method in NEVER_EMPTY and '": []' in text.replace('":[]', '": []'):
                different.append(f"{method} {era} shows nothing: {text[:200]}")
    assert not different, "\n".join(different)


@pytest.mark.parametrize("method", ["prompts/get", "completion/complete", "logging/setLevel"])
async def test_who_may_not_use_prompts_is_told_so_by_http(rig: tuple[Served, Mapping[str, str]], method: str) -> None:
    served, tokens = rig
    fields = {"authorization": f"Bearer {tokens['narrow role']}"}
    for path in ("/mcp", "/mcp/script"):
        for era in METHODS[method].eras:
            message = request(era, method, METHODS[method].params, number=7)
            async with client_of(served) as http:
                answer = await http.post(path, json=message, headers={**headers(era, message), **fields})
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), (path, era)
            assert "script:prompt/*" in answer.headers["www-authenticate"]


async def test_an_event_stream_of_2025_is_nobodys(rig: tuple[Served, Mapping[str, str]]) -> None:
    served, tokens = rig
    expected = {caller: 405 if caller in KNOWN else 401 for caller in (*UNKNOWN, *KNOWN)}
    async with client_of(served) as http:
        for caller, status in expected.items():
            fields = {"authorization": f"Bearer {tokens[caller]}"} if caller in tokens else {}
            for path in ("/mcp", "/mcp/script", "/mcp/mcp_script/"):
                answer = await http.get(path, headers={**fields, "accept": "text/event-stream"})
                assert answer.status_code == status, (caller, path)


def paths_of(app: GatewayApp) -> list[str]:
    """Return an address of each of an application's routes, and one of none.

    The console's are left out: its shell and its sign-in are open, and `test_matrix.py` has a row for each.
    """
    found = {str(path) for route in app.routes if (path := getattr(route, "path", ""))}
    found = {path for path in found if not path.startswith("/console")}
    return [*sorted(path.replace("{", "").replace("}", "").replace(":path", "") for path in found), "/nowhere"]


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"])
async def test_other_methods_do_nothing_for_anybody_and_are_refused_before_that_to_who_is_not_known(
    rig: tuple[Served, Mapping[str, str]], method: str, tmp_path: Path
) -> None:
    served, tokens = rig
    paths = paths_of(gateway_of(tmp_path))
    assert "/mcp/script/tools/play" in paths
    async with client_of(served) as http:
        for path in (*paths, *(f"{path}/" for path in paths if path != "/")):
            for caller in (*UNKNOWN, *KNOWN):
                fields = {"authorization": f"Bearer {tokens[caller]}"} if caller in tokens else {}
                status = (await http.request(method, path, headers=fields)).status_code
                is_open = method == "HEAD" and path.rstrip("/") in ("/health", "/ready")
                if caller in UNKNOWN:
                    assert status == 401 or (is_open and (caller == "none" or "health" in path)), (caller, path)
                else:
                    allowed = (200, 403, 404, 405, 422) if method == "HEAD" else (403, 404, 405)
                    assert status in allowed, (caller, path, status)


async def test_preflights_are_open_and_everything_that_follows_is_not(
    rig: tuple[Served, Mapping[str, str]], tmp_path: Path
) -> None:
    served, tokens = rig
    origin = {"origin": "http://localhost:3000"}
    asking = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client_of(served) as http:
        for path in paths_of(gateway_of(tmp_path)):
            for caller in (*UNKNOWN, *KNOWN):
                fields = {"authorization": f"Bearer {tokens[caller]}"} if caller in tokens else {}
                preflight = await http.options(path, headers={**asking, **fields})
                assert (preflight.status_code, preflight.text) == (200, "OK"), (caller, path)
                if caller in UNKNOWN:
                    for follows in ({**origin, **fields}, {**asking, **fields}):
                        answer = await http.post(path, headers=follows, json={})
                        assert answer.status_code == 401, (caller, path)
                    assert (await http.options(path, headers={**origin, **fields})).status_code == 401
