"""The process: its start, its end at a signal, and a log that nobody reads."""

import asyncio
import gc
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from app.local.process import free_port
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import tool
from app.serving.process import serve
from app.settings import Settings
from app.signals import stopping_by
from tests.clock import ClockMCPServer, ClockTime
from tests.faces.raw import ERAS, WITHIN, Pipe, client_of, event_stream, launched, post, request, websocket
from tests.fixtures.gateway import Served
from tests.test_cli import STOPS_WITHIN, SWITCHBOARD, answers, environment

FACES = ("rest", "mcp-2025-11-25", "mcp-2026-07-28", "websocket-2025-11-25", "websocket-2026-07-28")
ROOT = Path(__file__).parents[1]
TIME = "/mcp/clock/tools/get_time"


class SlowClock(ClockMCPServer):
    """Tells the time when it is let."""

    server_id, name = "clock", "Clock MCP Server"

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    @tool()
    async def wait(self) -> ClockTime:
        """Answer once somebody lets it."""
        self.started.set()
        await self.released.wait()
        return ClockTime(zone="late")


@pytest.fixture(autouse=True)
def collector() -> Generator[None]:
    """Undo what a process that serves tells the garbage collector."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


class Running:
    """A gateway as `switchboard serve` runs it, in this process."""

    def __init__(self, served: Served, task: asyncio.Task[None]) -> None:
        self.served, self.task = served, task

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(os.getpid(), number)

    async def end(self) -> None:
        async with asyncio.timeout(WITHIN):
            await self.task

    async def listener_is_closed(self) -> None:
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.served.port)
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:  # it waited to be accepted, in vain
                    continue
                writer.close()
                await asyncio.sleep(0)


@asynccontextmanager
async def running(server: BaseMCPServer, **settings: Any) -> AsyncGenerator[Running]:
    given = Settings(port=0, **settings)
    app = create_app([server], given)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, given, on_ready=port.set_result))
    try:
        async with asyncio.timeout(WITHIN):
            await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
        yield Running(Served(app, port.result(), None), task)  # type: ignore[arg-type]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def call(gateway: Running, face: str, tool: str) -> dict[str, Any]:
    """Call a tool of the clock and return its result object."""
    if face == "rest":
        async with client_of(gateway.served) as http:
            result: dict[str, Any] = (await http.post(f"/mcp/clock/tools/{tool}")).json()
            return result
    transport, _, era = face.partition("-")
    if transport == "mcp":
        answer = (await post(gateway.served, era, "tools/call", {"name": tool})).json()
    else:
        async with websocket(gateway.served, era) as messages:
            answer = await messages.ask(request(era, "tools/call", {"name": tool}))
    structured: dict[str, Any] = answer["result"]["structuredContent"]
    return structured


class ColdClock(SlowClock):
    """Warms up once it is let."""

    server_id, name = "clock", "Clock MCP Server"

    def __init__(self) -> None:
        super().__init__()
        self.warming, self.is_warm = asyncio.Event(), False

    async def warm_up(self) -> None:
        self.warming.set()
        await self.released.wait()
        self.is_warm = True


async def test_servers_warm_up_while_callers_are_answered() -> None:
    server = ColdClock()
    async with running(server) as gateway:
        async with asyncio.timeout(WITHIN), client_of(gateway.served) as http:
            await server.warming.wait()
            assert (await http.get("/health")).status_code == 200
            assert (await call(gateway, "rest", "get_time"))["success"]
            assert not server.is_warm
        server.released.set()
        gateway.signal()
        await gateway.end()
    assert server.is_warm


@pytest.mark.parametrize("face", FACES)
async def test_what_runs_is_answered_and_nothing_new_begins(face: str) -> None:
    clock = SlowClock()
    async with running(clock, shutdown_grace=WITHIN) as gateway:
        call_in_flight = asyncio.create_task(call(gateway, face, "wait"))
        await clock.started.wait()
        gateway.signal()
        await gateway.listener_is_closed()
        assert not gateway.task.done()
        clock.released.set()
        assert (await call_in_flight)["zone"] == "late"
        await gateway.end()


async def test_ready_says_so_first_and_calls_are_taken_until_the_delay_is_over() -> None:
    async with (
        running(SlowClock(), shutdown_delay=3600) as gateway,
        client_of(gateway.served) as http,
    ):
        assert (await http.get("/ready")).status_code == 200
        gateway.signal()
        while (answer := await http.get("/ready")).status_code == 200:
            pass
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        assert (await http.get("/health")).status_code == 200
        assert (await http.post(TIME)).json()["success"] is True
        gateway.signal()
        await gateway.end()


async def test_the_listener_closes_when_the_delay_is_over() -> None:
    async with running(SlowClock(), shutdown_delay=0.05) as gateway:
        gateway.signal(signal.SIGINT)
        await gateway.listener_is_closed()
        await gateway.end()


@pytest.mark.parametrize("face", FACES)
async def test_a_call_that_outlives_the_grace_is_cut_off(face: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = SlowClock()
    async with running(clock, shutdown_grace=0.05) as gateway:
        call_in_flight = asyncio.create_task(call(gateway, face, "wait_for_cancellation"))
        await clock.started.wait()
        gateway.signal()
        await gateway.end()
        assert clock.cancelled.is_set()
        call_in_flight.cancel()
        await asyncio.wait([call_in_flight])
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_second_signal_cuts_off_what_runs() -> None:
    clock = SlowClock()
    async with running(clock, shutdown_grace=3600) as gateway:
        call_in_flight = asyncio.create_task(call(gateway, "rest", "wait_for_cancellation"))
        await clock.started.wait()
        gateway.signal()
        await gateway.listener_is_closed()
        gateway.signal()
        await gateway.end()
        assert clock.cancelled.is_set()
        call_in_flight.cancel()
        await asyncio.wait([call_in_flight])


async def test_streams_without_an_end_and_idle_connections_hold_up_nothing() -> None:
    listen = request(
        "2026-07-28", "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["clock://zones/UTC"]}}
    )
    async with (
        running(SlowClock(), shutdown_grace=3600) as gateway,
        client_of(gateway.served) as http,
        event_stream(gateway.served, listen, "2026-07-28") as events,
    ):
        await http.get("/health")
        assert (await anext(events))["method"] == "notifications/subscriptions/acknowledged"
        gateway.signal()
        await gateway.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_start_and_what_was_opened_is_closed(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    opening, closed = asyncio.Event(), asyncio.Event()

    class FirstMCPServer(BaseMCPServer):
        """Opens at once."""

        @asynccontextmanager
        async def opened(self) -> AsyncGenerator[None]:
            try:
                yield
            finally:
                closed.set()

    class SecondMCPServer(BaseMCPServer):
        """Never opens."""

        @asynccontextmanager
        async def opened(self) -> AsyncGenerator[None]:
            opening.set()
            await asyncio.Event().wait()
            yield

    given = Settings(port=0)
    starting = asyncio.create_task(serve(create_app([FirstMCPServer, SecondMCPServer], given), given))
    async with asyncio.timeout(WITHIN):
        await opening.wait()
    os.kill(os.getpid(), number)
    async with asyncio.timeout(WITHIN):
        await starting
    assert closed.is_set()
    assert caplog.records == []


AGENTS = [sys.executable, "-m", "agents", "demo"]
FOR_EVER = "print('now', flush=True); import sys; sys.stdin.read()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("command", "status"), [("serve", 0), ("dev", 0), ("stdio", 0), ("migrate", None)])
@pytest.mark.parametrize("imported", ["click", "pydantic"])
async def test_a_signal_ends_a_command_before_it_begins(
    tmp_path: Path, imported: str, command: str, status: int | None, number: signal.Signals
) -> None:
    (tmp_path / f"{imported}.py").write_text(FOR_EVER)
    variables = environment(PYTHONPATH=str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, command, cwd=tmp_path, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"now\n"
    process.send_signal(number)
    async with asyncio.timeout(STOPS_WITHIN):
        assert await process.communicate() == (b"", b"")
    assert process.returncode == (128 + number if status is None else status)


async def test_an_interrupt_ends_the_agents_before_they_begin(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text(FOR_EVER)
    variables = environment(PYTHONPATH=str(tmp_path))
    # As from a shell in somebody's hands: one that starts a job in the background has it ignore interrupts.
    minding = f"import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({sys.executable!r}, {AGENTS})"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", minding), cwd=ROOT, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(STOPS_WITHIN):
        assert await process.communicate() == (b"", b"")
    assert process.returncode == 130


async def test_nothing_takes_time_before_a_process_has_its_handlers() -> None:
    # Until then a signal prints a trace.
    code = "import sys; before = {*sys.modules}; import app.cli.main; print(*sorted({*sys.modules} - before))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=PIPE)
    async with asyncio.timeout(STOPS_WITHIN):
        printed, _ = await process.communicate()
    # The first two are empty, and the last is the interpreter's own.
    assert printed.split() == [b"app", b"app.cli", b"app.cli.main", b"atexit"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_last_moment_of_a_process_changes_nothing(number: signal.Signals) -> None:
    # What is registered first is called last: after it the interpreter takes itself apart.
    code = f"import atexit\n@atexit.register\ndef last():\n  {FOR_EVER}\nfrom app.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "--version"), cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert b"version" in await process.stdout.readline()
    assert await process.stdout.readline() == b"now\n"
    process.send_signal(number)
    async with asyncio.timeout(STOPS_WITHIN):
        assert await process.communicate(b"\n") == (b"", b"")
    assert process.returncode == 0


async def test_a_signal_finds_a_handler_at_every_moment() -> None:
    def before(number: int, frame: FrameType | None) -> None:
        raise AssertionError

    found: set[object] = set()
    given = {number: signal.signal(number, before) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        sys.setprofile(lambda *_: found.update(map(signal.getsignal, given)))
        with stopping_by(lambda _: None), stopping_by(lambda _: None):
            pass
        sys.setprofile(None)
        assert before in found
        assert not found & {signal.SIG_DFL, signal.default_int_handler}
    finally:
        for number, handler in given.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("era", ERAS)
async def test_a_process_on_stdio_answers_what_runs_before_it_ends(era: str) -> None:
    async with launched(era, [sys.executable, "-m", "tests.faces.stdio_clock"], cwd=ROOT) as pipe:
        await pipe.send(request(era, "tools/call", {"name": "await_cancellation_of_another_call"}, number=1))
        await pipe.send(request(era, "tools/call", {"name": "wait_for_cancellation"}, number=2))
        await pipe.call(era, "await_start_of_another_call", 3)
        pipe.process.send_signal(signal.SIGTERM)
        while (refused := await pipe.ask(request(era, "tools/list", number=4))).get("result"):
            pass
        assert "stopping" in refused["error"]["message"]
        await pipe.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})
        answer = await pipe.receive()
        assert (answer["id"], answer["result"]["structuredContent"]["zone"]) == (1, "cancelled")
        async with asyncio.timeout(STOPS_WITHIN):
            assert await pipe.process.wait() == 0


CALLS = 1000
"""Lines of the log that are more than a pipe holds: about 350."""


@asynccontextmanager
async def _with_a_log_that_nobody_reads(directory: Path, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        SWITCHBOARD, *arguments, cwd=directory, env=environment(), stdin=PIPE, stdout=PIPE, stderr=writer
    )
    os.close(writer)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        os.close(reader)


async def test_a_log_that_nobody_reads_holds_up_no_call_and_no_end(tmp_path: Path) -> None:
    port = free_port()
    async with _with_a_log_that_nobody_reads(tmp_path, "serve", "--port", str(port)) as process:
        await answers(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=WITHIN) as http:
            for _ in range(CALLS):
                assert (await http.post("/mcp/database/tools/get_analytics")).status_code == 503
            assert (await http.get("/health")).status_code == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOPS_WITHIN):
            assert await process.wait() == 0


async def test_a_log_that_nobody_reads_holds_up_no_client_of_stdio(tmp_path: Path) -> None:
    async with _with_a_log_that_nobody_reads(tmp_path, "stdio", "database") as process:
        pipe = Pipe(process)
        call: JsonObject = {"name": "get_analytics", "arguments": {}}
        for number in range(CALLS):
            answer = await pipe.ask(request("2026-07-28", "tools/call", call, number=number))
            assert answer["result"]["isError"] is True
        pipe.stdin.close()
        async with asyncio.timeout(STOPS_WITHIN):
            assert await process.wait() == 0


CLOSED = ["0<&-", "1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
async def test_a_process_on_stdio_ends_cleanly_where_its_streams_are_closed(tmp_path: Path, closed: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" "$@" {closed}', SWITCHBOARD, "stdio", "database"),
        cwd=tmp_path,
        env=environment(),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(STOPS_WITHIN):
        _, errors = await process.communicate()
    assert (process.returncode, b"Traceback" in errors) == (0, False), errors


@pytest.mark.parametrize("closed", CLOSED)
async def test_a_gateway_serves_with_its_standard_streams_closed(tmp_path: Path, closed: str) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" "$@" {closed}', SWITCHBOARD, "serve", "--port", str(port)),
        cwd=tmp_path,
        env=environment(),
    )
    try:
        await answers(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=WITHIN) as http:
            assert (await http.post("/mcp/database/tools/get_analytics")).status_code == 503
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOPS_WITHIN):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
