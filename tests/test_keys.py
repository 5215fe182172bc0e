"""`switchboard keys`, and what `serve` and `stdio` do with and without them: processes of their own."""

import asyncio
import json
import os
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from app.cli.commands import switchboard
from app.guard.key_file import as_first_key
from app.guard.keys import STORED_KEYS, StoredKey, mint
from app.local.postgres import LocalPostgres
from app.local.process import free_port
from tests.faces.raw import STARTS_WITHIN, launched
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.test_cli import SWITCHBOARD, environment

AUTH = """
[auth]
[role.support_agent]
allow = ["database:read"]
[role.bot]
bound = "customer"
allow = ["database:read"]
"""


async def run(directory: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run a command to its end; return its status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, *arguments, stdout=PIPE, stderr=PIPE, cwd=directory, env=clean(**variables)
    )
    async with asyncio.timeout(STARTS_WITHIN):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def clean(**variables: str) -> dict[str, str]:
    return {
        name: value for name, value in environment(**variables).items() if not name.startswith("SWITCHBOARD_")
    } | variables


@asynccontextmanager
async def served(directory: Path, *arguments: str, **variables: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Run `switchboard serve` until the block ends."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, "serve", "--port", str(port), *arguments, stderr=DEVNULL, cwd=directory, env=clean(**variables)
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            ended = asyncio.ensure_future(process.wait())
            async with asyncio.timeout(STARTS_WITHIN):
                while not await answers(http):
                    await asyncio.wait({ended}, timeout=0.05)
                    assert process.returncode is None
            yield http
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def status(http: httpx.AsyncClient, token: str = "") -> int:
    """Return how a key is answered, once where it is kept has been asked: to a busy machine it may seem away."""
    fields = {"authorization": f"Bearer {token}"} if token else {}
    while (answer := await http.get("/mcp", headers=fields)).status_code == 503:
        pass
    return answer.status_code


async def refused(http: httpx.AsyncClient, token: str) -> None:
    """Return once a key is refused, which is asked again and again."""
    while await status(http, token) != 401:
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gateway.example"])
async def test_another_address_without_keys_is_refused_with_the_three_ways_out(tmp_path: Path, host: str) -> None:
    code, _, err = await run(tmp_path, "serve", "--host", host)
    assert code == 2
    for way in ("[auth]", "loopback", "--allow-anonymous"):
        assert way in err


async def test_a_server_with_an_address_of_its_own_is_no_way_around(tmp_path: Path) -> None:
    code, _, err = await run(tmp_path, "serve", "--server", "kafka", KAFKA_MCP_HOST="0.0.0.0")
    assert (code, "--allow-anonymous" in err) == (2, True)


@pytest.mark.parametrize("way", ["option", "variable"])
async def test_everybody_is_let_in_where_the_operator_says_so(tmp_path: Path, way: str) -> None:
    arguments = ["--allow-anonymous"] if way == "option" else []
    variables = {} if way == "option" else {"SWITCHBOARD_ALLOW_ANONYMOUS": "true"}
    async with served(tmp_path, "--host", "0.0.0.0", *arguments, **variables) as http:
        assert await status(http) == 200


async def test_keys_and_everybody_are_not_asked_for_together(tmp_path: Path) -> None:
    (tmp_path / "switchboard.toml").write_text("[auth]\n")
    code, _, err = await run(tmp_path, "serve", "--allow-anonymous", SWITCHBOARD_KEY_FILE="keys.json")
    assert (code, "Take one of them out" in err) == (2, True)


async def test_auth_without_any_place_for_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "switchboard.toml").write_text("[auth]\n")
    code, _, err = await run(tmp_path, "serve")
    assert (code, "SWITCHBOARD_KEY_FILE" in err) == (2, True)


async def test_a_container_runs_from_the_environment_alone(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "keys", "create", "--role", "developer", "--as-variable")
    assert code == 0
    variables = dict(line.split("=", 1) for line in out.splitlines())
    first = {"SWITCHBOARD_FIRST_KEY": variables["SWITCHBOARD_FIRST_KEY"]}
    async with served(tmp_path, "--host", "0.0.0.0", **first) as http:
        assert await status(http) == 401
        assert await status(http, variables["SWITCHBOARD_TOKEN"]) == 200


async def test_what_is_served_tells_callers_of_the_address_in_the_policy(tmp_path: Path) -> None:
    (tmp_path / "switchboard.toml").write_text('[auth]\npublic_url = "https://support.example/gw/"\n')
    _, out, _ = await run(tmp_path, "keys", "create", "--role", "developer", "--as-variable")
    variables = dict(line.split("=", 1) for line in out.splitlines())
    async with served(tmp_path, SWITCHBOARD_FIRST_KEY=variables["SWITCHBOARD_FIRST_KEY"]) as http:
        fields = {"authorization": f"Bearer {variables['SWITCHBOARD_TOKEN']}", "host": "support.example"}
        assert (await http.get("/console/connect", headers=fields)).json()["url"] == "https://support.example/gw"


