"""A reader who types what a page shows, into one shell and one Python."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from app.local.process import accepts_connections

_END = "end-of-what-was-typed"
_WITHIN = 60.0


class Session:
    """A program that reads lines and prints what comes of them."""

    def __init__(self, process: Process, mark: str) -> None:
        self._process = process
        self._mark = mark

    async def type(self, text: str) -> str:
        """Type a text; return what was printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text.rstrip()}\n\n{self._mark}\n".encode())
        await self._process.stdin.drain()
        async with asyncio.timeout(_WITHIN):
            printed = await self._process.stdout.readuntil(f"{_END}\n".encode())
        return printed.decode().removesuffix(f"{_END}\n")


class Shell(Session):
    """Bash, in which a command that fails is a failure."""

    async def type(self, text: str) -> str:
        printed, _, status = (await super().type(text)).rstrip().rpartition("\n")
        assert status == "status 0", f"{text}\n{printed}\n{status}"
        return printed


class Python(Session):
    """`python -m asyncio`, in which an exception is a failure."""

    async def type(self, text: str) -> str:
        printed = await super().type(text)
        assert "Traceback (most recent call last)" not in printed, printed
        assert "Error:" not in printed, printed
        return printed


@asynccontextmanager
async def shell(directory: Path, environment: Mapping[str, str]) -> AsyncGenerator[Shell]:
    """A shell in a directory; what it says on standard error goes to that of the tests."""
    async with _running(
        ("bash", "--norc", "--noprofile"), directory, environment, f"printf '\\nstatus %s\\n{_END}\\n' $?"
    ) as session:
        yield Shell(*session)


@asynccontextmanager
async def python(directory: Path, environment: Mapping[str, str]) -> AsyncGenerator[Python]:
    """A Python that awaits what it is given."""
    command = (sys.executable, "-m", "asyncio")
    async with _running(command, directory, environment, f"print({_END!r}, flush=True)", errors=STDOUT) as session:
        opened = Python(*session)
        await Session.type(opened, "import sys; sys.ps1 = sys.ps2 = ''")
        yield opened


@asynccontextmanager
async def _running(
    command: tuple[str, ...], directory: Path, environment: Mapping[str, str], mark: str, errors: int | None = None
) -> AsyncGenerator[tuple[Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        limit=1 << 24,
        start_new_session=True,
    )
    try:
        yield process, mark
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(20):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def serving(
    script: str, directory: Path, environment: Mapping[str, str], port: int, log: Path
) -> AsyncGenerator[Process]:
    """Run a script that serves until it is stopped; begin when its port takes connections."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "--norc",
            "-c",
            script,
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(90):
                while not await accepts_connections(port):
                    assert process.returncode is None, await asyncio.to_thread(log.read_text)
                    await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=0.1)
            yield process
        finally:
            await _end(process)


def with_ports(text: str, ports: Mapping[str, str]) -> str:
    """Return a text with other ports: the one place where what is printed and what is run differ."""
    return re.sub(rf"\b(?:{'|'.join(ports)})\b", lambda found: ports[found[0]], text)
