"""How the process writes its log: text for people, JSON for machines, secrets in neither."""

import asyncio
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TextIO, cast

_PASSWORD_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@", re.IGNORECASE)


CallFields = tuple[str, str, str, str, str, str, float, str]
"""What the line of a call says: server, operation, face, caller, its address, outcome, milliseconds, request id."""

_CALL_FIELDS = ("server", "operation", "face", "caller", "address", "outcome", "ms", "request_id")
_CALL_MESSAGE = " ".join("ms=%.1f" if name == "ms" else f"{name}=%s" for name in _CALL_FIELDS)
_SAME_FOR_EVERY_CALL: dict[str, Any] = {
    **logging.makeLogRecord({}).__dict__,
    "levelno": logging.INFO,
    "levelname": "INFO",
    "msg": _CALL_MESSAGE,
}


class CallRecord(logging.LogRecord):
    """The one line of a call, made for a tenth of what the general record costs.

    Where in the code and in which thread it was written is not found out, since every call's line is the same one's.

    Args:
        logger: name of the logger.
        when: the line's time, in seconds since 1970.
        fields: what the line says.
    """

    def __init__(self, logger: str, when: float, fields: CallFields) -> None:
        # Not calling super().__init__() is the point: formatters read the instance's dictionary.
        self.__dict__ = {
            **_SAME_FOR_EVERY_CALL,
            "name": logger,
            "created": when,
            "msecs": when % 1 * 1000,
            "args": fields,
        }


class CallLog:
    """Writes the lines of calls, those of one turn of the event loop together and with the time of its end.

    A caller waits for what is done before the answer, not for what is done after it; and many lines in a row take a
    third of the time that they take one by one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: list[tuple[logging.Logger, CallFields]] = []

    def add(self, logger: logging.Logger, fields: CallFields) -> None:
        """Log a call that ends now."""
        if logger.isEnabledFor(logging.INFO):
            if not self._ended:
                self._loop.call_soon(self.flush)
            self._ended.append((logger, fields))

    def flush(self) -> None:
        """Hand the lines to their loggers."""
        ended, self._ended = self._ended, []
        now = time.time()
        for logger, group in groupby(ended, itemgetter(0)):
            calls = [fields for _, fields in group]
            if (handler := _only_handler(logger)) is not None:
                handler.write_calls(logger.name, now, calls)
            else:
                for fields in calls:
                    logger.handle(CallRecord(logger.name, now, fields))


class TextFormatter(logging.Formatter):
    """`time level logger message`, one line an event."""

    def format_calls(self, logger: str, when: float, calls: Iterable[CallFields]) -> str:
        """Return what `format` returns for `CallRecord`s of the same, a line each."""
        prefix = f"{_time(when)} INFO    {logger} "
        return hide_passwords("\n".join([prefix + _CALL_MESSAGE % fields for fields in calls]))

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record.created)} {record.levelname:<7} {record.name} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return hide_passwords(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a call's fields stand beside `message`."""

    def format_calls(self, logger: str, when: float, calls: Iterable[CallFields]) -> str:
        """Return what `format` returns for `CallRecord`s of the same, a line each."""
        return "\n".join([self.format(CallRecord(logger, when, fields)) for fields in calls])

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record, CallRecord):
            fields = dict(zip(_CALL_FIELDS, cast("CallFields", record.args), strict=True))
            event.update({**fields, "ms": round(cast("float", fields["ms"]), 1)})
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return hide_passwords(json.dumps(event, default=str, ensure_ascii=False))


class BatchingHandler(logging.Handler):
    """Writes the lines of one turn of the event loop in one piece, and a warning at once with all before it.

    The standard handler locks, writes and flushes for every line.

    Args:
        stream: where the lines go.
        formatter: puts events into words.
    """

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._formatter = formatter
        self._lines: list[str] = []
        self._due = False
        self._writing = threading.Lock()

    def write_calls(self, logger: str, when: float, calls: Iterable[CallFields]) -> None:
        """Write the lines of calls, as `handle` would those of their records, without making any.

        Args:
            logger: name of the logger.
            when: the lines' time, in seconds since 1970.
            calls: what they say.
        """
        self._lines.append(self._formatter.format_calls(logger, when, calls))
        self.flush()

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            self._lines.append(self.format(record))
        except (TypeError, ValueError, LookupError):  # a message that does not fit its arguments
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif not self._due:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
                self._due = True
            except RuntimeError:  # no loop: a command of the CLI, or another thread
                self.flush()
        return True

    def flush(self) -> None:
        """Write what there is; `logging.shutdown` calls it too."""
        self._due = False
        with self._writing:
            # Other threads may add lines meanwhile, but only behind these.
            lines = self._lines[:]
            with suppress(OSError, ValueError):  # the stream is closed: nobody to tell
                self._stream.write("".join([f"{line}\n" for line in lines]))
                self._stream.flush()
            del self._lines[: len(lines)]


def _only_handler(logger: logging.Logger) -> BatchingHandler | None:
    """Return the handler that alone would get every event of a logger, if it is one of ours."""
    found: BatchingHandler | None = None
    asked: logging.Logger | None = logger
    if logger.disabled or logger.filters:
        return None
    while asked is not None:
        for handler in asked.handlers:
            if found is not None or not isinstance(handler, BatchingHandler) or handler.level > logging.INFO:
                return None
            found = handler
        asked = asked.parent if asked.propagate else None
    return found


def _time(seconds: float) -> str:
    """Return a time in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hide_passwords(text: str) -> str:
    """Return a text without the passwords of addresses that it quotes."""
    return _PASSWORD_IN_URL.sub(r"\1***@", text) if "://" in text else text


def set_up_logging(level: str, form: Literal["text", "json"]) -> None:
    """Send every logger's events to standard error; standard output belongs to protocols.

    Args:
        level: the least severe level to show, such as `INFO`.
        form: `text` for people, `json` for machines.
    """
    handler = BatchingHandler(sys.stderr, JsonFormatter() if form == "json" else TextFormatter())
    # What no line of ours shows need not be found out for each: the standard library's advice on speed.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue] - as its manual has it
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A line for every connection and every query of a driver drowns the one line a call.
    for chatty in ("uvicorn.access", "httpx", "httpcore", "aiokafka", "botocore", "mcp", "sse_starlette"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
