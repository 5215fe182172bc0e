"""Every way in which a call can fail, one class a kind.

    CallFailed
    ├── ConnectionFailed        no address of the server could be reached; nothing was sent
    ├── ConnectionLost          the connection broke before the answer; the call may have run
    ├── CallTimeout             no answer within the caller's time limit; the call may have run
    ├── MalformedAnswer         the answer is not what a gateway says
    ├── NotRun                  an earlier call of a batch failed, and the batch stops at the first failure
    ├── MalformedRequest        400, 405, 406, 413, 415, 421
    ├── Unauthorized            401
    ├── Forbidden               403
    ├── NotFound                404
    │   ├── ServerNotFound
    │   ├── ToolNotFound
    │   └── ResourceNotFound
    ├── Conflict                409
    │   └── AckExpired
    ├── InvalidArguments        422, each refused argument in `errors`
    ├── TooManyRequests         429, with `retry_after`
    ├── GatewayFailed           500
    └── BackendUnavailable      503
        ├── BackendNotConfigured
        └── BackendTimeout      504, the call may have run

Each carries the gateway's machine code, message and request id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class FieldError:
    """One argument that was refused."""

    field: str
    """Path of the argument, such as `params.0`; empty for the arguments object itself."""
    message: str


class CallFailed(Exception):
    """A call did not succeed.

    Args:
        message: what is wrong and what to do, in the gateway's words where it answered.
        code: stable machine code; the class's own if left out.
        status: HTTP status of the failure, where the gateway named one.
        request_id: of the gateway, to quote when reporting the failure.
        retry_after: seconds after which a repeat may succeed.
        errors: the refused arguments.
    """

    code: str = "call_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.errors = tuple(errors)


class ConnectionFailed(CallFailed):
    """No connection could be made, so that nothing was sent."""

    code = "connection_failed"


class ConnectionLost(CallFailed):
    """The connection broke before the answer was whole. The call may have run."""

    code = "connection_lost"


class CallTimeout(CallFailed):
    """The caller's time limit passed. The call may have run."""

    code = "call_timeout"


class MalformedAnswer(CallFailed):
    """Something answered that is no gateway, or the answer was damaged."""

    code = "malformed_answer"


class NotRun(CallFailed):
    """An earlier call of the batch failed, and the batch stops at the first failure."""

    code = "not_run"


class MalformedRequest(CallFailed):
    """The gateway could not read the request."""

    code = "malformed_request"


class Unauthorized(CallFailed):
    """The gateway wants a key, or does not take this one."""

    code = "unauthenticated"


class Forbidden(CallFailed):
    """A rule of the gateway refuses the call."""

    code = "forbidden"


class NotFound(CallFailed):
    """The thing that the arguments name does not exist."""

    code = "not_found"


class ServerNotFound(NotFound):
    """There is no server of that name."""

    code = "unknown_server"


class ToolNotFound(NotFound):
    """The server has no tool of that name."""

    code = "unknown_tool"


class ResourceNotFound(NotFound):
    """The server has no resource of that form."""

    code = "unknown_resource"


class Conflict(CallFailed):
    """The state of the system forbids the call."""

    code = "conflict"


class AckExpired(Conflict):
    """Messages were not acknowledged in time; they come again."""

    code = "ack_expired"


class InvalidArguments(CallFailed):
    """Arguments break the tool's schema or the backend's rules; `errors` names them."""

    code = "invalid_arguments"


class TooManyRequests(CallFailed):
    """The gateway is busy; `retry_after` says how long to wait."""

    code = "too_many_requests"


class GatewayFailed(CallFailed):
    """A bug or a crash of the gateway; its operator finds the cause by the request id."""

    code = "internal_error"


class BackendUnavailable(CallFailed):
    """The database, broker or cloud behind the gateway is down."""

    code = "backend_unavailable"


class BackendNotConfigured(BackendUnavailable):
    """The gateway lacks a setting, which the message names."""

    code = "backend_not_configured"


class BackendTimeout(BackendUnavailable):
    """The backend took too long. A write may have happened."""

    code = "backend_timeout"


_BY_CODE: dict[str, type[CallFailed]] = {
    kind.code: kind
    for kind in (
        NotRun,
        MalformedRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        ServerNotFound,
        ToolNotFound,
        ResourceNotFound,
        Conflict,
        AckExpired,
        InvalidArguments,
        TooManyRequests,
        GatewayFailed,
        BackendUnavailable,
        BackendNotConfigured,
        BackendTimeout,
    )
}
_BY_STATUS: dict[int, type[CallFailed]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidArguments,
    429: TooManyRequests,
    502: BackendUnavailable,
    503: BackendUnavailable,
    504: BackendTimeout,
}


def failure_of_problem(problem: Mapping[str, Any], retry_after: float | None = None) -> CallFailed:
    """Return the exception for the gateway's problem object.

    Args:
        problem: as in RFC 9457, with the gateway's `code`.
        retry_after: seconds, from the header, if the object itself names none.
    """
    # It is another process's word: a field of another type than promised is one that is not there.
    code, status = _text(problem.get("code")), problem.get("status")
    number = status if type(status) is int else 500
    listed: list[Any] = cast("list[Any]", problem.get("errors")) if isinstance(problem.get("errors"), list) else []
    fields = [cast("Mapping[str, Any]", entry) for entry in listed if isinstance(entry, Mapping)]
    wait = _seconds(problem.get("retry_after"))
    return _kind(code, number)(
        _text(problem.get("detail")) or _text(problem.get("title")) or code or "It failed without a word.",
        code=code,
        status=number,
        request_id=_text(problem.get("request_id")) or None,
        retry_after=retry_after if wait is None else wait,
        errors=[FieldError(_text(field.get("field")), _text(field.get("message"))) for field in fields],
    )


def failure_of_status(status: int, where: str, retry_after: float | None = None) -> CallFailed:
    """Return the exception for an answer without a problem object, such as a proxy's."""
    return _kind("", status)(
        f"{where} answered HTTP {status} and no word of explanation.",
        code=f"http_{status}",
        status=status,
        retry_after=retry_after,
    )


def seconds_to_wait(header: str | None) -> float | None:
    """Read a `Retry-After` header, which holds seconds or a date; None if there is none that makes sense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return _seconds(float(text))
    try:
        date = parsedate_to_datetime(text)
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())


def _seconds(value: Any) -> float | None:
    """Return a number of seconds that can be waited for, or None for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if 0 <= seconds < inf else None


def _text(value: Any) -> str:
    """Return a text, or an empty one for anything else; a number of 5,000 digits could not even be written."""
    return value if isinstance(value, str) else ""


def _kind(code: str, status: int) -> type[CallFailed]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return MalformedRequest if 400 <= status < 500 else GatewayFailed if status >= 500 else MalformedAnswer
