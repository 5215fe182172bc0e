"""The log: one line an event, fields apart for machines, passwords in neither form."""

import asyncio
import io
import json
import logging
import os
import re
import threading
import weakref
from typing import Any

import pytest

from app.guard.principal import Principal
from app.logs import (
    LONGEST_LINE,
    MOST_KEPT,
    BackgroundHandler,
    CallLog,
    CallRecord,
    JsonFormatter,
    TextFormatter,
    events_of,
)
from app.servers.calls import CallContext
from app.servers.origins import Origin
from app.telemetry.recorder import EndedCall, ended_call
from tests.faces.raw import WITHIN

FIELDS: dict[str, Any] = {
    "server": "clock",
    "operation": "get_time",
    "face": "rest",
    "principal": "anonymous",
    "client": "curl/8",
    "address": "10.0.0.7",
    "outcome": "ok",
    "ms": 1.2,
    "conversation": "c-7",
    "traceparent": "-",
    "request_id": "abc",
}


def ended(server: str, operation: str, context: CallContext, outcome: str, ms: float) -> EndedCall:
    return ended_call(server, operation, context, 0.0, outcome, ms)


CURL = CallContext("abc", "rest", client="curl/8", address="10.0.0.7", origin=Origin(conversation="c-7"))
RECORD = CallRecord("MCP.Clock MCP Server", 1_800_000_000.5, ended("clock", "get_time", CURL, "ok", 1.2))
LINE = (
    "server=clock operation=get_time face=rest principal=anonymous client=curl/8 address=10.0.0.7 outcome=ok ms=1.2 "
    "conversation=c-7 traceparent=- request_id=abc"
)


def _failure() -> logging.LogRecord:
    try:
        raise RuntimeError("no answer from postgresql://desk:hunter2@db:5432/support")
    except RuntimeError as error:
        trace = (RuntimeError, error, error.__traceback__)
    return logging.LogRecord("MCP.Clock", logging.ERROR, __file__, 1, "request_id=%s: failed", ("abc",), trace)


def test_a_call_is_one_line_of_text() -> None:
    line = TextFormatter().format(RECORD)
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert "T" in time
    assert rest == f"INFO    MCP.Clock MCP Server {LINE}"


def test_a_call_is_one_json_object_with_its_fields_apart() -> None:
    event = json.loads(JsonFormatter().format(RECORD))
    assert FIELDS.items() <= event.items()
    assert (event["level"], event["logger"]) == ("INFO", "MCP.Clock MCP Server")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_the_lines_of_calls_are_those_of_their_records(formatter: TextFormatter | JsonFormatter) -> None:
    calls = [ended("clock", "get_time", CURL, "ok", ms) for ms in (1.25, 0)]
    records = [CallRecord("MCP.Clock", 1_800_000_000.5, call) for call in calls]
    assert formatter.format_calls("MCP.Clock", 1_800_000_000.5, calls) == "\n".join(map(formatter.format, records))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_trace_shows_no_password(formatter: logging.Formatter) -> None:
    written = formatter.format(_failure())
    assert "RuntimeError: no answer from postgresql://desk:***@db:5432/support" in written
    assert "hunter2" not in written


def test_formatters_of_others_can_show_a_call() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(filename)s:%(lineno)d %(process)s %(message)s"))
    handler.handle(RECORD)
    assert "INFO MCP.Clock MCP Server" in stream.getvalue()
    assert stream.getvalue().endswith(f"{LINE}\n")


class Pieces(io.StringIO):
    """A stream, in the pieces in which it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


@pytest.fixture
def stream() -> Pieces:
    return Pieces()


@pytest.fixture
def written(stream: Pieces) -> list[str]:
    return stream.pieces


@pytest.fixture
def log(stream: Pieces) -> logging.Logger:
    logger = logging.Logger("MCP.Clock MCP Server", logging.INFO)
    logger.addHandler(BackgroundHandler(stream, TextFormatter()))
    return logger


def _messages(log: logging.Logger, written: list[str]) -> list[str]:
    [handler] = log.handlers
    handler.flush()
    return [line.partition("MCP.Clock MCP Server ")[2] for line in "".join(written).splitlines()]


async def test_lines_are_written_in_their_order_and_together(log: logging.Logger, written: list[str]) -> None:
    for number in range(100):
        log.info("%d", number)
    log.warning("last")
    assert _messages(log, written) == [*map(str, range(100)), "last"]
    assert len(written) < 10


def test_who_waits_for_the_log_does_not_wait_for_lines_to_gather(
    log: logging.Logger, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.logs._PAUSE", 3600.0)
    for text in ("first", "last"):
        log.info(text)
        assert _messages(log, written)[-1] == text


async def test_lines_of_other_threads_are_written_too(log: logging.Logger, written: list[str]) -> None:
    await asyncio.to_thread(log.info, "elsewhere")
    assert _messages(log, written) == ["elsewhere"]


def test_a_message_that_does_not_fit_its_arguments_is_told_and_stops_nothing(
    log: logging.Logger, written: list[str]
) -> None:
    log.info("%d", "not a number")
    log.info("next")
    assert _messages(log, written)[-1] == "next"
    assert "MCP.Clock MCP Server does not fit its arguments: '%d'" in "".join(written)


def test_one_event_is_no_longer_than_others_can_bear(log: logging.Logger, written: list[str]) -> None:
    log.info("x" * 10 * LONGEST_LINE)
    [line] = _messages(log, written)
    assert LONGEST_LINE - 100 < len(line) <= LONGEST_LINE + 10
    assert line.endswith("(cut)")


class Unread:
    """A log whose reader takes nothing before the end."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self.handler = BackgroundHandler(self.stream, TextFormatter(), most_waiting=10_000)
        self.log = logging.Logger("MCP.Clock MCP Server", logging.INFO)
        self.log.addHandler(self.handler)

    def read(self) -> list[str]:
        """Read what was written and what waits; the log ends."""
        with os.fdopen(self._reader, encoding="utf-8") as reader:
            lines: list[str] = []
            thread = threading.Thread(target=lambda: lines.extend(reader))
            thread.start()
            self.handler.flush()
            self.stream.close()
            thread.join(WITHIN)
        return lines


