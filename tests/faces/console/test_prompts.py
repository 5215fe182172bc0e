"""Prompts on the console: those that a viewer may use, filled in as the viewer."""

from collections.abc import Sequence
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp import MCPError

from app.faces.console import prompts
from app.servers.base import BaseMCPServer
from tests.faces.console.desk import MARK, Desk, Events, cookie, looking

SHOWN = ("greet", "<img src=x onerror=alert(1)>")


class PromptingMCPServer(BaseMCPServer):
    """Has prompts on several pages."""

    def __init__(self) -> None:
        super().__init__(server_id="stage", name="Stage MCP Server")
        self.mcp_handlers = {"on_list_prompts": self.listed, "on_get_prompt": self.filled}
        self.last = len(SHOWN) - 1

    async def listed(self, context: Any, params: Any) -> types.ListPromptsResult:
        page = int(params.cursor or 0) if params else 0
        asked = [types.PromptArgument(name="name", description="Whom.", required=True)]
        prompt = types.Prompt(name=SHOWN[page % len(SHOWN)], title="A prompt", description="Say it.", arguments=asked)
        following = str(page + 1) if page < self.last else None
        return types.ListPromptsResult(prompts=[prompt], next_cursor=following)

    async def filled(self, context: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        if params.name not in SHOWN:
            raise MCPError(types.INVALID_PARAMS, "There is no such prompt.")
        if (params.arguments or {}).get("name") == "nobody":
            raise ZeroDivisionError("a secret")
        content = types.TextContent(type="text", text=f"Greet {(params.arguments or {})['name']}.")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])


@pytest.fixture
def stage() -> PromptingMCPServer:
    return PromptingMCPServer()


@pytest.fixture
def more(stage: PromptingMCPServer) -> Sequence[BaseMCPServer]:
    return (stage,)


async def test_prompts_are_listed_page_by_page_with_the_line_that_allows_each(
    desk: Desk, http: httpx.AsyncClient
) -> None:
    session = cookie(await desk.sign_in(http, "operator"))
    assert (await http.get("/console/tools", headers=session)).json()["prompting"] == ["stage"]
    answer = await http.get("/console/prompts/stage", headers=session)
    found = answer.json()["prompts"]
    assert [prompt["name"] for prompt in found] == list(SHOWN)
    assert (found[0]["server"], found[0]["title"], found[0]["arguments"][0]["name"]) == ("stage", "A prompt", "name")
    assert "the role operator allows stage:read" in found[0]["policy"]
    assert "switchboard.toml:4" in found[0]["policy"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a_listing_without_an_end_has_one_here(
    desk: Desk, http: httpx.AsyncClient, stage: PromptingMCPServer
) -> None:
    stage.last = 1_000_000
    found = (await http.get("/console/prompts/stage", headers=desk.bearer("operator"))).json()["prompts"]
    assert len(found) == prompts.MOST_PAGES


async def test_a_prompt_is_filled_in_as_the_viewer_and_stands_among_the_calls(
    desk: Desk, http: httpx.AsyncClient
) -> None:
    session = {**cookie(await desk.sign_in(http, "operator")), **MARK}
    async with looking(desk.served, desk.bearer("operator")) as events:
        filled = await http.post(
            "/console/prompts/stage", json={"name": "greet", "arguments": {"name": "Ada"}}, headers=session
        )
        assert filled.json()["messages"][0]["content"]["text"] == "Greet Ada."
        call = await _call(events)
        assert (call["server"], call["outcome"]) == ("stage", "ok")
        assert call["principal"].endswith(desk.keys["operator"].id)


async def _call(events: Events) -> dict[str, Any]:
    return await events.call_of("prompts/get")


@pytest.mark.parametrize(
    ("server", "body", "status", "told"),
    [
        ("stage", {"name": "nope"}, 422, "There is no such prompt."),
        ("stage", {"name": ""}, 422, "body"),
        ("stage", {"name": "greet", "arguments": {"name": 5}}, 422, "body"),
        ("stage", {"name": "greet", "more": 1}, 422, "body"),
        ("stage", ["greet"], 422, "body"),
        ("stage", {"name": "greet", "arguments": {"name": "nobody"}}, 500, "request"),
        ("nowhere", {"name": "greet"}, 404, "no such server"),
        ("clock", {"name": "greet"}, 404, "no prompts"),
    ],
)
async def test_what_can_not_be_filled_in_is_said_in_words(
    desk: Desk, http: httpx.AsyncClient, server: str, body: object, status: int, told: str
) -> None:
    answer = await http.post(f"/console/prompts/{server}", json=body, headers={**desk.bearer("operator"), **MARK})
    assert (answer.status_code, answer.json()["success"]) == (status, False), answer.text
    assert told in answer.text
    assert "secret" not in answer.text


async def test_prompts_are_for_whom_the_policy_names(desk: Desk, http: httpx.AsyncClient) -> None:
    for role, status in (("watcher", 403), ("stranger", 403), ("bot", 403)):
        fields = {**desk.bearer(role), **MARK}
        for answer in (
            await http.get("/console/prompts/stage", headers=fields),
            await http.post(
                "/console/prompts/stage", json={"name": "greet", "arguments": {"name": "Ada"}}, headers=fields
            ),
        ):
            assert answer.status_code == status, answer.text
            assert "greet" not in answer.text.lower()
    assert (await http.get("/console/tools", headers=desk.bearer("watcher"))).json()["prompting"] == []
    unmarked = await http.post("/console/prompts/stage", json={"name": "greet"}, headers=desk.bearer("operator"))
    assert unmarked.status_code == 403
    assert (await http.get("/console/prompts/stage")).status_code == 401
