"""The driver of `make bench`: it counts what failed, since a failure is cheaper than a call that works."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from benchmarks import report
from benchmarks.load import (
    CONNECTIONS,
    JSON_HEADERS,
    Answer,
    Sample,
    http_load,
    read_frame,
    read_response,
    websocket_load,
)
from benchmarks.start_up import start_up_times, start_ups_told
from tests.clock import ClockMCPServer
from tests.faces.raw import headers, request
from tests.fixtures.gateway import Served, serve

TIME = "/mcp/clock/tools/get_time"
MODERN = "2026-07-28"
SECONDS = 0.5


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with serve(create_app([ClockMCPServer()], Settings())) as served:
        yield served


@pytest.fixture(autouse=True)
def without_wrk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


def _call(zone: str) -> bytes:
    return json.dumps(request(MODERN, "tools/call", {"name": "get_time", "arguments": {"zone": zone}})).encode()


@pytest.mark.parametrize(("zone", "fails"), [("UTC", False), ("Atlantis", True), ("", True)])
async def test_each_failure_over_http_counts(gateway: Served, tmp_path: Path, zone: str, fails: bool) -> None:
    body = json.dumps({"zone": zone}).encode()
    rest = await http_load(gateway.port, TIME, lambda _: body, JSON_HEADERS, SECONDS, tmp_path)
    fields = headers(MODERN, json.loads(_call(zone)))
    mcp = await http_load(gateway.port, "/mcp/clock", lambda _: _call(zone), fields, SECONDS, tmp_path)
    for sample in (rest, mcp):
        assert sample.rate > 0
        assert sample.failures == (round(sample.rate * SECONDS) if fails else 0)


@pytest.mark.parametrize(("zone", "fails"), [("UTC", False), ("Atlantis", True)])
async def test_each_failure_over_a_websocket_counts(gateway: Served, zone: str, fails: bool) -> None:
    sample = await websocket_load(gateway.port, "/mcp/clock/ws", [], lambda _: _call(zone), SECONDS)
    assert sample.rate > 0
    assert sample.failures == (round(sample.rate * SECONDS) if fails else 0)


async def test_a_server_that_hangs_up_is_a_failure_and_ends_the_round(tmp_path: Path) -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        sample = await http_load(port, TIME, lambda _: b"{}", JSON_HEADERS, SECONDS, tmp_path)
    assert (sample.rate, sample.failures) == (0, CONNECTIONS)


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Answer(40)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", Answer(0)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nb\r\n0123456789a\r\n0\r\n\r\n", Answer(75)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nb\r\n012", Answer(0)),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Answer(59, failed=True)),
        (b"HTTP/1.1 429 No\r\ncontent-length: 2\r\n\r\n{}", Answer(40, failed=True)),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{"isError":true}', Answer(55, failed=True)),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n" + b"a" * 8984 + b'"isError":true}}',
            Answer(9041, failed=True),
        ),
    ],
)
def test_a_response_is_read_with_its_status(received: bytes, answer: Answer) -> None:
    assert read_response(bytearray(received)) == answer


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (b"\x81\x02{}", Answer(4)),
        (b"\x81\x05{}", Answer(0)),
        (b"\x88\x02\x03\xe8", Answer(4, failed=True)),
        (b'\x81\x0c{"error":{}}', Answer(14, failed=True)),
        (b"\x81\x7e\x1f\x40" + b"a" * 7984 + b'"isError":true}}', Answer(8004, failed=True)),
        (b'\x81\x7e\x1f\x40{"error":{' + b"a" * 7990, Answer(8004, failed=True)),
        (b"\x81\x7e\x1f\x40" + b"a" * 8000 + b'"isError":true}}', Answer(8004)),
    ],
)
def test_a_frame_is_read_with_what_it_says(received: bytes, answer: Answer) -> None:
    assert read_frame(bytearray(received)) == answer


def test_what_is_started_is_asked_and_its_time_is_taken() -> None:
    table = start_ups_told(start_up_times({}, rounds=1)).splitlines()
    assert [line.split(",")[0].split("  ")[1] for line in table[2:]] == [
        "an MCP server of the SDK",
        "switchboard stdio database",
        "switchboard --version",
        "switchboard serve",
    ]
    assert table[2].endswith(" 1.00")


def test_a_run_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "speed.md"
    page.write_text(report.PAGE.read_text())
    monkeypatch.setattr(report, "PAGE", page)
    samples = {
        "first": [Sample(100, 1, 2), Sample(300, 1, 2), Sample(200, 1, 2)],
        "second": [Sample(50, 3, 4, 5, 9, 6), Sample(150, 3, 4, 0, 9, 6), Sample(100, 3, 4, 0, 9, 6)],
    }
    for machine in ("On one machine.", "On another."):
        run = report.Report()
        run.table("A title", samples, "first")
        run.keep(machine)
    text = page.read_text()
    assert "On one machine." not in text
    assert text.count("On another.") == text.count("$ make bench\n") == 1
    [line] = [line for line in text.splitlines() if line.startswith("  second")]
    assert line.split()[1:] == ["100", "0.50", "3.00", "4.00", "6.0", "5"]
    assert text.partition("end of the last run")[2] == report.PAGE.read_text().partition("end of the last run")[2]
    assert "cores" in report.described_machine("18.6")
