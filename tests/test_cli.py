"""`switchboard` as a person, an operator or a desktop client starts it: processes of their own, ended for certain."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from websockets.asyncio.client import connect

from app.catalogue import SERVERS, load_servers
from app.cli.commands import COMMANDS
from app.cli.commands import switchboard as group
from app.cli.running import misspelt, run
from app.errors import BackendUnavailable
from app.guard.key_file import as_first_key
from app.guard.keys import mint
from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import StartFailed, free_port
from app.routers.database import DatabaseMCPServer
from app.servers.calls import JsonObject
from app.services.postgres.migrations import migrate
from app.services.postgres.versions import newest_version
from tests.faces.raw import ERAS, WITHIN, Messages, launched, request
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.mcp_servers.statements import GONE_WITHIN, SLOW, until_running

SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))
STARTS_WITHIN = 60.0
STOPS_WITHIN = 20.0
_OURS = (
    "SERVERS",
    "DATABASE_",
    "DB_MCP_",
    "KAFKA_",
    "AWS_",
    "ALLOWED_",
    "HOST",
    "PORT",
    "LOG_",
    "MAX_",
    "HIDE_",
    "BACKEND_",
)
_READY = "Stop "
"""How the last line begins that tells a newcomer what to do."""


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of the test run without what would configure a gateway, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | variables


@contextmanager
def _logging_given_back() -> Generator[None]:
    """Undo what a command does to the logging of this process: tests that run after it read the log."""
    root, flags = logging.getLogger(), ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile")
    handlers, kept = root.handlers[:], {flag: getattr(logging, flag) for flag in flags}
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    levels = {logger: logger.level for logger in loggers}
    for handler in handlers:
        root.removeHandler(handler)  # else it would be closed
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for flag, value in kept.items():
            setattr(logging, flag, value)
        for logger in (root, *root.manager.loggerDict.values()):
            if isinstance(logger, logging.Logger):
                logger.setLevel(levels.get(logger, logging.NOTSET))


async def invoke(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command in this process, which is quicker; return its status and what it wrote."""
    cleared: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_OURS)}
    with _logging_given_back():
        result = await asyncio.to_thread(CliRunner().invoke, group, arguments, env={**cleared, **variables})
    return result.exit_code, result.output


