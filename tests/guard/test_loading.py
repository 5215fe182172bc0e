"""Where the policy's file is found, what stops the start, and what only turns a tool off."""

import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from app.catalogue import Catalogue
from app.cli.commands import switchboard
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.vocabulary import known_later, vocabulary_of
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import client_of, launched, request
from tests.fixtures.gateway import Served, serve

SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))
ONLY_ONE = '[tool."database:get_customer_context"]\ncustomer_id = { in = ["1"] }\n'


def start(directory: Path, text: str, *arguments: str) -> Result:
    (directory / "switchboard.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        return CliRunner().invoke(switchboard, arguments)


@pytest.mark.parametrize("command", ["serve", "dev", "stdio"])
@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        (
            '[role.a]\nallow = ["database:read",\n  "database:qurey_database"]\n',
            ["switchboard.toml:3: allow of role a: database has no tool 'qurey_database'; did you mean 'query_data"],
        ),
        ('[role.a]\ndeny = ["awz:read"]\n', ["switchboard.toml:2: deny of role a: there is no server 'awz'"]),
        (
            """\
[role.customer]
bound = "customer"

[role.b.tool."aws:s3_download_file"]
kee = { prefix = "a/" }
bucket = { in = ["{customer}"] }
""",
            [
                "switchboard.toml:5: aws:s3_download_file has no argument 'kee'; did you mean 'key'?",
                'switchboard.toml:6: {customer} stands for somebody only in a role with bound = "customer"',
            ],
        ),
        ('[role.a]\n\nlimit = "fast"\n', ["switchboard.toml:3: role.a.limit: expected a limit such as"]),
        ('[limits]\naws = "5/s"\n"aws:s3" = "5/s"\n', ["switchboard.toml:3: aws has no tool 's3'"]),
        ("[role.a]\nalow = []\n", ["switchboard.toml:2: role.a.alow: nothing of that name is known here"]),
        ("[role.a]\nallow = [\n", ["switchboard.toml:2: Invalid value"]),
        ('[tool."kafka:create_topic"]\ntopic = { prefix = "" }\n', ["switchboard.toml:2: "]),
    ],
)
def test_a_mistake_stops_the_start_and_names_its_line(
    tmp_path: Path, command: str, text: str, mistakes: list[str]
) -> None:
    result = start(tmp_path, text, command)
    assert result.exit_code == 2
    assert "The policy can't be used; nothing was started." in result.output
    for mistake in mistakes:
        assert mistake in result.output


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    result = start(tmp_path, "", "serve", "--config", "other.toml")
    assert (result.exit_code, "other.toml: No such file or directory" in result.output) == (2, True)


def test_what_a_file_says_of_servers_that_are_not_offered_is_checked_too(tmp_path: Path) -> None:
    result = start(tmp_path, '[role.a]\nallow = ["aws:s3_upload"]\n', "stdio", "database")
    assert (result.exit_code, "aws has no tool 's3_upload'" in result.output) == (2, True)


@pytest.mark.parametrize("by", ["option", "variable", "directory"])
async def test_the_file_is_found(tmp_path: Path, by: str) -> None:
    file = tmp_path / ("switchboard.toml" if by == "directory" else "policy.toml")
    file.write_text(ONLY_ONE)
    if by != "directory":  # what is found there is not looked at then
        (tmp_path / "switchboard.toml").write_text("[nonsense]")
    command = [SWITCHBOARD, "stdio", "database"] + (["--config", str(file)] if by == "option" else [])
    environment = {"SWITCHBOARD_CONFIG": str(file)} if by == "variable" else {}
    call: JsonObject = {"name": "get_customer_context", "arguments": {"customer_id": "2"}}
    async with launched("2026-07-28", command, cwd=tmp_path, env=environment) as pipe:
        answer: Any = await pipe.ask(request("2026-07-28", "tools/call", call))
    assert json.loads(answer["result"]["content"][0]["text"])["code"] == "argument_refused"


LATER = """\
[role.a]
allow = ["later:any", "later:gone"]
deny = ["later:gone"]

[tool."later:open"]
whatever = { in = ["x"] }

[tool."later:strict"]
colour = { in = ["red"] }
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Served]:
    class LaterMCPServer(BaseMCPServer):
        """Has tools that are known at run time."""

        async def call_tool(self, tool_name: str, arguments: JsonObject) -> Any:
            return {"given": arguments}

    strict = {"type": "object", "properties": {"size": {"type": "string"}}, "additionalProperties": False}
    tools = [DynamicTool.of("open"), DynamicTool.of("strict", "", strict), DynamicTool.of("any")]
    kinds = [LaterMCPServer("later", tools=tools), ClockMCPServer()]
    file = tmp_path / "switchboard.toml"
    file.write_text(LATER)
    known = Catalogue(kinds)
    guard = Guard(Policy.load(file, vocabulary_of(known), known_later(known)))
    async with serve(create_app(kinds, Settings(), guard=guard)) as served:
        yield served


async def test_a_rule_that_does_not_fit_a_run_time_tool_turns_it_off(gateway: Served) -> None:
    async with client_of(gateway) as http:
        listed = [tool["name"] for tool in (await http.get("/mcp/later/tools")).json()["tools"]]
        assert listed == ["open", "any"]
        answer = await http.post("/mcp/later/tools/strict", json={"size": "1"})
        assert (answer.status_code, answer.json()["code"]) == (503, "backend_not_configured")
        ready: httpx.Response = await http.get("/ready")
        off = ready.json()["servers"]["later"]["tools_off"]
        assert set(off) == {"strict", "gone"}
        assert "switchboard.toml:9: later:strict has no argument 'colour'" in off["strict"]["detail"]
        # Rules hold for what takes any argument.
        assert (await http.post("/mcp/later/tools/open", json={"whatever": "x"})).status_code == 200
        for arguments in ({"whatever": "y"}, {}):
            assert (await http.post("/mcp/later/tools/open", json=arguments)).json()["code"] == "argument_refused"