@pytest.mark.parametrize("blocking", [True, False])
def test_a_log_that_nobody_reads_holds_nobody_up_and_says_what_it_lost(
    monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    unread = Unread()
    os.set_blocking(unread.stream.fileno(), blocking)
    sent = 10_000  # ten times what a pipe holds
    for number in range(sent):
        unread.log.info("%d %s", number, "x" * 50)
    monkeypatch.setattr("app.logs._FLUSHED_WITHIN", WITHIN)
    lines = unread.read()
    kept = [line for line in lines if line.endswith("x\n")]
    losses = [int(found[1]) for line in lines if (found := re.search(r"(\d+) lines were dropped", line))]
    assert len(losses) > 0
    assert len(kept) + sum(losses) == sent
    assert [line for line in kept if "INFO    MCP.Clock MCP Server " not in line] == []


def test_the_end_of_the_process_does_not_wait_for_the_logs_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = Unread()
    for number in range(5000):
        unread.log.info("%d %s", number, "x" * 50)
    monkeypatch.setattr("app.logs._FLUSHED_WITHIN", 0.05)
    logging.shutdown([weakref.ref(unread.handler)])
    assert unread.read()


CALLS = [
    ended("clock", "first", CURL, "ok", 0.04),
    ended("clock", "last", CallContext("d", "mcp", Principal("desk"), "https://bot:hunter2@desk", "::1"), "off", 12.34),
]


async def test_each_call_is_a_line_in_its_order(log: logging.Logger, written: list[str]) -> None:
    log.info("before")
    CallLog({"clock": log}).calls_ended(CALLS)
    calls_of_curl = "face=rest principal=anonymous client=curl/8 address=10.0.0.7 outcome=ok ms=0.0"
    calls_of_bot = "face=mcp principal=desk client=https://bot:***@desk address=::1 outcome=off ms=12.3"
    assert _messages(log, written) == [
        "before",
        f"server=clock operation=first {calls_of_curl} conversation=c-7 traceparent=- request_id=abc",
        f"server=clock operation=last {calls_of_bot} conversation=- traceparent=- request_id=d",
    ]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
async def test_calls_read_the_same_whoever_listens_beside(formatter: TextFormatter | JsonFormatter) -> None:
    alone, shared = Pieces(), Pieces()
    for stream in (alone, shared):
        logger = logging.Logger("MCP.Clock MCP Server", logging.INFO)
        logger.addHandler(BackgroundHandler(stream, formatter))
        if stream is shared:
            logger.addHandler(logging.NullHandler())
        CallLog({"clock": logger}).calls_ended(CALLS)
        logger.handlers[0].flush()
    lines, others = "".join(alone.pieces).splitlines(), "".join(shared.pieces).splitlines()
    assert len(lines) == len(others) == len(CALLS)
    for line, other in zip(lines, others, strict=True):
        assert line.partition("Z")[2] == other.partition("Z")[2]


async def test_loggers_that_others_have_set_up_are_asked(log: logging.Logger, written: list[str]) -> None:
    log.addFilter(lambda record: "operation=last" in record.getMessage())
    CallLog({"clock": log}).calls_ended(CALLS)
    assert [message.split()[1] for message in _messages(log, written)] == ["operation=last"]


async def test_a_level_above_info_leaves_the_lines_of_calls_out(log: logging.Logger, written: list[str]) -> None:
    log.setLevel(logging.WARNING)
    CallLog({"clock": log}).calls_ended(CALLS)
    assert _messages(log, written) == []


def test_the_newest_events_are_kept_and_found_by_their_request() -> None:
    handler, root = BackgroundHandler(io.StringIO(), TextFormatter()), logging.getLogger()
    log = logging.getLogger("app.tests.kept")
    log.addHandler(handler)
    root.addHandler(handler)  # where a request's events are looked for
    log.propagate = False
    try:
        log.error("request_id=%s: first", "a")
        log.error("request_id=%s: a trace", "a.b", exc_info=ValueError("2026-01-01 wrong"))
        log.error("stage='ran' request_id=%s", "a:b")
        handler.flush()
        assert [event.partition("kept ")[2] for event in events_of("a")] == ["request_id=a: first"]
        [trace] = events_of("a.b")
        assert trace.endswith("ValueError: 2026-01-01 wrong")
        assert len(events_of("a:b")) == 1
        for _ in range(MOST_KEPT // 50_000 + 1):
            log.error("%s", "x" * 50_000)
            handler.flush()
        assert events_of("a") == []
        assert MOST_KEPT - 60_000 < sum(map(len, handler.kept())) <= MOST_KEPT
    finally:
        root.removeHandler(handler)
        log.removeHandler(handler)
