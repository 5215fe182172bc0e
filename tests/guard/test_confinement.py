"""Who is bound to one customer finds nothing of another's, on any face and however it asks; undeclared is closed."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from app.guard.principal import Principal
from app.main import create_app
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import resource, route, tool, watch
from app.settings import Settings
from tests.conformance.server import ConformanceMCPServer
from tests.faces.raw import ERAS, client_of, event_stream, headers, request, websocket
from tests.fixtures.gateway import Call, Served, mcp_client, serve
from tests.guard.bound import CALLER, bound
from tests.guard.parcels import UNDECLARED, parcels

# The conformance server answers `logging/setLevel`, for clients of 2025.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

SHOWN = ["list_parcels", "send_parcel", "find_parcel", "list_shops", "leave_note"]


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    """Everybody who calls is bound to anna."""
    async with serve(bound(create_app([parcels(), ConformanceMCPServer()], Settings()), "anna")) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


# Arguments


@pytest.mark.parametrize("given", [{}, {"customer_id": "anna"}])
async def test_the_customer_is_filled_in_and_may_be_said(call: Call, given: JsonObject) -> None:
    answer = await call("parcel", "list_parcels", given)
    assert (answer["owner"], answer["numbers"]) == ("anna", [1, 2])


OTHERS: list[tuple[str, JsonObject]] = [
    ("list_parcels", {"customer_id": "bert"}),
    ("list_parcels", {"customer_id": "nobody"}),
    ("list_parcels", {"customer_id": "ANNA"}),
    ("list_parcels", {"customer_id": "anna "}),
    ("send_parcel", {"customer_id": "bert"}),
    ("send_parcel", {"sender": "bert"}),
    ("send_parcel", {"parcel": {"customer_id": "bert"}}),
    ("send_parcel", {"parcel": {"sender": "bert"}}),
    ("send_parcel", {"parcel": '{"sender": "bert"}'}),
    ("leave_note", {"customer_id": "bert", "text": "hello"}),
]


@pytest.mark.parametrize(("tool", "arguments"), OTHERS)
async def test_another_customer_is_refused_in_every_spelling_whether_there_is_one_or_not(
    call: Call, tool: str, arguments: JsonObject
) -> None:
    answer = await call("parcel", tool, arguments)
    assert (answer["success"], answer["code"]) in [(False, "not_found"), (False, "invalid_arguments")], answer
    assert "bert" not in json.dumps(answer)
    if answer["code"] == "not_found":
        assert answer["detail"].startswith("customer_id: there is nothing of that customer here.")


async def test_what_is_null_or_of_another_type_is_not_another_customer(call: Call) -> None:
    assert (await call("parcel", "list_parcels", {"customer_id": None}))["owner"] == "anna"
    assert (await call("parcel", "list_parcels", {"customer_id": 5}))["code"] == "invalid_arguments"
    assert (await call("parcel", "list_parcels", {"customer_id": ["anna"]}))["code"] == "invalid_arguments"


async def test_other_spellings_of_a_model_are_taken_without_the_customer(call: Call) -> None:
    answer = await call("parcel", "send_parcel", {"parcel": {"weight": "7"}})
    assert (answer["owner"], answer["numbers"]) == ("anna", [7])


async def test_a_tool_known_at_run_time_gets_the_customer_and_its_other_arguments_are_checked(call: Call) -> None:
    arguments: list[JsonObject] = [{"text": "hello"}, {"text": "hello", "customer_id": "anna"}]
    for each in arguments:
        answer = await call("parcel", "leave_note", each)
        assert answer["arguments"] == {"text": "hello", "customer_id": "anna"}
    assert (await call("parcel", "leave_note", {}))["code"] == "invalid_arguments"
    assert (await call("parcel", "leave_note", {"text": "hello", "more": 1}))["code"] == "invalid_arguments"


async def test_a_service_that_is_told_who_calls_answers_others_as_what_does_not_exist(call: Call) -> None:
    assert (await call("parcel", "find_parcel", {"number": 1}))["owner"] == "anna"
    others, none = [await call("parcel", "find_parcel", {"number": number}) for number in (3, 4)]
    assert others["detail"].replace("3", "4") == none["detail"]
    assert (others["status"], others["code"]) == (404, "not_found")


# What is not declared


@pytest.mark.parametrize("tool", [*UNDECLARED, "look_at_shelf"])
async def test_what_is_not_declared_is_refused_before_its_arguments_are_looked_at(call: Call, tool: str) -> None:
    for arguments in ({}, {"number": "many"}):
        problem = await call("parcel", tool, arguments)
        assert (problem["status"], problem["code"]) == (403, "not_confined")


async def test_listings_show_what_can_be_confined_without_the_customer(gateway: Served, face: str) -> None:
    if face == "rest":
        async with client_of(gateway) as http:
            listed: list[Any] = (await http.get("/mcp/parcel/tools")).json()["tools"]
            page = (await http.get("/mcp/parcel")).json()
            openapi = (await http.get("/openapi.json")).json()
        assert page["tools"] == SHOWN
        shown = [path for path in openapi["paths"] if path.startswith("/mcp/parcel/tools/")]
        assert [path.rpartition("/")[2] for path in shown] == SHOWN
        assert "count_parcels" not in json.dumps(openapi)
        body = openapi["paths"]["/mcp/parcel/tools/list_parcels"]["post"]["requestBody"]["content"]["application/json"]
        assert body == {"schema": listed[0]["inputSchema"], "example": {"most": 2}}
    else:
        async with mcp_client(gateway, face, "parcel") as client:
            listed = [tool.model_dump(mode="json", by_alias=True) for tool in (await client.list_tools()).tools]
            resources = [str(found.uri) for found in (await client.list_resources()).resources]
            templates = [found.uri_template for found in (await client.list_resource_templates()).resource_templates]
            prompts = (await client.list_prompts()).prompts
        assert resources == ["parcel://shops"]
        assert templates == ["parcel://of/{customer_id}{?most}", "parcel://number/{number}"]
        assert prompts == []
    assert [each["name"] for each in listed] == SHOWN
    for schema in (each["inputSchema"] for each in listed):
        assert "customer_id" not in schema.get("properties", {})
        assert "customer_id" not in schema.get("required", [])
        assert schema["additionalProperties"] is False


async def test_a_server_of_which_nothing_can_be_confined_is_not_listed(http: httpx.AsyncClient) -> None:
    assert [server["id"] for server in (await http.get("/mcp")).json()["servers"]] == ["parcel"]


@pytest.mark.parametrize("method", ["prompts/get", "completion/complete"])
async def test_what_a_server_answers_itself_is_refused(http: httpx.AsyncClient, method: str) -> None:
    params: dict[str, JsonObject] = {
        "prompts/get": {"name": "test_simple_prompt"},
        "completion/complete": {
            "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
            "argument": {"name": "arg1", "value": "a"},
        },
    }
    for era in ERAS:
        message = request(era, method, params[method])
        answer = await http.post("/mcp", json=message, headers={**headers(era, message), "accept": "application/json"})
        assert answer.json()["error"]["data"]["code"] in ("not_confined", "unknown_server"), answer.text


async def test_no_prompt_is_listed_to_who_is_bound() -> None:
    message = request("2025-11-25", "prompts/list")
    for customer in ("anna", None):
        app = bound(create_app([ConformanceMCPServer()], Settings()), customer)
        async with serve(app) as served, client_of(served) as http:
            answer = await http.post("/mcp", json=message, headers=headers("2025-11-25", message))
        assert ('"prompts":[]' in answer.text) is (customer is not None)


# Resources, watches, routes


@pytest.mark.parametrize(
    ("uri", "status", "code"),
    [
        ("parcel://of/anna", 200, None),
        ("parcel://of/anna?most=1", 200, None),
        ("parcel://of/%61nna", 200, None),
        ("parcel://of/bert", 404, "not_found"),
        ("parcel://of/%62ert", 404, "not_found"),
        ("parcel://of/anna%00", 404, "not_found"),
        ("parcel://of/nobody", 404, "not_found"),
        ("parcel://number/1", 200, None),
        ("parcel://number/3", 404, "not_found"),
        ("parcel://number/4", 404, "not_found"),
        ("parcel://shops", 200, None),
        ("parcel://all", 403, "not_confined"),
        ("parcel://script", 403, "not_confined"),
    ],
)
async def test_a_resource_of_another_is_not_there(
    gateway: Served, http: httpx.AsyncClient, uri: str, status: int, code: str | None
) -> None:
    answer = await http.get("/mcp/parcel/resources/read", params={"uri": uri})
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert answer.json().get("owner") in ("anna", None)
    for era in ERAS:
        async with websocket(gateway, era, "/mcp/ws") as messages:
            read = await messages.ask(request(era, "resources/read", {"uri": uri}))
        assert (read["error"]["data"]["code"] if code else None) == code


async def test_only_ones_own_is_watched(gateway: Served) -> None:
    watched: dict[str, str | None] = {
        "parcel://number/1": None,
        "parcel://number/3": "not_found",
        "parcel://number/4": "not_found",
        "parcel://shops": "not_confined",
        "parcel://all": "not_confined",
    }
    for uri, code in watched.items():
        async with websocket(gateway, "2025-11-25", "/mcp/parcel/ws") as messages:
            answer = await messages.ask(request("2025-11-25", "resources/subscribe", {"uri": uri}))
            assert answer.get("error", {}).get("data", {}).get("code") == code, uri
        message = request("2026-07-28", "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})
        async with client_of(gateway) as http:
            if code is not None:
                refused = await http.post("/mcp/parcel", json=message, headers=headers("2026-07-28", message))
                assert f'"code":"{code}"' in refused.text
                continue
        async with event_stream(gateway, message, "2026-07-28", path="/mcp/parcel") as notices:
            assert "acknowledged" in (await anext(notices))["method"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/labels/anna", 200),
        ("/labels/bert", 404),
        ("/labels/%62ert", 404),
        ("/labels", 403),
        ("/tracks/1", 403),
        ("/receipts/1", 200),
        ("/receipts/3", 404),
        ("/receipts/4", 404),
    ],
)
async def test_a_route_is_confined_as_its_tool_where_that_holds_for_its_path(
    http: httpx.AsyncClient, path: str, status: int
) -> None:
    answer = await http.get(f"/mcp/parcel{path}")
    assert answer.status_code == status
    assert status != 200 or answer.text == "anna"


# Other ways


@pytest.mark.parametrize("server", ["parcel", "mcp_parcel"])
async def test_a_batch_and_other_names_of_a_server_lead_nowhere_else(http: httpx.AsyncClient, server: str) -> None:
    calls = [
        {"server": server, "tool": name, "arguments": arguments}
        for name, arguments in [*OTHERS, *((name, {}) for name in UNDECLARED), ("list_parcels", {})]
    ]
    *refused, own = (await http.post("/mcp/batch", json={"calls": calls})).json()["results"]
    assert own["result"]["owner"] == "anna"
    assert {each["error"]["code"] for each in refused} == {"not_found", "invalid_arguments", "not_confined"}
    for name, arguments in OTHERS:
        answer = await http.post(f"/mcp/{server}/tools/{name}/", json=arguments)
        assert answer.status_code in (404, 422)


async def test_two_bound_callers_at_once_each_see_their_own(http: httpx.AsyncClient) -> None:
    for customer in ("bert", "anna", "bert"):
        answer = await http.post("/mcp/parcel/tools/list_parcels", headers={CALLER.decode(): customer})
        assert answer.json()["owner"] == customer


@pytest.mark.parametrize("customer", ["", "a\0b", "x" * 65])
async def test_whoever_is_bound_to_what_no_customer_can_be_called_is_refused(customer: str) -> None:
    async with serve(bound(create_app([parcels()], Settings()), customer)) as served, client_of(served) as http:
        answer = await http.post("/mcp/parcel/tools/list_parcels", json={})
    assert answer.json()["code"] == "not_confined"


async def test_who_is_not_bound_sees_and_calls_everything() -> None:
    async with serve(create_app([parcels()], Settings())) as served, client_of(served) as http:
        listed = (await http.get("/mcp/parcel/tools")).json()["tools"]
        assert {tool["name"] for tool in listed} == {*SHOWN, *UNDECLARED, "look_at_shelf"}
        assert listed[0]["inputSchema"]["required"] == ["customer_id"]
        assert (await http.post("/mcp/parcel/tools/list_parcels", json={"customer_id": "bert"})).json()["numbers"] == [
            3
        ]
        assert (await http.post("/mcp/parcel/tools/list_parcels", json={})).status_code == 422
        assert (await http.get("/mcp/parcel/labels")).text == "all"


# Declarations


class _Nothing(Result):
    pass


def _tool_of_nobody() -> None:
    class WrongMCPServer(BaseMCPServer):
        @tool(confined_by="customer")
        async def read(self, customer_id: str) -> _Nothing:
            """Read."""
            return _Nothing()


def _service_that_is_not_told() -> None:
    class WrongMCPServer(BaseMCPServer):
        @tool(confined="service")
        async def read(self) -> _Nothing:
            """Read."""
            return _Nothing()


def _both() -> None:
    class WrongMCPServer(BaseMCPServer):
        @tool(confined_by="customer_id", public=True)
        async def read(self, customer_id: str) -> _Nothing:
            """Read."""
            return _Nothing()


def _resource_that_is_not_told() -> None:
    class WrongMCPServer(BaseMCPServer):
        @resource("wrong://all", confined="service")
        async def read(self) -> _Nothing:
            """Read."""
            return _Nothing()


def _watch_that_is_not_told() -> None:
    class WrongMCPServer(BaseMCPServer):
        @resource("wrong://all", confined="service")
        async def read(self, principal: Principal) -> _Nothing:
            """Read."""
            return _Nothing()

        @watch("wrong://all", confined="service")
        def changes(self) -> Any: ...


def _route_without_the_customer() -> None:
    class WrongMCPServer(BaseMCPServer):
        @tool(public=True)
        async def read(self, customer_id: str) -> _Nothing:
            """Read."""
            return _Nothing()

        @route("/read", methods=("GET",), acts_as="read", confined_by="customer_id")
        async def stream(self, request: Any, context: Any) -> Any: ...


@pytest.mark.parametrize(
    "declare",
    [
        _tool_of_nobody,
        _service_that_is_not_told,
        _both,
        _resource_that_is_not_told,
        _watch_that_is_not_told,
        _route_without_the_customer,
    ],
)
def test_a_declaration_that_would_confine_nobody_is_refused_at_import(declare: Callable[[], None]) -> None:
    with pytest.raises(TypeError, match=r"confined|say one of"):
        declare()
