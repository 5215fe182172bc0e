"""Single prompts: a policy may name them beside `prompt/*`, though which there are is known at run time alone."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from app.catalogue import Catalogue
from app.faces.identity import Identity
from app.guard.credentials import Keyring
from app.guard.guard import Guard
from app.guard.keys import KeyStore, KnownKeys, mint
from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.policy_file import PolicyMistake
from app.guard.principal import Principal
from app.guard.vocabulary import vocabulary_of
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import resource, tool
from app.settings import Settings
from tests.clock import ClockTime
from tests.faces.raw import ERAS, request
from tests.fixtures.gateway import Served, serve
from tests.guard.test_matrix_methods import over_http, over_websocket

POLICY = """\
[auth]
[role.one]
allow = ["stage:prompt/curtain"]
[role.all]
allow = ["stage:prompt/*"]
[role.reader]
allow = ["stage:read"]
[role.but_one]
allow = ["stage:write"]
deny = ["stage:prompt/curtain"]
[role.none]
allow = ["stage:play"]
[role.acts]
allow = ["stage://acts/*"]
limit = "2/h burst 2"
[role.frugal]
allow = ["stage:prompt/*"]
limit = "1/h burst 1"
"""
ROLES = {
    "one": {"curtain"},
    "all": {"curtain", "applause"},
    "reader": {"curtain", "applause"},
    "but_one": {"applause"},
    "one but_one": {"applause"},
    "none": set[str](),
}
"""Which prompts are for whom."""


class StageMCPServer(BaseMCPServer):
    """Has prompts."""

    def __init__(self) -> None:
        super().__init__(server_id="stage", name="Stage MCP Server")
        self.mcp_handlers = {
            "on_list_prompts": self.prompts,
            "on_get_prompt": self.prompt,
            "on_completion": self.completion,
        }

    @tool(read_only=True, public=True)
    async def play(self) -> ClockTime:
        """Play."""
        return ClockTime(zone="stage")

    @resource("stage://acts/{act}", public=True)
    async def act(self, act: str) -> ClockTime:
        """Tell of an act."""
        return ClockTime(zone=act)

    async def prompts(self, context: Any, params: Any) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name=name) for name in ("curtain", "applause")])

    async def prompt(self, context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = types.TextContent(type="text", text="said")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def completion(self, context: Any, params: Any) -> types.CompleteResult:
        return types.CompleteResult(completion=types.Completion(values=["said"]))


def policy_of(directory: Path, text: str = POLICY) -> Policy:
    (directory / "switchboard.toml").write_text(text)
    return Policy.load(directory / "switchboard.toml", vocabulary_of(Catalogue([StageMCPServer()])))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[tuple[Served, Mapping[str, str]]]:
    made = {roles: mint(frozenset(roles.split())) for roles in (*ROLES, "acts", "frugal")}

    @asynccontextmanager
    async def opened() -> AsyncGenerator[KeyStore]:
        yield KnownKeys([key for _, key in made.values()])

    guard, identity = Guard(policy_of(tmp_path)), Identity(Keyring(opened, Rate(1000, 1000)))
    async with serve(create_app([StageMCPServer()], Settings(), guard=guard, identity=identity)) as running:
        yield running, {roles: token for roles, (token, _) in made.items()}


def about(name: str) -> Mapping[str, JsonObject]:
    """Return the methods that are about a prompt, with what they are given."""
    ref: JsonObject = {"type": "ref/prompt", "name": name}
    return {
        "prompts/get": {"name": name},
        "completion/complete": {"ref": ref, "argument": {"name": "act", "value": "1"}},
    }


@pytest.mark.parametrize("path", ["/mcp", "/mcp/stage", "/mcp/ws", "/mcp/stage/ws"])
@pytest.mark.parametrize("roles", ROLES)
async def test_a_prompt_is_listed_got_and_completed_by_whom_it_is_for(
    served: tuple[Served, Mapping[str, str]], roles: str, path: str
) -> None:
    gateway, tokens = served
    fields = {"authorization": f"Bearer {tokens[roles]}"}
    ask = over_websocket if path.endswith("ws") else over_http
    for era in ERAS:
        got, text = await ask(gateway, path, era, request(era, "prompts/list", number=1), fields)
        assert (got, {name for name in ("curtain", "applause") if name in text}) == ("ok", ROLES[roles])
        for name in ("curtain", "applause"):
            for method, params in about(name).items():
                got, text = await ask(gateway, path, era, request(era, method, params, number=2), fields)
                allowed = name in ROLES[roles]
                assert (got, "said" in text) == ("ok" if allowed else "insufficient_scope", allowed), (method, era)


async def test_a_completion_of_a_resource_is_for_whom_the_resource_is(
    served: tuple[Served, Mapping[str, str]],
) -> None:
    gateway, tokens = served
    ref: JsonObject = {"type": "ref/resource", "uri": "stage://acts/{act}"}
    params: JsonObject = {"ref": ref, "argument": {"name": "act", "value": "1"}}
    expected = {"acts": "ok", "reader": "ok", "one": "insufficient_scope", "all": "insufficient_scope"}
    for roles, outcome in expected.items():
        for path, ask in (("/mcp/stage", over_http), ("/mcp/stage/ws", over_websocket)):
            message = request(ERAS[0], "completion/complete", params, number=1)
            got, _ = await ask(gateway, path, ERAS[0], message, {"authorization": f"Bearer {tokens[roles]}"})
            assert got == outcome, (roles, path)


async def test_to_list_prompts_costs_nothing_and_to_get_one_does(served: tuple[Served, Mapping[str, str]]) -> None:
    gateway, tokens = served
    fields = {"authorization": f"Bearer {tokens['frugal']}"}
    asked = ["prompts/list"] * 3 + ["prompts/get"] * 2
    messages = [request(ERAS[0], method, {"name": "x"} if "get" in method else {}, number=1) for method in asked]
    outcomes = [(await over_http(gateway, "/mcp", ERAS[0], each, fields))[0] for each in messages]
    assert outcomes == ["ok", "ok", "ok", "ok", "rate_limited"]


def test_what_a_refusal_names_is_the_files_and_never_the_callers(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    guard = Guard(policy)
    named = guard.why_not(Principal("x", frozenset({"none"})), "stage", policy.prompt("stage", "curtain"))
    assert "stage:prompt/curtain or stage:prompt/* or stage:read or stage:write" in named.detail
    strange = guard.why_not(Principal("x", frozenset({"none"})), "stage", policy.prompt("stage", 'a"\r\nb'))
    assert "takes stage:prompt/* or stage:read or stage:write" in strange.detail
    assert policy.prompt("stage", "Curtain") == policy.prompt("stage", None) == "prompt/*"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("stage:prompt/", "write stage:prompt/*, or the name of one prompt"),
        ("stage:prompt/cur*", "write stage:prompt/*, or the name of one prompt"),
        ("stage:prompt", "stage has no tool 'prompt'"),
        ("stag:prompt/curtain", "did you mean 'stage'?"),
    ],
)
def test_what_names_no_prompt_stops_the_start(tmp_path: Path, entry: str, complaint: str) -> None:
    with pytest.raises(PolicyMistake) as mistake:
        policy_of(tmp_path, f'[role.a]\nallow = ["{entry}"]\n')
    assert complaint in str(mistake.value)
