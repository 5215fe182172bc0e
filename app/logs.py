"""How the process writes its log: text for people, JSON for machines, secrets in neither."""

import json
import logging
import os
import queue
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, TextIO, cast

from app.telemetry.recorder import EndedCall
from app.unseen import escaped

_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]{0,256}:)[^\s@]{1,1024}@")
"""Bounded everywhere, so that the time to look for them grows no faster than the text."""
_KEY = re.compile(r"(sb_[a-z0-9]{12}_)[A-Za-z0-9_-]{16,128}")
MOST_WAITING = 4 * 1024 * 1024
"""Characters of the log that wait to be written; what comes beyond is dropped and counted."""
LONGEST_LINE = 64 * 1024
"""Characters of one event, its trace included; the rest is cut off."""
MOST_KEPT = 1024 * 1024
"""Characters of the newest events that were written and can be looked up by their request."""
_MOST_FOUND = 200
"""Events of one request that are shown, the newest."""
OURS = ("MCP", "app")
"""The loggers that write nothing secret at any level: servers with their calls, and the process."""
_PAUSE = 0.05
"""Seconds in which lines gather. Each time that they are written, the event loop has to share the interpreter."""
_FLUSHED_WITHIN = 1.0
"""Seconds that the end of the process waits for the log's reader."""


_EVENT = re.compile(r"\n(?=[0-9]{4}-[0-9]{2}-[0-9]{2}T|\{)")
"""Where an event begins behind another one; the further lines of a trace do not look so."""
_CALL_FIELDS = (
    *("server", "operation", "face", "principal", "client", "address", "outcome", "ms"),
    *("conversation", "traceparent", "request_id"),
)
_CALL_MESSAGE = " ".join("ms=%.1f" if name == "ms" else f"{name}=%s" for name in _CALL_FIELDS)
_NOBODYS_LOG = logging.getLogger("MCP")
"""For what is about all servers, or about none that there is."""
_SAME_FOR_EVERY_CALL: dict[str, Any] = {
    **logging.makeLogRecord({}).__dict__,
    "levelno": logging.INFO,
    "levelname": "INFO",
    "msg": _CALL_MESSAGE,
}


def _fields(ended: EndedCall) -> tuple[str | float, ...]:
    """Return what the line of a call says, as `_CALL_FIELDS` names it."""
    return (
        ended.server,
        ended.operation,
        ended.face,
        ended.principal.id,
        ended.client,
        ended.address,
        ended.outcome,
        ended.ms,
        ended.origin.conversation,
        ended.origin.traceparent,
        ended.request_id,
    )


def _message(ended: EndedCall) -> str:
    """Return `_CALL_MESSAGE % _fields(ended)`, in half of the time."""
    origin = ended.origin
    return (
        f"server={ended.server} operation={ended.operation} face={ended.face} principal={ended.principal.id} "
        f"client={ended.client} address={ended.address} outcome={ended.outcome} ms={ended.ms:.1f} "
        f"conversation={origin.conversation} traceparent={origin.traceparent} request_id={ended.request_id}"
    )


class CallRecord(logging.LogRecord):
    """The one line of a call, made for a tenth of what the general record costs.

    Where in the code and in which thread it was written is not found out, since every call's line is the same one's.

    Args:
        logger: name of the logger.
        when: the line's time, in seconds since 1970.
        call: what the line tells of.
    """

    def __init__(self, logger: str, when: float, call: EndedCall) -> None:
        # Not calling super().__init__() is the point: formatters read the instance's dictionary.
        self.__dict__ = {
            **_SAME_FOR_EVERY_CALL,
            "name": logger,
            "created": when,
            "msecs": when % 1 * 1000,
            "args": _fields(call),
        }


class CallLog:
    """Writes a line for each call that has ended. Many in a row take a third of the time that they take one by one.

    Args:
        loggers: of the servers, by their id.
    """

    def __init__(self, loggers: Mapping[str, logging.Logger]) -> None:
        self._loggers = loggers

    def calls_ended(self, calls: Sequence[EndedCall]) -> None:
        """Hand the lines to their loggers."""
        now = time.time()
        for server, group in groupby(calls, attrgetter("server")):
            logger = self._loggers.get(server, _NOBODYS_LOG)
            if not logger.isEnabledFor(logging.INFO):
                continue
            if (handler := _only_handler(logger)) is not None:
                handler.write_calls(logger.name, now, list(group))
            else:
                for call in group:
                    logger.handle(CallRecord(logger.name, now, call))


