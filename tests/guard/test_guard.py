"""What a principal may see, do and say, at the gateway's own doors."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faces.raw import client_of
from tests.fixtures.gateway import serve
from tests.guard.notes import guarded


async def call(http: httpx.AsyncClient, caller: str, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await http.post(f"/mcp/notes/tools/{tool}", json=arguments, headers={"x-test-caller": caller})
    found: dict[str, Any] = answer.json()
    assert answer.status_code == found.get("status", 200)
    return found


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        ("nobody", set()),
        ("reader", {"read_note", "list_notes"}),
        ("clerk", {"read_note", "write_note"}),
        ("bot", {"read_note", "write_note", "list_notes"}),
        ("unbound", set()),
        ("archivist", {"read_note", "list_notes", "write_note", "delete_note"}),
        ("both", {"read_note", "list_notes", "write_note"}),
        ("developer", {"read_note", "list_notes", "write_note", "delete_note"}),
        ("", {"read_note", "list_notes", "write_note", "delete_note"}),  # nobody is asked who he is
    ],
)
async def test_a_caller_sees_and_calls_what_its_roles_allow(
    http: httpx.AsyncClient, caller: str, allowed: set[str]
) -> None:
    given: dict[str, dict[str, str]] = {
        "read_note": {"name": "customers/12345/1"},
        "write_note": {"name": "n"},
        "delete_note": {"name": "old/1"},
        "list_notes": {},
    }
    listing = await http.get("/mcp/notes/tools", headers={"x-test-caller": caller})
    for tool, arguments in given.items():
        answer = await call(http, caller, tool, **arguments)
        assert answer["success"] is (tool in allowed)
        if tool not in allowed:
            assert (answer["status"], answer["code"]) == (403, "insufficient_scope")
    if allowed:
        assert {tool["name"] for tool in listing.json()["tools"]} == allowed
    else:
        assert (listing.status_code, listing.json()["code"]) == (403, "insufficient_scope")


async def test_what_is_needed_is_named_and_no_argument_is(http: httpx.AsyncClient) -> None:
    answer = await call(http, "clerk", "delete_note", nmae="?")
    assert answer["detail"] == (
        "notes:delete_note is not allowed to this caller. It takes notes:delete_note or notes:write."
    )
    assert (await call(http, "both", "delete_note"))["detail"] == (
        "notes:delete_note is denied to the role customer_bot, whatever other roles allow."
    )


async def test_an_unknown_tool_names_what_the_caller_may_see(http: httpx.AsyncClient) -> None:
    assert (await call(http, "clerk", "raed_note"))["detail"] == (
        "There is no tool 'raed_note' on notes. Tools: read_note, write_note."
    )
    assert (await call(http, "nobody", "raed_note"))["code"] == "insufficient_scope"
    answer = await http.post("/mcp/nets/tools/read_note", headers={"x-test-caller": "clerk"})
    assert answer.json()["detail"] == "There is no server 'nets'. Servers: notes."


async def test_a_role_without_the_binding_that_it_wants_is_none(http: httpx.AsyncClient) -> None:
    assert (await call(http, "unbound", "list_notes"))["code"] == "insufficient_scope"


async def test_rules_hold_for_parsed_arguments(http: httpx.AsyncClient) -> None:
    own, other = "customers/12345/1", "customers/54321/1"
    for spelling in ({"name": own}, {"title": own}, {"note": {"name": own}}):
        assert (await call(http, "bot", "read_note", **spelling))["name"] == own
    for spelling in ({"name": other}, {"title": other}, {"note": {"name": other}}, {"note": {"title": other}}):
        refused = await call(http, "bot", "read_note", **spelling)
        assert (refused["status"], refused["code"]) == (403, "argument_refused")
        assert refused["detail"] == "name: must begin with 'customers/12345/' here"
    assert (await call(http, "bot", "read_note", name=own, shelf="drawer"))["code"] == "argument_refused"


async def test_an_argument_that_is_set_is_set_whatever_was_given(http: httpx.AsyncClient) -> None:
    assert (await call(http, "bot", "write_note", name="customer-54321", text="t"))["name"] == "customer-12345"


async def test_one_role_whose_rules_all_pass_is_enough(http: httpx.AsyncClient) -> None:
    for name in ("filed/1", "customers/54321/1"):
        assert (await call(http, "filing archivist", "read_note", name=name))["success"]


async def test_a_role_that_confines_nobody_is_of_no_use_to_who_is_bound(http: httpx.AsyncClient) -> None:
    assert (await call(http, "both", "read_note", name="customers/12345/1"))["success"]
    assert (await call(http, "both", "read_note", name="customers/54321/1"))["code"] == "argument_refused"


async def test_a_rule_for_every_role_holds_for_developers(http: httpx.AsyncClient) -> None:
    for caller in ("developer", ""):
        assert (await call(http, caller, "delete_note", name="old/1"))["success"]
        assert (await call(http, caller, "delete_note", name="new/1"))["code"] == "argument_refused"


async def test_a_stream_obeys_the_rules_of_its_tool(http: httpx.AsyncClient) -> None:
    for path, status in {
        "letters/customers/12345/1": 200,
        "letters/customers/54321/1": 403,
        "drawer/customers/12345/1": 403,
        "letters/customers/12345/..%2F54321/1": 403,
        "letters/customers%2F12345%2F%2E%2E%2F54321": 403,
        "letters/customers/12345/%252e%252e/54321": 403,
    }.items():
        answer = await http.get(f"/mcp/notes/files/{path}", headers={"x-test-caller": "bot"})
        assert (path, answer.status_code) == (path, status)
    answer = await http.get("/mcp/notes/files/letters/1", headers={"x-test-caller": "nobody"})
    assert answer.json()["code"] == "insufficient_scope"


async def test_who_calls_more_than_its_limit_waits(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await call(http, "clerk", "read_note", name="n"))["success"]
    answer = await http.post("/mcp/notes/tools/read_note", json={"name": "n"}, headers={"x-test-caller": "clerk"})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert (await call(http, "archivist", "read_note", name="n"))["success"]


async def test_a_tool_has_a_limit_of_its_own_for_each_caller(http: httpx.AsyncClient) -> None:
    for caller in ("slow", "slow too"):
        codes = [(await call(http, caller, "list_notes")).get("code") for _ in range(3)]
        assert codes == [None, None, "rate_limited"]
        assert (await call(http, caller, "read_note", name="n"))["success"]


async def test_a_limit_for_everybody_is_shared_and_a_servers_holds_for_all_of_it(http: httpx.AsyncClient) -> None:
    async def told(caller: str, tool: str) -> str | None:
        answer = await http.post(f"/mcp/clock/tools/{tool}", headers={"x-test-caller": caller})
        return answer.json().get("code")

    assert [await told("timekeeper", tool) for tool in ("get_time", "get_raw_time", "get_raw_time")] == [
        None,
        None,
        "rate_limited",
    ]
    assert [await told("developer", "get_time") for _ in range(3)] == [None, None, "rate_limited"]
    assert await told("timekeeper too", "get_time") == "rate_limited"
    # That cost none of the server's two.
    assert [await told("timekeeper too", "get_raw_time") for _ in range(3)] == [None, None, "rate_limited"]


async def test_what_a_narrow_limit_refuses_costs_nothing_of_the_wide_one(tmp_path: Path) -> None:
    policy = """
        [role.clerk]
        allow = ["notes:write", "clock:read"]
        limit = "1/h burst 2"
        limits = { clock = "1/h burst 1" }
    """
    async with serve(guarded(tmp_path, policy)) as served, client_of(served) as http:
        fields = {"x-test-caller": "clerk"}
        times = [await http.post("/mcp/clock/tools/get_time", headers=fields) for _ in range(3)]
        assert [answer.status_code for answer in times] == [200, 429, 429]
        assert (await call(http, "clerk", "read_note", name="n"))["success"]
        assert (await call(http, "clerk", "read_note", name="n"))["code"] == "rate_limited"


async def test_each_call_of_a_batch_costs_one(http: httpx.AsyncClient) -> None:
    calls = [{"server": "notes", "tool": "read_note", "arguments": {"name": "n"}}] * 5
    answer = await http.post("/mcp/batch", json={"calls": calls}, headers={"x-test-caller": "clerk"})
    codes = [result.get("error", {}).get("code") for result in answer.json()["results"]]
    assert sorted(map(str, codes)) == ["None"] * 3 + ["rate_limited"] * 2
    assert (await call(http, "clerk", "read_note", name="n"))["code"] == "rate_limited"