async def switchboard(directory: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command as a process; return its status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, *arguments, cwd=directory, env=environment(**variables), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(STARTS_WITHIN):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@asynccontextmanager
async def running(directory: Path, *arguments: str, **variables: str) -> AsyncGenerator[Process]:
    """Run a command that serves; it is killed with its children if it outlives the block."""
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, *arguments, cwd=directory, env=environment(**variables), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        await process.communicate()


async def stop(process: Process, number: signal.Signals) -> str:
    """Send a signal, see the process and all its children end, and return what it still wrote."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    async with asyncio.timeout(STOPS_WITHIN):
        output, _ = await process.communicate()
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=STOPS_WITHIN)
    assert alive == []
    return output.decode()


async def answers(port: int) -> None:
    """Wait until a gateway listens."""
    async with asyncio.timeout(STARTS_WITHIN), httpx.AsyncClient(verify=False, timeout=30) as http:
        while True:
            try:
                await http.get(f"http://127.0.0.1:{port}/health")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
async def bare_database(postgres_server: LocalPostgres) -> AsyncGenerator[TestDatabase]:
    """A database without any table."""
    async with cloned_database(postgres_server, None) as clone:
        yield clone


_MISTYPED = {
    "DATABASE_READ_POOL_SIZE": "0",
    "DATABASE_URL": "mysql://u:hunter2@127.0.0.1/d",
    "KAFKA_SECURITY_PROTOCOL": "FOO",
    "AWS_MAX_ATTEMPTS": "x",
    "LOG_LEVEL": "verbose",
    "PORT": "http",
    "SERVERS": "databse",
    "LOG_LEVELS": "MCP.Kafka MCP Sever=DEBUG",
}
_HOSTS = "expected names such as support.example, support.example:8000 or [::1], or `*` alone for any"
_ORIGINS = "expected origins such as https://support.example, without a path, or `*` alone for any"


# Commands that end


async def test_migrating_and_seeding_twice_changes_nothing_more(bare_database: TestDatabase, tmp_path: Path) -> None:
    for expected in ("Loaded 300 customers", "holds data already"):
        status, output = await switchboard(
            tmp_path, "migrate", DATABASE_URL=bare_database.url, DATABASE_READER_PASSWORD="reader"
        )
        assert (status, "up to date" in output) == (0, True), output
        status, output = await switchboard(tmp_path, "seed", DATABASE_URL=bare_database.url)
        assert (status, expected in output) == (0, True), output
    async with bare_database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM customers") == 300
        assert await connection.fetchval("SELECT count(*) FROM knowledge_articles") >= 60
        assert await connection.fetchval("SELECT count(*) FROM customers WHERE id = '12345'") == 1


async def test_going_back_is_done_when_it_is_asked_for_and_said_otherwise(bare_database: TestDatabase) -> None:
    async def migrate_to(*arguments: str) -> tuple[int, str]:
        return await invoke("migrate", *arguments, DATABASE_URL=bare_database.url)

    newest = newest_version()
    assert await migrate_to("--revision", "0001") == (0, "The database is at version 0001.\n")
    status, output = await migrate_to()
    assert (status, output.splitlines()[-1]) == (0, "The database is up to date.")
    assert "query_database reads with a login of its own, switchboard_reader_" in output
    status, output = await migrate_to("--revision", "base")
    assert status == 1
    assert f"of version {newest}" in output
    assert "--downgrade" in output
    status, output = await migrate_to("--revision", "bse")
    assert status == 1
    assert "There is no version 'bse'" in output
    async with bare_database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM customers") == 0
    assert await migrate_to("--revision", "0002", "--downgrade") == (0, "The database is at version 0002 again.\n")
    status, output = await migrate_to("--revision", "head", "--downgrade")
    assert status == 1
    assert "leave out --downgrade" in output
    assert await migrate_to("--revision", "base", "--downgrade") == (0, "The database is at version base again.\n")
    async with bare_database.connect() as connection:
        assert await connection.fetchval("SELECT to_regclass('customers')") is None
        await connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    status, output = await migrate_to()
    assert status == 1
    assert "9999" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", ["migrate", "seed"])
async def test_a_missing_address_is_named(command: str) -> None:
    status, output = await invoke(command)
    assert status == 1
    assert "DATABASE_URL is not set" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("url", "expected", "said"),
    [
        (f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d", 1, "can't be reached"),
        ("mysql://u:hunter2@127.0.0.1/d", 2, "DATABASE_URL: expected postgresql://"),
    ],
    ids=["nobody listens", "another database"],  # the port is another one each time
)
async def test_an_address_that_does_not_work_is_explained_and_not_shown(url: str, expected: int, said: str) -> None:
    status, output = await invoke("migrate", DATABASE_URL=url)
    assert status == expected
    assert said in output
    assert "hunter2" not in output
    assert "Traceback" not in output


async def test_an_unknown_server_is_named_beside_the_known() -> None:
    status, output = await invoke("serve", "--server", "databse")
    assert status == 2
    assert "'databse'" in output
    assert "database" in output.replace("'databse'", "")


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        *((("serve",), variable, value) for variable, value in _MISTYPED.items()),
        *((("stdio",), variable, value) for variable, value in _MISTYPED.items()),
        (("serve", "--server", "database"), "DB_MCP_PORT", "http"),
        (("serve", "--server", "aws"), "AWS_MAX_ATTEMPTS", "x"),
        (("serve", "--all-ports"), "KAFKA_MCP_PORT", "70000"),
        (("serve",), "LOG_LEVELS", "kafka"),
        (("serve",), "LOG_LEVELS", "kafka=CHATTY"),
        (("serve",), "LOG_LEVELS", "sqlalchemy=DEBUG"),
        (("stdio", "database"), "LOG_LEVELS", "kafka=DEBUG"),
        (("dev",), "LOG_LEVELS", "kafka=CHATTY"),
    ],
)
async def test_a_mistyped_setting_is_named_before_anything_is_opened(
    command: tuple[str, ...], variable: str, value: str
) -> None:
    status, output = await invoke(*command, **{variable: value})
    assert status == 2, output
    assert variable in output or f"There is no server {value!r}" in output
    assert len(output.strip().splitlines()) <= 2
    assert "hunter2" not in output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "abc", "PORT: expected a whole number"),
        ("TOOL_TIMEOUT", "soon", "TOOL_TIMEOUT: expected a number"),
        ("HIDE_UNCONFIGURED", "perhaps", "HIDE_UNCONFIGURED: expected true or false"),
        ("ALLOWED_HOSTS", "https://desk.example", f"ALLOWED_HOSTS: {_HOSTS}"),
        ("ALLOWED_HOSTS", "localhost,*.desk.example,desk.example/gw", f"ALLOWED_HOSTS: {_HOSTS}"),
        ("ALLOWED_HOSTS", "::1", f"ALLOWED_HOSTS: {_HOSTS}"),
        ("ALLOWED_ORIGINS", "desk.example", f"ALLOWED_ORIGINS: {_ORIGINS}"),
        ("ALLOWED_ORIGINS", "https://desk.example/", f"ALLOWED_ORIGINS: {_ORIGINS}"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "127.0.0.1:4318",
            "OTEL_EXPORTER_OTLP_ENDPOINT: expected an address such as http://127.0.0.1:4318",
        ),
        (
            "SWITCHBOARD_SECRET",
            "hunter2",
            "SWITCHBOARD_SECRET: expected at least 32 characters; `openssl rand -base64 32` makes such a secret",
        ),
    ],
)
async def test_a_mistyped_setting_is_told_in_words_of_those_who_set_it(variable: str, value: str, said: str) -> None:
    _, output = await invoke("serve", **{variable: value})
    [_, line] = output.splitlines()
    assert line.strip() == said


def test_names_in_a_file_that_are_nearly_settings_are_told_and_others_pass(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    known = ["PORT", "DATABASE_URL", "AWS_DEFAULT_REGION", "GATEWAY_TOKEN", "KAFKA_MCP_PORT", "SWITCHBOARD_SECRET"]
    others = ["POSTGRES_PASSWORD", "NODE_ENV", "COMPOSE_PROJECT_NAME", "EDITOR"]
    nearly = {
        "KAFKA_BOOTSTRAP_SERVER": "KAFKA_BOOTSTRAP_SERVERS",
        "DATABASE_ULR": "DATABASE_URL",
        "ALOWED_HOSTS": "ALLOWED_HOSTS",
        "AWS_ALLOWED_BUCKET": "AWS_ALLOWED_BUCKETS",
        "DB_MCP_PROT": "DB_MCP_PORT",
    }
    file.write_text("".join(f"{name}=hunter2\n" for name in (*known, *others, *nearly)))
    lines = misspelt(file, load_servers())
    assert lines == [
        f"{name} of {file} is no setting, and has no effect; did you mean {meant}?" for name, meant in nearly.items()
    ]
    assert misspelt(None, load_servers()) == []


# Commands by dotted name


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_command_is_where_the_table_says_and_takes_an_env_file(name: str) -> None:
    status, output = await invoke(name, "--help")
    assert status == 0
    assert "--env-file" in output


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_is_where_the_catalogue_says(name: str) -> None:
    [server] = load_servers([f"mcp_{name}"])
    assert server.server_id == name


async def test_variables_come_from_the_file_that_is_named_and_the_environment_goes_first(tmp_path: Path) -> None:
    (tmp_path / "variables").write_text("PORT=http\nLOG_LEVEL=verbose\n")
    status, output = await switchboard(
        tmp_path, "serve", "--env-file", str(tmp_path / "variables"), LOG_LEVEL="INFO", PORT=""
    )
    assert (status, "LOG_LEVEL" in output, "PORT" in output) == (2, False, True)
    (tmp_path / ".env").write_text("LOG_LEVEL=verbose\n")
    status, output = await switchboard(tmp_path, "serve")
    assert (status, "LOG_LEVEL" in output) == (2, True)
    status, output = await switchboard(tmp_path, "serve", "--env-file", "nowhere")
    assert (status, "nowhere" in output) == (2, True)


async def test_version_and_help_import_no_command() -> None:
    loaded = (
        "import sys; from app.cli.commands import switchboard; switchboard(['{}'], standalone_mode=False); "
        "print(sorted(sys.modules))"
    )
    for option in ("--version", "--help"):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", loaded.format(option), stdout=PIPE)
        output, _ = await process.communicate()
        modules = output.decode()
        assert "'app.cli.commands'" in modules
        for heavy in ("fastapi", "sqlalchemy", "pydantic", "mcp", "aiokafka"):
            assert f"'{heavy}'" not in modules


async def test_a_command_in_this_process_leaves_its_log_to_the_tests_that_follow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await invoke("doctor", "--env-file", os.devnull, PORT="0", DATABASE_READ_POOL_SIZE="0")
    logging.getLogger("app.cli").warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]


# Starts that fail


async def test_a_stack_that_can_not_start_says_why_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "aws").touch()
    status, output = await switchboard(tmp_path, "dev", "--port", "0", "--data-dir", str(tmp_path))
    assert status == 1
    assert f"\nError: [Errno 17] File exists: '{tmp_path}/aws'\n" in output
    assert "Traceback" not in output


async def test_each_reason_of_a_failure_is_a_line() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def start() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(fail(StartFailed("No Kafka.")))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(BackendUnavailable("No database.")))
                inner.create_task(fail(PermissionError(13, "Permission denied", "data")))
                inner.create_task(fail(KeyError("port")))

    with pytest.raises(click.ClickException) as failure:
        await asyncio.to_thread(run, start, StartFailed)
    *expected, unforeseen = sorted(failure.value.message.splitlines(), key=lambda line: "KeyError" in line)
    assert sorted(expected) == ["No Kafka.", "No database.", "[Errno 13] Permission denied: 'data'"]
    assert re.fullmatch(r"KeyError: 'port' \(.*test_cli.py:\d+; LOG_LEVEL=DEBUG shows how it came there\)", unforeseen)


# The configurations of MCP clients


async def test_a_desktop_client_gets_what_it_launches_by_absolute_paths(tmp_path: Path) -> None:
    variables = tmp_path / "my variables"
    variables.write_text("")
    status, output = await switchboard(tmp_path, "config", "claude-desktop", "--env-file", variables.name)
    assert status == 0, output
    launched = json.loads(output[output.index("{") :])["mcpServers"]["switchboard"]
    assert launched == {"command": SWITCHBOARD, "args": ["stdio", "--env-file", str(variables)]}


@pytest.mark.parametrize("by", ["directory", "variable", "env file"])
async def test_what_a_desktop_client_launches_elsewhere_reads_the_policy_that_is_in_effect(
    tmp_path: Path, by: str
) -> None:
    file = tmp_path / ("switchboard.toml" if by == "directory" else "my policy.toml")
    file.write_text("[auth]\n")
    (tmp_path / ".env").write_text(f"SWITCHBOARD_CONFIG={file.name!r}\n" if by == "env file" else "")
    variables = {"SWITCHBOARD_CONFIG": file.name} if by == "variable" else {}
    status, output = await switchboard(tmp_path, "config", "claude-desktop", **variables)
    assert status == 0, output
    launched = json.loads(output[output.index("{") :])["mcpServers"]["switchboard"]
    assert launched["env"] == {"SWITCHBOARD_CONFIG": str(file), "SWITCHBOARD_TOKEN": "YOUR_KEY"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = {**launched["env"], "SWITCHBOARD_TOKEN": ""}
    status, refused = await switchboard(elsewhere, *launched["args"], **given)
    assert (status, "keys are asked for" in refused) == (2, True), refused


async def test_who_launches_a_process_by_the_role_of_the_policy_is_told_of_no_key(tmp_path: Path) -> None:
    file = tmp_path / "switchboard.toml"
    file.write_text('[auth]\nlocal_role = "developer"\n')
    status, output = await switchboard(tmp_path, "config", "claude-desktop")
    launched = json.loads(output[output.index("{") :])["mcpServers"]["switchboard"]
    assert (status, launched["env"]) == (0, {"SWITCHBOARD_CONFIG": str(file)})
    assert "YOUR_KEY" not in output


async def test_a_configuration_leads_to_the_gateway_that_make_run_has_started(tmp_path: Path) -> None:
    (tmp_path / ".switchboard").mkdir()
    (tmp_path / ".switchboard" / "env").write_text("GATEWAY_URL=http://127.0.0.1:18658\n")
    for variables, port in ({}, 18658), ({"PORT": "8123"}, 8123), ({"GATEWAY_URL": "http://127.0.0.1:1, x"}, 1):
        status, output = await switchboard(tmp_path, "config", "claude-code", **variables)
        assert (status, f"http://127.0.0.1:{port}/mcp" in output) == (0, True), output


async def test_a_configuration_leads_to_where_the_policy_says_that_callers_reach_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "switchboard.toml").write_text('[auth]\npublic_url = "https://support.example/mcp/"\n')
    public, own = "https://support.example/mcp/mcp", "http://127.0.0.1:1/mcp"
    for options, variables, address in (
        ((), {}, public),
        ((), {"PORT": "8123"}, public),
        ((), {"GATEWAY_URL": "http://127.0.0.1:1"}, own),
        (("--url", own), {}, own),
    ):
        status, output = await switchboard(tmp_path, "config", "claude-code", *options, **variables)
        assert (status, f"switchboard {address} --header" in output) == (0, True), output


@pytest.mark.parametrize(
    ("client", "config"),
    [
        ("claude-code", "claude mcp add --transport http switchboard http://127.0.0.1:8123/mcp"),
        ("cursor", {"mcpServers": {"switchboard": {"url": "http://127.0.0.1:8123/mcp"}}}),
        ("vscode", {"servers": {"switchboard": {"type": "http", "url": "http://127.0.0.1:8123/mcp"}}}),
    ],
)
async def test_each_client_gets_the_form_that_it_takes(tmp_path: Path, client: str, config: object) -> None:
    status, output = await switchboard(tmp_path, "config", client, PORT="8123")
    _, _, text = output.partition("\n")
    assert status == 0
    assert (text.strip() if isinstance(config, str) else json.loads(text)) == config


@pytest.mark.parametrize(
    ("client", "place"),
    [
        ("claude-code", '--header "Authorization: Bearer YOUR_KEY"'),
        ("claude-desktop", '"SWITCHBOARD_TOKEN": "YOUR_KEY"'),
        ("cursor", '"Authorization": "Bearer YOUR_KEY"'),
        ("vscode", '"Authorization": "Bearer YOUR_KEY"'),
    ],
)
async def test_where_keys_are_asked_for_a_configuration_says_where_one_goes_and_holds_none(
    tmp_path: Path, client: str, place: str
) -> None:
    token, key = mint(frozenset({"developer"}))
    status, output = await switchboard(
        tmp_path, "config", client, SWITCHBOARD_FIRST_KEY=as_first_key(key), SWITCHBOARD_TOKEN=token
    )
    assert (status, place in output, "switchboard keys create" in output) == (0, True, True), output
    assert token not in output
    (tmp_path / "switchboard.toml").write_text("[auth]\n")
    status, output = await switchboard(tmp_path, "config", client)
    assert (status, place in output) == (0, True), output


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        status, output = await switchboard(tmp_path, "serve", "--port", str(port))
    assert status == 1
    assert f"Can't listen on 127.0.0.1:{port}" in output
    assert "Traceback" not in output


# `switchboard serve`


async def test_one_server_is_served_on_its_own_address_until_sigterm(
    demo_database: TestDatabase, tmp_path: Path
) -> None:
    port = free_port()
    variables = {
        "DATABASE_URL": demo_database.url,
        "DATABASE_READER_URL": demo_database.reader_url,
        "DB_MCP_HOST": "127.0.0.1",
        "DB_MCP_PORT": str(port),
        "PORT": "1",
    }
    async with running(tmp_path, "serve", "--server", "database", **variables) as process:
        await answers(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=30) as http:
            assert [server["id"] for server in (await http.get("/mcp")).json()["servers"]] == ["database"]
        async with connect(f"ws://127.0.0.1:{port}") as socket:
            messages = Messages(socket)
            arguments: JsonObject = {"name": "get_customer_context", "arguments": {"customer_id": "12345"}}
            answer = await messages.ask(request("2026-07-28", "tools/call", arguments))
            assert answer["result"]["structuredContent"]["customer"]["id"] == "12345"
            # A query that runs and a socket that is open keep nobody from stopping.
            slow: JsonObject = {"name": "query_database", "arguments": {"query": SLOW}}
            await messages.send(request("2026-07-28", "tools/call", slow, number=2))
            await until_running(demo_database, 1)
            output = await stop(process, signal.SIGTERM)
        await until_running(demo_database, 0)
    assert process.returncode == 0, output
    assert "Traceback" not in output


async def test_a_gateway_is_served_with_nothing_configured(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, "serve", "--port", str(port)) as process:
        await answers(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=30) as http:
            problem = (await http.post("/mcp/database/tools/get_analytics")).json()
            assert problem["code"] == "backend_not_configured"
            assert "DATABASE_URL" in problem["detail"]
        output = await stop(process, signal.SIGTERM)
    assert process.returncode == 0, output
    assert "Traceback" not in output


async def test_the_start_is_one_line_and_an_outage_another(postgres_directory: Path, tmp_path: Path) -> None:
    port, backend_port = free_port(), free_port()
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(run_postgres(postgres_directory, port=backend_port, durable=False))
        url = backend.url()
        await migrate(url)
        variables = {"DATABASE_URL": url, "AWS_EC2_METADATA_DISABLED": "true", "BACKEND_CHECK_INTERVAL": "0.2"}
        (tmp_path / ".env").write_text("DATABASE_STATEMENT_TIMEOT=3\n")
        async with running(tmp_path, "serve", "--port", str(port), **variables) as process:
            warning = await told(process, "DATABASE_STATEMENT_TIMEOT of")
            assert "WARNING" in warning
            assert "did you mean DATABASE_STATEMENT_TIMEOUT?" in warning
            start = await told(process, "Switchboard ")
            assert f" on http://127.0.0.1:{port}: database ready" in start
            assert "kafka not configured: KAFKA_BOOTSTRAP_SERVERS" in start
            assert "aws not configured: AWS_REGION" in start
            assert "at most 256 calls" in start
            assert backend.password not in start
            # Nobody calls, and the log tells all the same.
            await stack.aclose()
            down = await told(process, " is down: ")
            assert "WARNING MCP.Database MCP Server" in down
            async with run_postgres(postgres_directory, port=backend_port, durable=False):
                assert "INFO    MCP.Database MCP Server" in await told(process, " answers again, after ")
                output = await stop(process, signal.SIGTERM)
    assert process.returncode == 0, output
    assert " is down: " not in output
    assert "uvicorn" not in output


async def told(process: Process, words: str) -> str:
    """Wait for a line of the log."""
    assert process.stdout is not None
    async with asyncio.timeout(STARTS_WITHIN):
        while line := (await process.stdout.readline()).decode():
            if words in line:
                return line
    raise AssertionError(f"it ended without telling of {words!r}")


async def test_all_servers_have_ports_of_their_own_and_one_process(demo_database: TestDatabase, tmp_path: Path) -> None:
    ports = {"database": free_port(), "kafka": free_port(), "aws": free_port()}
    variables = {f"{'DB' if name == 'database' else name.upper()}_MCP_PORT": str(p) for name, p in ports.items()}
    variables |= {"DATABASE_URL": demo_database.url, "AWS_EC2_METADATA_DISABLED": "true"}
    async with running(tmp_path, "serve", "--all-ports", **variables) as process:
        for name, port in ports.items():
            await answers(port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=30) as http:
                assert [server["id"] for server in (await http.get("/mcp")).json()["servers"]] == [name]
        async with connect(f"ws://127.0.0.1:{ports['database']}") as socket:
            arguments: JsonObject = {"name": "get_customer_context", "arguments": {"customer_id": "12345"}}
            answer = await Messages(socket).ask(request("2026-07-28", "tools/call", arguments))
            assert answer["result"]["structuredContent"]["customer"]["id"] == "12345"
        # It comes when each backend was looked at, which may be after the first answers.
        await told(process, "Switchboard ")
        output = await stop(process, signal.SIGINT)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "Switchboard " not in output


async def test_a_port_in_use_among_several_is_named_with_its_variable(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        free = {"DB_MCP_PORT": str(free_port()), "AWS_MCP_PORT": str(free_port())}
        status, output = await switchboard(tmp_path, "serve", "--all-ports", KAFKA_MCP_PORT=str(port), **free)
    assert status == 1
    assert f"Can't listen on 127.0.0.1:{port}" in output
    assert "KAFKA_MCP_PORT" in output
    assert "Traceback" not in output
    status, output = await invoke("serve", "--all-ports", "--port", "8000")
    assert (status, "--all-ports" in output) == (2, True)


# `switchboard stdio`


async def test_a_desktop_client_launches_the_database_server(demo_database: TestDatabase, tmp_path: Path) -> None:
    variables = environment(DATABASE_URL=demo_database.url, DATABASE_READER_URL=demo_database.reader_url)
    parameters = StdioServerParameters(command=SWITCHBOARD, args=["stdio", "database"], env=variables, cwd=tmp_path)
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == list(DatabaseMCPServer.tools)
            for name, tool in DatabaseMCPServer.tools.items():
                result = await client.call_tool(name, tool.example or {})
                assert not result.is_error, result
            [content] = (await client.read_resource("db://customers/12345")).contents
            assert '"id":"12345"' in content.text  # type: ignore[union-attr]
    assert "face=stdio" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("era", ERAS)
async def test_a_query_over_stdio_ends_with_a_notification_and_with_the_input(
    demo_database: TestDatabase, tmp_path: Path, era: str
) -> None:
    variables = environment(DATABASE_URL=demo_database.url, DATABASE_READER_URL=demo_database.reader_url)
    slow: JsonObject = {"name": "query_database", "arguments": {"query": SLOW}}
    cancel: JsonObject = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with launched(era, [SWITCHBOARD, "stdio", "database"], env=variables, cwd=tmp_path) as pipe:
        await pipe.send(request(era, "tools/call", slow, number=1))
        await until_running(demo_database, 1, within=STARTS_WITHIN)
        await pipe.send(cancel)
        await until_running(demo_database, 0, within=GONE_WITHIN)
        await pipe.send(request(era, "tools/call", {**slow, "arguments": {"query": SLOW, "timeout_ms": 200}}, number=2))
        while (answer := await pipe.receive()).get("id") != 2:
            pass
        assert "backend_timeout" in answer["result"]["content"][0]["text"]
        await until_running(demo_database, 0, within=GONE_WITHIN)
        # What was asked before the end of the input is still answered, by its time limit at the latest.
        await pipe.send(
            request(era, "tools/call", {**slow, "arguments": {"query": SLOW, "timeout_ms": 2000}}, number=3)
        )
        await until_running(demo_database, 1)
        pipe.stdin.close()
        while (answer := await pipe.receive()).get("id") != 3:
            pass
        assert "backend_timeout" in answer["result"]["content"][0]["text"]
        await until_running(demo_database, 0, within=GONE_WITHIN)
        async with asyncio.timeout(STOPS_WITHIN):
            assert await pipe.process.wait() == 0


async def test_a_query_ends_when_the_gateway_is_killed(demo_database: TestDatabase, tmp_path: Path) -> None:
    variables = environment(DATABASE_READER_URL=demo_database.reader_url)
    slow: JsonObject = {"name": "query_database", "arguments": {"query": SLOW}}
    async with launched(ERAS[0], [SWITCHBOARD, "stdio", "database"], env=variables, cwd=tmp_path) as pipe:
        await pipe.send(request(ERAS[0], "tools/call", slow))
        await until_running(demo_database, 1, within=STARTS_WITHIN)
        pipe.process.kill()
        await until_running(demo_database, 0, within=5.0)


# `switchboard dev`


async def _welcome(process: Process) -> str:
    """Return what a newcomer reads, to its last line."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(STARTS_WITHIN):
        while not (lines and lines[-1].strip().startswith(_READY)):
            line = await process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line.decode())
    return "".join(lines)


