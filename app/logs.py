"""How the process writes its log: text for people, JSON for machines, secrets in neither."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

_PASSWORD_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@", re.IGNORECASE)


_SAME_FOR_EVERY_CALL: dict[str, Any] = {
    **logging.makeLogRecord({}).__dict__,
    "levelno": logging.INFO,
    "levelname": "INFO",
    "args": (),
}


class CallRecord(logging.LogRecord):
    """The one line of a call, made for a tenth of what the general record costs.

    Where in the code and in which thread it was written is not found out, since every call's line is the same one's.

    Args:
        logger: name of the logger.
        fields: what the line says; a JSON log shows them apart.
    """

    def __init__(self, logger: str, fields: dict[str, Any]) -> None:
        # Not calling super().__init__() is the point: formatters read the instance's dictionary.
        created = time.time()
        message = " ".join([f"{name}={value}" for name, value in fields.items()])
        self.__dict__ = {
            **_SAME_FOR_EVERY_CALL,
            "name": logger,
            "created": created,
            "msecs": created % 1 * 1000,
            "msg": message,
            "fields": fields,
        }

    fields: dict[str, Any]


class TextFormatter(logging.Formatter):
    """`time level logger message`, one line an event."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.name} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return hide_passwords(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a call's fields stand beside `message`."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record, CallRecord):
            event.update(record.fields)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return hide_passwords(json.dumps(event, default=str, ensure_ascii=False))


class _StandardError(logging.Handler):
    """Writes a line in one piece. The standard handler locks, writes and flushes one after the other."""

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):
            self.handleError(record)
        return True


_second: tuple[int, str] = (0, "")


def _time(record: logging.LogRecord) -> str:
    """Return an event's time in ISO 8601; thousands of lines share a second."""
    global _second  # noqa: PLW0603 - a memory of one entry, in the hottest line of the log
    second = int(record.created)
    if _second[0] != second:
        _second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    return f"{_second[1]}.{int(record.msecs):03d}Z"


def hide_passwords(text: str) -> str:
    """Return a text without the passwords of addresses that it quotes."""
    return _PASSWORD_IN_URL.sub(r"\1***@", text) if "://" in text else text


def set_up_logging(level: str, form: Literal["text", "json"]) -> None:
    """Send every logger's events to standard error; standard output belongs to protocols.

    Args:
        level: the least severe level to show, such as `INFO`.
        form: `text` for people, `json` for machines.
    """
    handler = _StandardError()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    # What no line of ours shows need not be found out for each: the standard library's advice on speed.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue] - as its manual has it
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A line for every connection and every query of a driver drowns the one line a call.
    for chatty in ("uvicorn.access", "httpx", "httpcore", "aiokafka", "botocore", "mcp", "sse_starlette"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
