"""Google's MCP Toolbox for Databases, as npm brings it, with the same statement as a tool of its own."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from app.local.process import accepts_connections, child_process, free_port

PACKAGE = "@toolbox-sdk/server"
_VERSION = "1.12.0"
TOOL = "get_customer_context"
API_PATH = f"/api/tool/{TOOL}/invoke"


async def installed_toolbox(directory: Path) -> Path | None:
    """Return the server's program, which npm fetches if it is not there yet; None where there is no npm, or no program.

    Args:
        directory: where it is kept.
    """
    if not (found := _program(directory)) and (npm := shutil.which("npm")):
        directory.mkdir(parents=True, exist_ok=True)
        command = (npm, "install", "--no-audit", "--no-fund", "--prefix", str(directory), f"{PACKAGE}@{_VERSION}")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await process.wait()
        found = _program(directory)
    return found


def _program(directory: Path) -> Path | None:
    return next(directory.glob("node_modules/@toolbox-sdk/server-*/bin/toolbox"), None)


@asynccontextmanager
async def run_toolbox(
    program: Path, url: str, statement: str, scratch: Path
) -> AsyncGenerator[tuple[int, psutil.Process]]:
    """Run it over a database; yield its port and its process.

    Args:
        program: the server's.
        url: of the database.
        statement: what the tool runs; `$1` is a customer's id.
        scratch: for its files.
    """
    at = urlsplit(url)
    source = {
        "kind": "source",
        "name": "bench",
        "type": "postgres",
        "host": at.hostname,
        "port": str(at.port),
        "database": at.path.strip("/"),
        "user": at.username,
        "password": unquote(at.password or ""),
    }
    tool = {
        "kind": "tool",
        "name": TOOL,
        "type": "postgres-sql",
        "source": "bench",
        "statement": statement,
        "description": "A customer with the most recent tickets.",
        "parameters": [{"name": "customer_id", "type": "string", "description": "The customer's id."}],
    }
    file = scratch / "toolbox.yaml"
    file.write_text("\n---\n".join(map(json.dumps, (source, tool))))  # JSON is YAML
    port = free_port()
    options = ("--config", str(file), "--port", str(port), "--enable-api", "--disable-version-check")

    async def is_ready() -> bool:
        return await accepts_connections(port)

    async with child_process(
        [str(program), *options, "--disable-reload", "--log-level", "WARN"],
        log=scratch / "toolbox.log",
        is_ready=is_ready,
    ) as process:
        yield port, psutil.Process(process.pid)