async def _verbatim(command: str) -> dict[str, Any]:
    """Run a command as it was printed, in a shell; return the JSON that it answers."""
    shell = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=PIPE)
    async with asyncio.timeout(WITHIN):
        output, _ = await shell.communicate()
    answer: dict[str, Any] = httpx.Response(200, content=output).json()
    return answer


@pytest.mark.timeout(240)
async def test_a_newcomer_starts_stops_and_starts_again_on_the_same_data(
    postgres_directory: Path, tmp_path: Path
) -> None:
    command = ("dev", "--port", "0", "--data-dir", str(postgres_directory))
    policy = tmp_path / "switchboard.toml"
    policy.write_text("[auth]\n")
    told = {"customer_id": "12345", "query_text": "Will you remember this?", "idempotency_key": "a-newcomer"}
    saved: list[Any] = []
    addresses: list[set[str]] = []
    for _ in range(2):
        async with running(tmp_path, *command) as process:
            welcome = await _welcome(process)
            found = re.search(r"curl -s .*\\\n.*", welcome)
            assert found, welcome
            articles = (await _verbatim(found[0]))["articles"]
            assert "password" in articles[0]["title"].lower()
            address = re.search(r"Home +http://127\.0\.0\.1:(\d+)\n", welcome)
            assert address, welcome
            assert "(EMBEDDINGS=e5-small)" in welcome
            # `dev` asks nobody for a key, but what a desktop client launches does.
            assert f'"SWITCHBOARD_CONFIG": "{policy}"' in welcome
            assert '"SWITCHBOARD_TOKEN": "YOUR_KEY"' in welcome
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}", verify=False, timeout=30) as http:
                assert (await http.get("/docs")).status_code == 200
                # The key is known from the first time: it answers what was stored then.
                answer = await http.post("/mcp/database/tools/save_interaction", json=told)
                saved.append(answer.json()["interaction"])
            environment = (postgres_directory / "env").read_text().splitlines()
            addresses.append({line for line in environment if not line.startswith("GATEWAY_URL=")})
            assert psutil.Process(process.pid).children(), "the stack runs in processes of its own"
            status, refused = await switchboard(tmp_path, *command)
            assert (status, len(refused.strip().splitlines())) == (1, 2), refused
            assert f"a local stack runs on {postgres_directory} already" in refused
            assert "choose another --data-dir" in refused
            output = await stop(process, signal.SIGINT)
        assert process.returncode == 0, output
        assert "Traceback" not in welcome + output
    assert saved[0] == saved[1]
    assert addresses[0] == addresses[1], "what a desktop client has launched works on after a restart"