@pytest.mark.parametrize("store", ["database", "file"])
async def test_keys_are_made_listed_replaced_and_revoked_while_two_gateways_run(
    tmp_path: Path, database: TestDatabase, store: str
) -> None:
    (tmp_path / "switchboard.toml").write_text(AUTH)
    variables = {"DATABASE_URL": database.url, "DATABASE_READER_URL": database.reader_url}
    if store == "file":
        variables["SWITCHBOARD_KEY_FILE"] = str(tmp_path / "keys.json")
    code, out, err = await run(tmp_path, "keys", "create", "--role", "support_agent", "--expires", "30d", **variables)
    assert code == 0, err
    token = out.strip()
    key_id = token.split("_")[1]
    assert token not in err
    async with served(tmp_path, **variables) as one, served(tmp_path, **variables) as two:
        assert [await status(http, token) for http in (one, two)] == [200, 200]
        _, listing, _ = await run(tmp_path, "keys", "list", **variables)
        assert key_id in listing
        assert token.split("_", 2)[2] not in listing
        _, out, _ = await run(tmp_path, "keys", "rotate", key_id, **variables)
        renewed = out.strip()
        async with asyncio.timeout(STARTS_WITHIN):
            for http in (one, two):
                assert await status(http, renewed) == 200
                await refused(http, token)
        code, _, _ = await run(tmp_path, "keys", "revoke", renewed.split("_")[1], **variables)
        assert code == 0
        async with asyncio.timeout(STARTS_WITHIN):
            for http in (one, two):
                await refused(http, renewed)
    _, listing, _ = await run(tmp_path, "keys", "list", **variables)
    assert listing.count("revoked") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--role", "suport_agent"), "has no role"),
        (("--role", "bot"), "--customer"),
        (("--role", "support_agent", "--expires", "soon"), "30d"),
        (("--role", "support_agent", "--customer", "a/b"), "slashes"),
        *(
            (("--role", "support_agent", option, name), "hidden characters")
            for option in ("--customer", "--tenant")
            for name in (
                "..",
                "a\u202eb",
                "a%2fb",
                "a\uff0fb",
                "a\udcffb",
                "a b",
                "",
                "\uff11",
                "e\u0301",
                "1\u034f2",
                "\u3164",
            )
        ),
        ((), "--role"),
        (("--role", "Support"), "can't be the name of a role"),
        (("--role", ""), "can't be the name of a role"),
        (("--role", "support_agent", "--expires", "0d"), "30d"),
        (("--role", "support_agent", "--expires", ""), "30d"),
        (("--role", "support_agent", "--customer", "a" * 65), "1 to 64"),
        (("--role", "support_agent", "--as-variable", "--expires", "1d"), "want a store"),
        (("--role", "support_agent", "--rights"), "No such option"),
        (("--role", "support_agent", "more"), "unexpected extra argument"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "switchboard.toml").write_text(AUTH)
    file = tmp_path / "keys.json"
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env={"SWITCHBOARD_KEY_FILE": str(file)}).invoke(switchboard, ["keys", "create", *arguments])
    assert (result.exit_code, reason in result.output) == (2, True), result.output
    assert not file.exists()