class TextFormatter(logging.Formatter):
    """`time level logger message`, one line an event."""

    def format_calls(self, logger: str, when: float, calls: Iterable[EndedCall]) -> str:
        """Return what `format` returns for `CallRecord`s of the same, a line each."""
        prefix = f"{_time(when)} INFO    {logger} "
        return hide_passwords("\n".join([prefix + _message(call) for call in calls]))

    def format(self, record: logging.LogRecord) -> str:
        # Others' words can't begin a line that looks like an event of ours.
        message = escaped(record.getMessage()).replace("\n", "\\n")
        line = f"{_time(record.created)} {record.levelname:<7} {record.name} {message}"
        if record.exc_info:
            line += "\n" + _EVENT.sub("\n  ", escaped(self.formatException(record.exc_info)))
        return hide_passwords(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a call's fields stand beside `message`."""

    def format_calls(self, logger: str, when: float, calls: Iterable[EndedCall]) -> str:
        """Return what `format` returns for `CallRecord`s of the same, a line each."""
        return "\n".join([self.format(CallRecord(logger, when, call)) for call in calls])

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record, CallRecord):
            fields = dict(zip(_CALL_FIELDS, cast("tuple[object, ...]", record.args), strict=True))
            event.update({**fields, "ms": round(cast("float", fields["ms"]), 1)})
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return hide_passwords(escaped(json.dumps(event, default=str, ensure_ascii=False)))


class BackgroundHandler(logging.Handler):
    """Hands lines to a thread that writes them: whoever reads the log, or does not, holds nobody up.

    What does not fit between the two is dropped, and the next line that fits is preceded by one that says how much.
    The standard library's `QueueListener` would write a traceback for each, and wait for a reader for good at the end.

    Args:
        stream: where the lines go.
        formatter: puts events into words.
        most_waiting: characters that wait to be written.
    """

    def __init__(
        self, stream: TextIO, formatter: TextFormatter | JsonFormatter, *, most_waiting: int = MOST_WAITING
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._formatter = formatter
        self._write = _writer(stream)
        self._most_waiting = most_waiting
        # A garbage collection in the middle of what it guards may log, too: hence re-entrant.
        self._guard = threading.RLock()
        self._lines: list[str | threading.Event] = []
        self._waiting = 0
        self._dropped = 0
        self.dropped = 0
        """Lines that were never written, since the start."""
        self._awake = False
        self._kept: deque[str] = deque()
        self._characters_kept = 0
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        """Set while somebody waits until all is written."""
        self._thread: threading.Thread | None = None

    def write_calls(self, logger: str, when: float, calls: Sequence[EndedCall]) -> None:
        """Write the lines of calls, as `handle` would those of their records, without making any.

        Args:
            logger: name of the logger.
            when: the lines' time, in seconds since 1970.
            calls: what they say.
        """
        self._put(self._formatter.format_calls(logger, when, calls), len(calls))

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            text = self.format(record)
        except (TypeError, ValueError, LookupError) as error:
            text = self.format(
                _own_record("A message of %s does not fit its arguments: %r", record.name, record.msg, error)
            )
        self._put(text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]} … (cut)", 1)
        return True

    def kept(self) -> list[str]:
        """Return the newest events, the oldest first; several may be in one text, each of which begins a line."""
        with self._guard:
            return list(self._kept)

    def flush(self) -> None:
        """Wait a while until all is written that there is; `logging.shutdown` calls it at the end of the process."""
        with self._guard:
            if self._thread is None:
                return
            if self._dropped:
                self._report_dropped()
            written = threading.Event()
            self._lines.append(written)
            self._hurry.set()
            self._wake_up()
        written.wait(_FLUSHED_WITHIN)

    def _put(self, text: str, lines: int) -> None:
        with self._guard:
            if self._waiting + len(text) > self._most_waiting:
                self._dropped += lines
                self.dropped += lines
                return
            if self._dropped:
                self._report_dropped()
            self._append(text)
            self._wake_up()

    def _report_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        self._append(self.format(_own_record("%d lines were dropped: nobody took the log in time", dropped)))

    def _append(self, text: str) -> None:
        self._waiting += len(text)
        self._lines.append(text)

    def _wake_up(self) -> None:
        if not self._awake:
            self._awake = True
            if self._thread is None:
                # A daemon, since it may wait for a reader for good; it must not keep the process from ending.
                self._thread = threading.Thread(target=self._write_for_ever, name="log", daemon=True)
                self._thread.start()
            self._wake.put(None)

    def _write_for_ever(self) -> None:
        while True:
            self._wake.get()
            # What comes in a moment is written together: fewer calls of the system, fewer changes of threads.
            self._hurry.wait(_PAUSE)
            with self._guard:
                lines, self._lines, self._awake = self._lines, [], False
                self._hurry.clear()
            for is_event, group in groupby(lines, lambda line: isinstance(line, threading.Event)):
                if is_event:
                    for event in cast("Iterable[threading.Event]", group):
                        event.set()
                else:
                    texts = list(cast("Iterable[str]", group))
                    self._keep(texts)
                    with suppress(OSError, ValueError):  # the stream is closed: nobody to tell
                        self._write("".join([f"{text}\n" for text in texts]))
                    with self._guard:
                        self._waiting -= sum(map(len, texts))

    def _keep(self, texts: Sequence[str]) -> None:
        """Keep events for those who look at a call later. It is the thread's work, so that no call pays for it."""
        with self._guard:
            self._kept.extend(texts)
            self._characters_kept += sum(map(len, texts))
            while self._characters_kept > MOST_KEPT:
                self._characters_kept -= len(self._kept.popleft())


