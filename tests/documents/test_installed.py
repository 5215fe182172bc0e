"""What operators install: the wheel, and the image, each with the packages of `requirements.lock` and no others.

There is no Docker engine here: the Dockerfile's instructions are followed one by one, its `RUN pip install` by taking
the very packages of the lock out of the environment of the tests.
"""

import asyncio
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from app.local.postgres import LocalPostgres
from app.local.process import free_port
from tests.documents.blocks import ROOT
from tests.documents.reader import serving
from tests.fixtures.postgres import TestDatabase, cloned_database

_OURS = ("SERVERS", "DATABASE_", "DB_MCP_", "KAFKA_", "AWS_", "ALLOWED_", "HOST", "PORT", "LOG_", "MAX_", "PYTHON")


@dataclass(frozen=True)
class Installation:
    """Something that was installed, in a directory that is no checkout."""

    command: list[str]
    """How `switchboard` is called."""
    agents: list[str]
    """How the agents are called."""
    environment: Mapping[str, str]
    directory: Path

    async def run(self, *arguments: str, agents: bool = False, status: int = 0, **variables: str) -> str:
        """Run a command to its end; return what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(self.agents if agents else self.command),
            *arguments,
            cwd=self.directory,
            env={**self.environment, **variables},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        )
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
        assert process.returncode == status, output.decode()
        return output.decode()


def install_locked_packages(directory: Path) -> Path:
    """Make an environment of the packages that `requirements.lock` pins; return where packages are."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    packages = next(directory.glob("lib/python*/site-packages"))
    lock = (ROOT / "requirements.lock").read_text()
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE):
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        assert package.version == version, f"{name} {package.version} is installed; run make test again"
        for entry in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(str(package.locate_file(entry)))
    return packages


def bare_environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | variables


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, installed by uv without any index."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True)
    [built] = directory.glob("*.whl")
    install_locked_packages(directory / "environment")
    programs = directory / "environment" / "bin"
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run([*uv, "--python", str(programs / "python"), str(built)], check=True)
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    return Installation(
        [str(programs / "switchboard")], [str(programs / "python"), "-m", "agents"], bare_environment(), elsewhere
    )


def instructions(stage: int) -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions of a stage."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    starts = [number for number, (name, _) in enumerate(lines) if name == "FROM"]
    return [(name, rest) for name, rest in lines[starts[stage] : [*starts, None][stage + 1]]]


def context_of_build(directory: Path) -> None:
    """Copy what `.dockerignore` lets through, by git, whose patterns are turned round."""
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    wanted = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    unwanted = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    for pattern in wanted:
        for path in ROOT.glob(pattern.replace("/**", "/**/*")):
            place = path.relative_to(ROOT)
            hidden = any(place.is_relative_to(rule) or rule in place.parts for rule in unwanted)
            if path.is_file() and not hidden:
                (directory / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, directory / place)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The image, with a root of its own in place of `/`."""
    root = tmp_path_factory.mktemp("image")
    context = tmp_path_factory.mktemp("context")
    context_of_build(context)
    [install] = [rest for name, rest in instructions(0) if name == "RUN" and "install" in rest]
    assert install == "/opt/switchboard/bin/pip install --require-hashes -r $LOCK"
    assert ("ARG", "LOCK=requirements.lock") in instructions(0)
    assert all((context / lock).is_file() for lock in ("requirements.lock", "requirements-semantic.lock"))
    install_locked_packages(root / "opt" / "switchboard")
    environment: dict[str, str] = {}
    place = root
    command: list[str] = []
    for name, rest in instructions(1):
        if name == "WORKDIR":
            place = root / rest.removeprefix("/")
            place.mkdir(parents=True)
        elif name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                to = root / target.removeprefix("/") if target.startswith("/") else place / target
                if (context / source).is_dir():
                    shutil.copytree(context / source, to)
                else:
                    to = to / source if target.endswith("/") else to
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(context / source, to)
        elif name == "ENV":
            for variable, value in (
                pair.split("=", 1) for pair in shlex.split(rest.replace("$PATH", os.environ["PATH"]))
            ):
                environment[variable] = re.sub(r"(^|:)/(opt|srv)/", rf"\1{root}/\2/", value)
        elif name == "ENTRYPOINT":
            command = json.loads(rest)
    script = root / "usr" / "local" / "bin" / command[0]
    assert os.access(ROOT / "docker" / "switchboard", os.X_OK)
    script.chmod(0o755)
    return Installation([str(script)], [str(script), "agents"], bare_environment(**environment), place)


@pytest.fixture(scope="module")
def healthy(image: Installation) -> Callable[[int], Awaitable[tuple[int, str]]]:
    """The image's health check on one process: its status, and what it says."""
    [check] = [rest for name, rest in instructions(1) if name == "HEALTHCHECK"]
    program, script = json.loads(check.partition(" CMD ")[2])
    assert program == "python"
    root = Path(image.command[0]).parents[3]

    async def check_process(pid: int) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, f"{root}{script}", str(pid), env=dict(image.environment), stdout=PIPE, stderr=STDOUT
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    return check_process


