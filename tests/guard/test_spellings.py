"""Each other spelling against each rule on an argument: none walks past it, on any face.

The backends are not configured: what passes the rules is answered 503, and nothing else is.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.asyncio.client import connect

from app.catalogue import Catalogue, load_servers
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.principal import Principal
from app.guard.vocabulary import vocabulary_of
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.routers.database import DatabaseMCPServer
from app.routers.kafka import KafkaMCPServer
from app.servers.calls import JsonObject
from app.services.aws.settings import AwsSettings
from app.services.kafka.settings import KafkaSettings
from app.services.postgres.connections.settings import PostgresSettings
from app.settings import Settings
from tests.faces.raw import client_of, headers, request
from tests.fixtures.gateway import Served, serve
from tests.guard.callers import known_by_name

POLICY = """\
[role.ruled]
allow = ["database:write", "kafka:write", "aws:write"]

[tool."database:query_database"]
query = { in = ["SELECT 1"] }

[tool."database:get_customer_context"]
customer_id = { in = ["1"] }

[tool."database:save_interaction"]
customer_id = { in = ["1"] }
query_text = { prefix = "Q: " }

[tool."kafka:publish_message"]
topic = { in = ["mine"] }
key = { prefix = "customer-1-" }
message = { in = ["ping"] }

[tool."kafka:consume_messages"]
topic = { in = ["mine"] }
group_id = { prefix = "mine-" }
max_messages = { in = [5] }

[tool."aws:s3_upload_file"]
bucket = { in = ["documents"] }
key = { prefix = "customers/1/" }
content = { prefix = "Dear" }

[tool."aws:s3_download_file"]
bucket = { in = ["documents"] }
key = { prefix = "customers/1/" }

[tool."aws:s3_presign_url"]
bucket = { in = ["documents"] }
key = { prefix = "customers/1/" }
method = { in = ["GET"] }

[tool."aws:s3_list_objects"]
prefix = { prefix = "customers/1/" }

[tool."aws:get_parameter_store_value"]
parameter_name = { prefix = "/switchboard/" }