def events_of(request_id: str) -> list[str]:
    """Return the events of the log that name a request, the oldest first, of those that are still kept."""
    # A colon may be a part of an id, or stand behind it.
    named = re.compile(rf'(?:request_id=|"request_id": "){re.escape(request_id)}(?![A-Za-z0-9._+/=-]|:\S)')
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, BackgroundHandler)]
    texts = [text for handler in handlers for text in handler.kept() if request_id in text]
    return [event for text in texts for event in _EVENT.split(text) if named.search(event)][-_MOST_FOUND:]


def dropped_lines() -> int:
    """Return how many lines of the log were never written, since nobody took those before them in time."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, BackgroundHandler))


def _own_record(message: str, *arguments: object) -> logging.LogRecord:
    """Return a warning of the log's own; a last argument that is an error is its cause."""
    cause = arguments[-1] if isinstance(arguments[-1], Exception) else None
    trace = (type(cause), cause, cause.__traceback__) if cause is not None else None
    given = arguments[:-1] if cause is not None else arguments
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, given, trace)


def _writer(stream: TextIO) -> Callable[[str], object]:
    """Return what writes to a stream; past its buffers where it can be, since they are locked while a write waits."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return lambda text: (stream.write(text), stream.flush())

    def write(text: str) -> None:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # whoever started us has set the pipe so
                select.select([], [descriptor], [])

    return write


def _only_handler(logger: logging.Logger) -> BackgroundHandler | None:
    """Return the handler that alone would get every event of a logger, if it is one of ours."""
    found: BackgroundHandler | None = None
    asked: logging.Logger | None = logger
    if logger.disabled or logger.filters:
        return None
    while asked is not None:
        for handler in asked.handlers:
            if found is not None or not isinstance(handler, BackgroundHandler) or handler.level > logging.INFO:
                return None
            found = handler
        asked = asked.parent if asked.propagate else None
    return found


def _time(seconds: float) -> str:
    """Return a time in ISO 8601."""
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def hide_passwords(text: str) -> str:
    """Return a text without the passwords of addresses, and the keys of callers, that it quotes."""
    # Every line of every call passes here, and most have neither: the first takes half of `"sb_" in text`, which
    # stops at many a letter, and the second next to nothing.
    text = _KEY.sub(r"\1***", text)  # somebody may have put it where it does not belong, such as a path
    return _PASSWORD_IN_URL.sub(r"\1***@", text) if "@" in text and "://" in text else text


def _standard_error() -> TextIO:
    """Return standard error; nothing at all in its place, where whoever started us has closed it."""
    if cast("TextIO | None", sys.stderr) is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    return sys.stderr


def set_up_logging(level: str, form: Literal["text", "json"], levels: Mapping[str, str] | None = None) -> None:
    """Send every logger's events to standard error; standard output belongs to protocols.

    Args:
        level: the least severe level to show, such as `INFO`; libraries show no DEBUG.
        form: `text` for people, `json` for machines.
        levels: those of single loggers, by their names.
    """
    handler = BackgroundHandler(_standard_error(), JsonFormatter() if form == "json" else TextFormatter())
    # What no line of ours shows need not be found out for each: the standard library's advice on speed.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue] - as its manual has it
    # At DEBUG libraries write frames, headers and rows: what customers have said, and secrets.
    logging.basicConfig(level=max(logging.INFO, logging.getLevelNamesMapping()[level]), handlers=[handler], force=True)
    for ours in OURS:
        logging.getLogger(ours).setLevel(level)
    # A line for every connection and every query of a driver drowns the one line a call, and what uvicorn says of its
    # start and end our own line says.
    for chatty in (
        "uvicorn.access",
        "uvicorn.error",
        "httpx",
        "httpcore",
        "aiokafka",
        "botocore",
        "mcp",
        "sse_starlette",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # A line for each notice that is not in its form, of which a client may send as many as it likes.
    logging.getLogger("mcp.server.runner").setLevel(logging.ERROR)
    # Each attempt of its producer to find a broker; `Outages` tells of the first.
    logging.getLogger("aiokafka.client").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka.producer.sender").setLevel(logging.ERROR)
    for name, own in (levels or {}).items():
        logging.getLogger(name).setLevel(own)
