"""The log: one line an event, fields apart for machines, passwords in neither form."""

import io
import json
import logging
from typing import Any

import pytest

from app.logs import CallRecord, JsonFormatter, TextFormatter

FIELDS: dict[str, Any] = {"server": "clock", "operation": "get_time", "outcome": "ok", "ms": 1.2, "request_id": "abc"}


def _failure() -> logging.LogRecord:
    try:
        raise RuntimeError("no answer from postgresql://desk:hunter2@db:5432/support")
    except RuntimeError as error:
        trace = (RuntimeError, error, error.__traceback__)
    return logging.LogRecord("MCP.Clock", logging.ERROR, __file__, 1, "request_id=%s: failed", ("abc",), trace)


def test_a_call_is_one_line_of_text() -> None:
    line = TextFormatter().format(CallRecord("MCP.Clock MCP Server", FIELDS))
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert "T" in time
    assert rest == ("INFO    MCP.Clock MCP Server server=clock operation=get_time outcome=ok ms=1.2 request_id=abc")


def test_a_call_is_one_json_object_with_its_fields_apart() -> None:
    event = json.loads(JsonFormatter().format(CallRecord("MCP.Clock MCP Server", FIELDS)))
    assert FIELDS.items() <= event.items()
    assert (event["level"], event["logger"]) == ("INFO", "MCP.Clock MCP Server")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_trace_shows_no_password(formatter: logging.Formatter) -> None:
    written = formatter.format(_failure())
    assert "RuntimeError: no answer from postgresql://desk:***@db:5432/support" in written
    assert "hunter2" not in written


def test_formatters_of_others_can_show_a_call() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(filename)s:%(lineno)d %(process)s %(message)s"))
    handler.handle(CallRecord("MCP.Clock MCP Server", FIELDS))
    assert "INFO MCP.Clock MCP Server" in stream.getvalue()
    assert stream.getvalue().endswith("server=clock operation=get_time outcome=ok ms=1.2 request_id=abc\n")