class Kept:
    """A file of keys, and the commands that change it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, *keys: StoredKey) -> None:
        self.file.write_text(json.dumps({"keys": STORED_KEYS.dump_python(list(keys), mode="json")}))

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        result = CliRunner(env={"SWITCHBOARD_KEY_FILE": str(self.file), **variables}).invoke(
            switchboard, ["keys", *arguments]
        )
        return result.exit_code, result.output


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.chdir(tmp_path)
    return Kept(tmp_path / "keys.json")


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_key_that_can_not_be_changed_is_told_why(kept: Kept, command: str) -> None:
    roles = frozenset({"developer"})
    first, expired = mint(roles)[1], mint(roles, expires_at=1.0)[1]
    kept.write(expired)
    for key_id in ("abcdefghijkl", "", "sb_", "sb_abcdefghijkl_secret", "../keys"):
        status, said = kept.run(command, key_id)
        assert (status, "There is no key of that id" in said, "secret" in said) == (1, True, False)
    status, said = kept.run(command, first.id, SWITCHBOARD_FIRST_KEY=as_first_key(first))
    assert (status, "SWITCHBOARD_FIRST_KEY: change the variable" in said, first.hash in said) == (1, True, False)
    status, said = kept.run(command, expired.id)
    assert (status, "expired" in said) == ((1, True) if command == "rotate" else (0, False))
    status, said = kept.run(command)
    assert (status, "Missing argument 'ID'" in said) == (2, True)


def test_a_key_has_each_role_once(kept: Kept) -> None:
    status, said = kept.run("create", *["--role", "developer"] * 3)
    assert (status, " of developer." in said) == (0, True)
    [key] = json.loads(kept.file.read_text())["keys"]
    assert key["roles"] == ["developer"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"keys": [{"id": 5}]}', b'{"keys": {}}', b"\xff"])
@pytest.mark.parametrize("command", [["list"], ["create", "--role", "developer"], ["revoke", "abcdefghijkl"]])
def test_a_file_that_holds_something_else_is_told_and_stays(kept: Kept, content: bytes, command: list[str]) -> None:
    kept.file.write_bytes(content)
    status, said = kept.run(*command)
    assert (status, str(kept.file) in said, "Traceback" in said) == (1, True, False)
    assert kept.file.read_bytes() == content


def test_a_folder_that_is_not_there_or_can_not_be_written_is_told(kept: Kept) -> None:
    for file in (kept.file / "none" / "keys.json", kept.file.parent):
        status, said = Kept(file).run("create", "--role", "developer")
        assert (status, "SWITCHBOARD_KEY_FILE" in said, "Traceback" in said) == (1, True, False), said


async def test_who_launches_a_process_shows_a_key_or_has_the_files_role(tmp_path: Path) -> None:
    keys = {"SWITCHBOARD_KEY_FILE": str(tmp_path / "keys.json")}
    code, out, _ = await run(tmp_path, "keys", "create", "--role", "developer", **keys)
    assert code == 0
    token = out.strip()
    code, _, err = await run(tmp_path, "stdio", "kafka", **keys)
    assert (code, "SWITCHBOARD_TOKEN" in err) == (2, True)
    code, _, err = await run(tmp_path, "stdio", "kafka", **keys, SWITCHBOARD_TOKEN=f"{token[:-1]}!")
    assert (code, token[:-1] in err) == (1, False)
    variables = clean(**keys, SWITCHBOARD_TOKEN=token, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    command = (SWITCHBOARD, "stdio", "kafka")
    async with launched("2025-11-25", command, cwd=tmp_path, env=variables) as pipe:
        listing = await pipe.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
        assert listing["result"]["tools"]
        await run(tmp_path, "keys", "revoke", token.split("_")[1], **keys)
        async with asyncio.timeout(STARTS_WITHIN):
            assert await pipe.process.wait() == 1
    (tmp_path / "switchboard.toml").write_text('[auth]\nlocal_role = "developer"\n')
    async with launched("2025-11-25", command, cwd=tmp_path, env=clean(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")) as pipe:
        listing = await pipe.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
        assert listing["result"]["tools"]


async def test_the_lines_of_the_readme_secure_a_gateway(tmp_path: Path, postgres_server: LocalPostgres) -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text()
    block = readme.partition("These lines secure it")[2].partition("```console\n")[2].partition("```")[0]
    prepare, serve, ask, revoke = re.split(
        r"^(?=\$ (?:switchboard serve|curl|switchboard keys))", block, flags=re.MULTILINE
    )
    port = free_port()
    environment = clean(PORT=str(port), PATH=f"{Path(SWITCHBOARD).parent}:{os.environ['PATH']}")

    def script(lines: str, **words: str) -> list[str]:
        lines = re.sub(r"^\$ ", "", lines, flags=re.MULTILINE)
        for word, meant in words.items():
            assert word in lines
            lines = lines.replace(word, meant)
        return ["bash", "-ec", lines]

    async def outcome(lines: str, **words: str) -> tuple[int, str]:
        command = script(lines, **words)
        ended = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=DEVNULL, cwd=tmp_path, env=environment
        )
        async with asyncio.timeout(STARTS_WITHIN):
            out, _ = await ended.communicate()
        assert ended.returncode is not None
        return ended.returncode, out.decode()

    async with cloned_database(postgres_server, None) as database:
        to_serve = f"{prepare}exec {serve.removeprefix('$ ')}"
        command = script(to_serve, **{"postgresql://…": database.url})
        gateway = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=DEVNULL, cwd=tmp_path, env=environment
        )
        try:
            assert gateway.stdout is not None
            said: list[str] = []
            async with asyncio.timeout(STARTS_WITHIN * 2):
                while not said or not said[-1].startswith("sb_"):
                    said.append((await gateway.stdout.readline()).decode())
                    assert said[-1], said
                key = said[-1].strip()
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                    while not await answers(http):
                        assert gateway.returncode is None
                    assert await status(http) == 401
                    here = {"curl": f"curl --connect-to switchboard.example:8000:127.0.0.1:{port}"}  # by its own name
                    code, listing = await outcome(ask, **here, **{"$KEY": key})
                    assert (code, '"database"' in listing) == (0, True), listing
                    environment["DATABASE_URL"] = database.url
                    assert (await outcome(revoke, ID=key.split("_")[1]))[0] == 0
                    await refused(http, key)
        finally:
            if gateway.returncode is None:
                gateway.terminate()
            await gateway.communicate()