@pytest.fixture(params=["wheel", "image"])
def installed(request: pytest.FixtureRequest) -> Installation:
    """Each way to install."""
    installation: Installation = request.getfixturevalue(request.param)
    return installation


@pytest.fixture
async def empty(postgres_server: LocalPostgres) -> AsyncGenerator[TestDatabase]:
    """A database without any table."""
    async with cloned_database(postgres_server, None) as database:
        yield database


@pytest.mark.timeout(300)
async def test_what_is_installed_migrates_seeds_serves_and_has_agents(
    installed: Installation, empty: TestDatabase, tmp_path: Path
) -> None:
    address = {"DATABASE_URL": empty.url}
    assert "up to date" in await installed.run("migrate", DATABASE_URL=empty.url)
    assert "Loaded 300 customers" in await installed.run("seed", DATABASE_URL=empty.url)
    port = str(free_port())
    variables = {**installed.environment, **address, "PORT": port, "HOST": "127.0.0.1"}
    script = f"exec {shlex.join(installed.command)} serve"
    async with (
        serving(script, installed.directory, variables, int(port), tmp_path / "log"),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        assert (await http.get("/health")).status_code == 200
        query = {"query": "SELECT count(*) AS customers FROM customers"}
        answer = (await http.post("/mcp/database/tools/query_database", json=query)).json()
        assert answer["rows"] == [{"customers": 300}]
        guides = [guide["name"] for guide in (await http.get("/console/connect")).json()["guides"]]
        assert {path.name for path in (ROOT / "docs").glob("*.md")} == set(guides)
        assert (await http.get(f"/console/guides/{guides[0]}")).text.startswith("# ")
        for path in ("/", "/docs", "/redoc", "/console/swagger/swagger-ui-bundle.js", "/favicon.ico"):
            assert (await http.get(path)).status_code == 200
        # Kafka is not there: the demo says so, and answers all the same.
        shown = await installed.run("demo", "--gateway", f"http://127.0.0.1:{port}", agents=True, status=1)
        assert "Reset or change your password" in shown


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ("serve", {"HOST": "127.0.0.1", "PORT": "{port}"}),
        ("serve", {"HOST": "::1", "PORT": "{port}", "METRICS_PORT": "{other}"}),
        ("serve --host 127.0.0.1 --port {port}", {}),
        ("serve --server database", {"DB_MCP_HOST": "127.0.0.1", "DB_MCP_PORT": "{port}"}),
        (
            "serve --all-ports",
            {
                "SERVERS": "database,kafka",
                "DB_MCP_HOST": "127.0.0.1",
                "DB_MCP_PORT": "{port}",
                "KAFKA_MCP_HOST": "127.0.0.1",
                "KAFKA_MCP_PORT": "{other}",
            },
        ),
        ("agents all --port {port}", {}),
    ],
)
async def test_the_health_check_of_the_image_asks_wherever_its_command_listens(
    image: Installation,
    healthy: Callable[[int], Awaitable[tuple[int, str]]],
    arguments: str,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    ports = {"port": str(free_port()), "other": str(free_port())}
    environment = {**image.environment, **{name: value.format(**ports) for name, value in variables.items()}}
    script = f"exec {shlex.join(image.command)} {arguments.format(**ports)}"
    # Of the second case, what listens on 127.0.0.1 is /metrics.
    port = ports["other" if variables.get("HOST") == "::1" else "port"]
    async with serving(script, image.directory, environment, int(port), tmp_path / "log") as process:
        assert await healthy(process.pid) == (0, "")
        process.send_signal(signal.SIGSTOP)
        try:
            status, said = await healthy(process.pid)
        finally:
            process.send_signal(signal.SIGCONT)
    assert status == 1
    assert said.startswith("no answer at ")


async def test_the_health_check_of_the_image_waits_for_a_server_and_for_nothing_else(
    healthy: Callable[[int], Awaitable[tuple[int, str]]],
) -> None:
    for command, told in (("serve", (1, "it does not listen yet\n")), ("stdio", (0, ""))):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", command, stdin=PIPE)
        try:
            assert await healthy(process.pid) == told
        finally:
            await process.communicate(b"\n")


async def test_what_is_installed_is_launched_by_a_desktop_client(
    installed: Installation, demo_database: TestDatabase
) -> None:
    program, *arguments = installed.command
    variables = {**installed.environment, "DATABASE_URL": demo_database.url}
    parameters = StdioServerParameters(
        command=program, args=[*arguments, "stdio", "database"], env=variables, cwd=installed.directory
    )
    async with Client(stdio_client(parameters)) as client:
        found = await client.call_tool("search_knowledge_base", {"search_term": "password", "limit": 1})
        assert found.is_error is False


async def test_what_is_installed_says_what_it_can_do(installed: Installation) -> None:
    listed = await installed.run("--help")
    assert re.findall(r"^  (\w+)  ", listed, re.MULTILINE)[:3] == ["serve", "stdio", "migrate"]
    assert not re.search(r"^  dev ", listed, re.MULTILINE), "there are no local backends"
    assert "knowledge" in await installed.run("--help", agents=True)
    assert "mcpServers" in await installed.run("config", "claude-desktop")
    assert "not part of this installation" in await installed.run("dev", status=1)