[tool."aws:lambda_invoke"]
function_name = { in = ["greet"] }
"""
OWN, OTHER = "customers/1/a", "customers/2/a"
ESCAPES = [
    OTHER, "customers/1", "customers/1/../2/a", "customers/1/..", "customers/1/./a", "customers/1/%2e%2e/2/a",
    "customers/1/%252e%252e/2/a", "customers%2F1%2Fa", "customers/1/..%2f2/a", "customers/1/..\\2\\a",
    "customers/1/\uff0e\uff0e/2/a", "customers/1/\u2025/2/a", "customers/1/a\u0000", "customers/1/a\n",
    "customers/1/\u202ea", "customers/1/\u200b../2/a", "\uff43ustomers/1/a", "customers\uff0f1/a", "Customers/1/a",
    " customers/1/a", "/customers/1/a", "//customers/1/a", "customers//1/a", "customers/\u0661/a",
    "customers/1\u2215a", "", "customers/1/.\u034f./2/a", "customers/1/..\u22152/a", "customers/1/\u3002\u3002/2/a",
    "customers/1/..\ufe0f/2/a", "\u0441ustomers/1/a", "customers/1 /a", "customers/1./a", "customers/1%20/a",
    "customers/1/.. /2/a", "customers/1/...%2f../2/a",
]  # fmt: skip
PATHS = [f"documents/{key}" for key in ESCAPES if key not in ("", "customers%2F1%2Fa")] + [
    f"drawers/{OWN}", f"documents%2F..%2Fdrawers/{OWN}", f"documents/../drawers/{OWN}", f"%64rawers/{OWN}",
    "documents/%63ustomers/2/a", "documents/customers/1/%2e./2/a", "documents/customers/1/%00",
    "documents//customers/1/a", "documents/customers/1/%ff",
]  # fmt: skip


def spellings() -> Iterator[tuple[str, str, Any]]:
    """Iterate over server, tool and arguments that no rule allows, however they are written."""
    for text in ("SELECT 2", "select 1", "SELECT 1 ", "SELECT 1;", "SELECT 1--", "SELECT 1\0"):
        for name in ("query", "sql"):
            yield "database", "query_database", {name: text}
    for one in (
        "2",
        2,
        2.0,
        " 1",
        "1 ",
        "\uff11",
        "01",
        "1\u200b",
        "\u0661",
        "1.",
        "%31",
        "1\u0301",
        "1\u034f",
        "\u00b9",
    ):
        yield "database", "get_customer_context", {"customer_id": one}
        asked = {"channel": "chat", "query_text": "Q: why?"}
        yield "database", "save_interaction", {"customer_id": one, **asked}
        yield "database", "save_interaction", {"interaction_data": {"customer_id": one, **asked}}
        yield "database", "save_interaction", {"interaction_data": json.dumps({"customer_id": one, **asked})}
        yield "database", "save_interaction", {"customer_id": one, "interaction_data": asked}
        yield "database", "save_interaction", {"customer_id": "1", "interaction_data": {"customer_id": one, **asked}}
    for name in ("query_text", "content"):
        for arguments in ({name: "why?"}, {"interaction_data": {name: "why?"}}, {"agent_response": "so"}):
            yield "database", "save_interaction", {"customer_id": "1", "channel": "chat", **arguments}
    message = {"topic": "mine", "key": "customer-1-x", "message": "ping"}
    for change in (
        {"topic": "theirs"}, {"topic": "Mine"}, {"topic": "mine "}, {"topic": ["mine"]}, {"topic": "mine."},
        {"topic": "m\u0456ne"}, {"topic": "\uff4dine"}, {"topic": "mine\u200b"}, {"topic": "%6dine"},
        {"key": "\u0441ustomer-1-x"}, {"key": "customer-\u0661-x"}, {"key": "customer\u20101-x"},
        {"key": "Customer-1-x"}, {"key": "customer-1-%2e%2e/x"}, {"key": "customer-1-\u200bx"},
        {"key": "customer-2-x"}, {"key": None}, {"key": "customer-1-../x"},
        {"key": "customer-1-", "key_encoding": "base64"}, {"key": "Y3VzdG9tZXItMS14", "key_encoding": "base64"},
        {"message": "pong"}, {"message": ["ping"]},
        {"message": "ping", "encoding": "base64"}, {"message": None},
    ):  # fmt: skip
        yield "kafka", "publish_message", {**message, **change}
    for value in ("pong", {"ping": 1}):
        yield "kafka", "publish_message", {"topic": "mine", "key": "customer-1-x", "value": value}
    work = {"topic": "mine", "group_id": "mine-1", "max_messages": 5}
    for change in (
        {"topic": "theirs"},
        {"group_id": "yours"},
        {"max_messages": 6},
        {"max_messages": "6"},
        {"max_messages": 6.0},
    ):
        yield "kafka", "consume_messages", {**work, **change}
    for name in ("group", "consumer_group"):
        yield "kafka", "consume_messages", {"topic": "mine", name: "yours", "max_messages": 5}
    yield "kafka", "consume_messages", {"topic": "mine", "group_id": "mine-1", "limit": 6}
    yield "kafka", "consume_messages", {"topic": "mine", "max_messages": 5}
    for key in ESCAPES:
        for tool, more in {
            "s3_upload_file": {"content": "Dear"}, "s3_download_file": {}, "s3_presign_url": {"method": "GET"}
        }.items():  # fmt: skip
            yield "aws", tool, {"bucket": "documents", "key": key, **more}
        yield "aws", "s3_list_objects", {"bucket": "documents", "prefix": key}
    yield "aws", "s3_list_objects", {"bucket": "documents"}
    yield "aws", "s3_download_file", {"bucket": "drawers", "key": OWN}
    yield "aws", "s3_presign_url", {"bucket": "documents", "key": OWN, "method": "PUT"}
    yield "aws", "s3_upload_file", {"bucket": "documents", "key": OWN, "content": "RGVhcg==", "encoding": "base64"}
    yield "aws", "s3_upload_file", {"bucket": "documents", "key": OWN, "content": "DearDear", "encoding": "base64"}
    for name in ("name", "parameter_name"):
        for value in ("/other/x", "switchboard/x", "/switchboard/../other", "/switchboard"):
            yield "aws", "get_parameter_store_value", {name: value}
    for function in (
        "greet:1",
        "greet:$LATEST",
        "gr\u0435et",
        "greet ",
        "arn:aws:lambda:eu-west-1:123456789012:function:greet",
        "Greet",
        "other",
    ):
        yield "aws", "lambda_invoke", {"function_name": function}


ALLOWED: list[tuple[str, str, JsonObject]] = [
    ("database", "query_database", {"sql": "SELECT 1"}),
    ("database", "get_customer_context", {"customer_id": "1"}),
    (
        "database",
        "save_interaction",
        {"interaction_data": {"customer_id": "1", "channel": "chat", "content": "Q: why?"}},
    ),
    ("kafka", "publish_message", {"topic": "mine", "key": "customer-1-x", "value": "ping"}),
    ("kafka", "consume_messages", {"topic": "mine", "group": "mine-1", "limit": "5"}),
    ("aws", "s3_upload_file", {"bucket": "documents", "key": OWN, "content": "Dear you"}),
    ("aws", "s3_download_file", {"bucket": "documents", "key": "customers/1/\u00e4 b.txt"}),
    ("aws", "get_parameter_store_value", {"name": "/switchboard/x"}),
    ("aws", "lambda_invoke", {"function_name": "greet"}),
]
REFUSALS = {"argument_refused", "invalid_arguments", "malformed_request"}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Served]:
    file = tmp_path_factory.mktemp("policy") / "switchboard.toml"
    file.write_text(POLICY)
    kinds = load_servers()
    unset = [PostgresSettings.model_validate({}), KafkaSettings.model_validate({}), AwsSettings.model_validate({})]
    guard = Guard(Policy.load(file, vocabulary_of(Catalogue(kinds))))
    app = create_app([DatabaseMCPServer, KafkaMCPServer, AWSMCPServer], Settings(), unset, guard=guard)
    async with serve(known_by_name(app, Principal("ruled", frozenset({"ruled"})))) as served:
        yield served


@pytest.fixture(scope="module")
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        client.headers["x-test-caller"] = "ruled"
        yield client


def code_of(answer: Any) -> str:
    """Return the code of a failure in an answer of MCP; "" of what was no failure."""
    if "error" in answer:
        return str((answer["error"].get("data") or {}).get("code", "protocol"))
    result = answer["result"]
    return str(json.loads(result["content"][0]["text"])["code"]) if result["isError"] else ""


async def codes(gateway: Served, http: httpx.AsyncClient, server: str, tool: str, arguments: Any) -> dict[str, str]:
    """Return by face what a call is refused with; each in a plain form and in one that the SDK reads."""
    found = {"rest": (await http.post(f"/mcp/{server}/tools/{tool}", json=arguments)).json().get("code", "")}
    calls = [{"server": server, "tool": tool, "arguments": arguments}]
    [outcome] = (await http.post("/mcp/batch", json={"calls": calls})).json()["results"]
    found["batch"] = outcome.get("error", {}).get("code", "")
    params: JsonObject = {"name": tool, "arguments": arguments}
    for name, more in {"plain": {}, "sdk": {"progressToken": 1}}.items():
        message = request("2026-07-28", "tools/call", params, **more)
        fields = {**headers("2026-07-28", message), "accept": "application/json"}
        found[name] = code_of((await http.post(f"/mcp/{server}", json=message, headers=fields)).json())
    return found


async def test_no_other_spelling_passes(gateway: Served, http: httpx.AsyncClient) -> None:
    passed = [
        (server, tool, arguments, face, code)
        for server, tool, arguments in spellings()
        for face, code in (await codes(gateway, http, server, tool, arguments)).items()
        if code not in REFUSALS
    ]
    assert passed == []


async def test_none_passes_over_a_websocket(gateway: Served) -> None:
    passed: list[Any] = []
    async with connect(f"{gateway.websocket_url}/mcp/ws", additional_headers={"x-test-caller": "ruled"}) as socket:
        for _, tool, arguments in spellings():
            await socket.send(json.dumps(request("2026-07-28", "tools/call", {"name": tool, "arguments": arguments})))
            if (code := code_of(json.loads(await socket.recv()))) not in REFUSALS:
                passed.append((tool, arguments, code))
    assert passed == []


@pytest.mark.parametrize(("server", "tool", "arguments"), ALLOWED)
async def test_what_a_rule_allows_passes_in_each_spelling(
    gateway: Served, http: httpx.AsyncClient, server: str, tool: str, arguments: JsonObject
) -> None:
    assert set((await codes(gateway, http, server, tool, arguments)).values()) == {"backend_not_configured"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_no_path_of_a_stream_passes(http: httpx.AsyncClient, method: str) -> None:
    # An upload's rule on its content can't be judged before the bytes are there, so no stream of it is taken.
    own = await http.request(method, f"/mcp/aws/s3/documents/{OWN}")
    assert own.status_code == (403 if method == "POST" else 503)
    passed = []
    for path in PATHS:
        target = quote(f"/mcp/aws/s3/{path}", safe="/%\\")  # as it is: httpx would resolve its dots
        answer = await http.request(method, "/mcp", extensions={"target": target.encode()})
        if answer.status_code not in (403, 404, 422):
            passed.append((path, answer.status_code))
    assert passed == []


async def test_no_path_of_a_topics_stream_passes(http: httpx.AsyncClient) -> None:
    for path in ("mine", "theirs", "%74heirs", "mine%2F..%2Ftheirs"):
        answer = await http.get(f"/mcp/kafka/topics/{path}/stream")
        assert answer.status_code in (403, 404, 422)  # a stream names no group, which a rule wants
