"""What a viewer can try, and what trying it is answered: the same as at the tool's own address."""

import httpx
import pytest

from tests.faces.console.desk import MARK, Desk, cookie


async def test_what_a_viewer_may_use_is_listed_with_the_line_that_allows_it(
    desk: Desk, http: httpx.AsyncClient
) -> None:
    listed = (await http.get("/console/tools", headers=desk.bearer("operator"))).json()
    tools = {tool["name"]: tool for tool in listed["tools"]}
    own = (await http.get("/mcp/clock/tools", headers=desk.bearer("operator"))).json()["tools"]
    assert {tool["name"] for tool in own} | {"open_vault"} == tools.keys()
    time = tools["get_time"]
    assert (time["server"], time["title"], time["read_only"], time["example"]) == (
        "clock",
        "Get time",
        True,
        {"zone": "UTC"},
    )
    assert time["input_schema"] == next(tool["inputSchema"] for tool in own if tool["name"] == "get_time")
    assert "the role operator allows clock:write" in time["policy"]
    assert "switchboard.toml:4" in time["policy"]
    assert (tools["fail"]["read_only"], tools["fail"]["destructive"]) == (False, False)
    assert [resource["template"] for resource in listed["resources"]] == [
        "clock://zones{?limit}",
        "clock://zones/{zone}",
    ]
    few = (await http.get("/console/tools", headers=desk.bearer("timekeeper"))).json()
    assert ([tool["name"] for tool in few["tools"]], few["resources"]) == (["get_time"], [])


@pytest.mark.parametrize(
    ("server", "tool", "body"),
    [
        ("clock", "get_time", {"zone": "CET"}),
        ("mcp_clock", "get_time", {}),
        ("clock", "get_time", {"zone": 5}),
        ("clock", "get_time", {"zone": "Atlantis"}),
        ("clock", "fail", {"how": "down"}),
        ("clock", "fail", {"how": "badly"}),
        ("clock", "nope", {}),
        ("nowhere", "nope", {}),
        ("vault", "open_vault", {}),
    ],
)
async def test_a_tool_is_called_as_the_viewer(
    desk: Desk, http: httpx.AsyncClient, server: str, tool: str, body: dict[str, object]
) -> None:
    for role in ("operator", "watcher", "timekeeper"):
        session = cookie(await desk.sign_in(http, role))
        fields = {"x-request-id": "the-same"}
        own = await http.post(f"/mcp/{server}/tools/{tool}", json=body, headers={**desk.bearer(role), **fields})
        ours = await http.post(f"/console/tools/{server}/{tool}", json=body, headers={**session, **MARK, **fields})
        assert (ours.status_code, ours.json()) == (own.status_code, own.json())


@pytest.mark.parametrize(
    "uri", ["clock://zones", "clock://zones/UTC", "clock://zones?limit=2", "clock://zones/Atlantis"]
)
async def test_a_resource_is_read_as_the_viewer(desk: Desk, http: httpx.AsyncClient, uri: str) -> None:
    for role in ("operator", "timekeeper"):
        session = cookie(await desk.sign_in(http, role))
        fields = {"x-request-id": "the-same"}
        own = await http.get("/mcp/clock/resources/read", params={"uri": uri}, headers={**desk.bearer(role), **fields})
        ours = await http.get("/console/resources/read", params={"uri": uri}, headers={**session, **fields})
        assert (ours.status_code, ours.json()) == (own.status_code, own.json())
        if ours.status_code == 200:
            assert ours.headers["content-security-policy"] == "sandbox"
            assert ours.headers["x-content-type-options"] == "nosniff"


async def test_a_resource_that_nobody_names_is_not_found(desk: Desk, http: httpx.AsyncClient) -> None:
    for query in ("", "?uri=", "?uri=nope://x", "?url=clock://zones"):
        answer = await http.get(f"/console/resources/read{query}", headers=desk.bearer("operator"))
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_resource")


async def test_what_clients_are_told_is_here_for_who_has_signed_in(desk: Desk, http: httpx.AsyncClient) -> None:
    session = cookie(await desk.sign_in(http, "timekeeper"))
    told = (await http.get("/console/connect", headers=session)).json()
    assert told["url"] == desk.served.url
    assert f"{desk.served.url}/mcp" in next(each["text"] for each in told["configs"] if each["client"] == "claude-code")
    assert "/mcp/clock/tools/get_time" in next(each["text"] for each in told["configs"] if each["client"] == "curl")
    assert "security.md" in [guide["name"] for guide in told["guides"]]
    guide = await http.get("/console/guides/security.md", headers=session)
    assert guide.text.startswith("# Security")
    assert (await http.get("/console/guides/nope.md", headers=session)).json()["code"] == "not_found"
