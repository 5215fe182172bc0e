"""Every failure that a caller may see, one class a kind.

    GatewayError
    ├── InternalError           500  internal_error
    ├── MalformedRequest        400  malformed_request
    │   ├── MethodNotAllowed    405  method_not_allowed
    │   ├── NotAcceptable       406  not_acceptable
    │   ├── CallerStalled       408  caller_stalled
    │   ├── RequestTooLarge     413  request_too_large
    │   ├── UnsupportedMediaType 415 unsupported_media_type
    │   ├── MisdirectedRequest  421  misdirected_request
    │   └── HeadTooLarge        431  head_too_large
    ├── Unauthenticated         401  unauthenticated
    ├── Forbidden               403  forbidden
    │   ├── OriginRefused       403  origin_refused
    │   ├── InsufficientScope   403  insufficient_scope
    │   ├── ArgumentRefused     403  argument_refused
    │   └── NotConfined         403  not_confined
    ├── NotFound                404  not_found
    │   ├── UnknownServer       404  unknown_server
    │   ├── UnknownTool         404  unknown_tool
    │   └── UnknownResource     404  unknown_resource
    ├── Conflict                409  conflict
    │   ├── AckExpired          409  ack_expired
    │   ├── Interrupted         409  interrupted
    │   └── NotRun              409  not_run
    ├── InvalidArguments        422  invalid_arguments
    │   └── RangeNotSatisfiable 416  range_not_satisfiable
    ├── TooManyRequests         429  too_many_requests
    │   ├── ProcessFull         429  too_many_requests
    │   └── RateLimited         429  rate_limited
    ├── CallerGone              499  caller_gone
    └── BackendUnavailable      503  backend_unavailable
        ├── BackendNotConfigured 503 backend_not_configured
        ├── IdentityUnavailable 503  identity_unavailable
        ├── EmbeddingUnavailable 503 embedding_unavailable
        └── BackendTimeout      504  backend_timeout

Services raise them (driver errors are translated there and nowhere else), faces write them down.
A message is written for the caller: what is wrong and what to do. It holds no secret, no stack
trace and no driver's text.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError

INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
PARSE_ERROR = -32700
INTERNAL_ERROR = -32603

MOST_REFUSALS = 50
"""Refused arguments that are told at a time: thousands help nobody, and answers must not outgrow what was sent."""
_MOST_EXPLAINED = 1000
"""Refusals of one document that are looked at; each costs some 3 µs, be it told or not."""
_LONGEST_PATH = 200
"""Characters of a refused argument's path, which may be names that the caller has made up."""


UNNAMED = "\0"
"""How the tag of a union's member begins, which pydantic puts into the places of what it refuses in that member."""


def path_of(place: Sequence[str | int]) -> str:
    """Return a place within what was sent in words that fit an answer."""
    return ".".join(map(str, place))[:_LONGEST_PATH]


def failures_of(error: ValidationError) -> list[Any]:
    """Return what pydantic refused, each with its `loc`, `msg` and `type`; all in one, where it is very much.

    A place names what was sent and no `UNNAMED` tag, and a message of ours stands without pydantic's word for it.
    """
    if (count := error.error_count()) > _MOST_EXPLAINED:
        return [{"loc": (), "msg": f"{count} things in it are refused: compare it with the schema", "type": "too_many"}]
    failures: list[Any] = list(error.errors(include_url=False, include_input=False, include_context=False))
    for failure in failures:
        *above, last = failure["loc"] or ("",)
        if any(str(part).startswith(UNNAMED) for part in above):
            failure["loc"] = (*(part for part in above if not str(part).startswith(UNNAMED)), last)
        if failure["type"] == "model_type":  # whose message names a class of ours
            failure["msg"] = "Input should be an object"
        elif failure["type"] == "value_error":
            failure["msg"] = failure["msg"].removeprefix("Value error, ")
    return failures


class FieldError(BaseModel):
    """One argument that was refused. The refused value is never repeated."""

    field: str = Field(description="Path of the argument, such as `params.0`; empty for the object itself.")
    message: str = Field(description="What is wrong with it and what is accepted.")


class Problem(BaseModel):
    """A failure as callers receive it: RFC 9457 over HTTP, and the same object in an MCP tool result."""

    type: str = Field(default="about:blank", description="RFC 9457 problem type; `code` is the machine's handle.")
    title: str = Field(description="The kind of failure in a few words.")
    status: int = Field(description="The HTTP status, also where the answer does not travel over HTTP.")
    detail: str = Field(description="What is wrong and what to do about it.")
    success: Literal[False] = False
    code: str = Field(description="Stable machine code of the failure.")
    request_id: str | None = Field(default=None, description="Quote it when you report the failure.")
    errors: list[FieldError] | None = Field(default=None, description="The refused arguments, each by name.")
    scopes: list[str] | None = Field(
        default=None, description="Scopes each of which would allow it, the narrowest first."
    )
    retry_after: float | None = Field(default=None, description="Seconds after which a repeat may succeed.")


class GatewayError(Exception):
    """An expected failure whose message is safe to show.

    Args:
        detail: what is wrong and what to do, for the caller to read.
        errors: the refused arguments, if any.
        retry_after: seconds after which a repeat may succeed.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    rpc_code: ClassVar[int] = INTERNAL_ERROR
    """JSON-RPC code where the failure is a protocol error and not a tool result."""
    in_part: bool = False
    """As the reason for which a tool does not work in full: it works nevertheless, in part."""
    rule: str | None = None
    """What of the policy it is refused by, in the policy's own words; None where it is no refusal of the guard's."""

    def by(self, rule: str) -> Self:
        """Say by which rule it is refused."""
        self.rule = rule
        return self

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.retry_after = retry_after

    def problem(self, request_id: str | None = None) -> Problem:
        """Return the wire form of this failure."""
        return Problem(
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id,
            errors=list(self.errors) or None,
            retry_after=self.retry_after,
        )


class InternalError(GatewayError):
    """A bug. The text stays generic; the log has the trace under the request id."""

    def __init__(self) -> None:
        super().__init__("Something went wrong in the gateway. The operator finds the cause by the request id.")


class MalformedRequest(GatewayError):
    """The request could not be read at all, for example because it is not JSON."""

    status, code, title = 400, "malformed_request", "Malformed request"
    rpc_code = INVALID_REQUEST


class MethodNotAllowed(MalformedRequest):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class NotAcceptable(MalformedRequest):
    status, code, title = 406, "not_acceptable", "Not acceptable"


class CallerStalled(MalformedRequest):
    """A stream's caller neither sent nor took a byte for too long, so that its place was given up."""

    status, code, title = 408, "caller_stalled", "Caller stalled"


class RequestTooLarge(MalformedRequest):
    status, code, title = 413, "request_too_large", "Request too large"


class UnsupportedMediaType(MalformedRequest):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class MisdirectedRequest(MalformedRequest):
    """The Host header names no host that this gateway answers for (DNS rebinding)."""

    status, code, title = 421, "misdirected_request", "Misdirected request"


class HeadTooLarge(MalformedRequest):
    status, code, title = 431, "head_too_large", "Request header fields too large"


class Unauthenticated(GatewayError):
    status, code, title = 401, "unauthenticated", "Unauthenticated"
    rpc_code = INVALID_REQUEST


class Forbidden(GatewayError):
    """Refused by a rule of the gateway: SQL that writes, an allowlist, a scope."""

    status, code, title = 403, "forbidden", "Refused by policy"
    rpc_code = INVALID_REQUEST


class OriginRefused(Forbidden):
    """A browser page of an origin that is not allowed made the request."""

    code, title = "origin_refused", "Origin refused"


class InsufficientScope(Forbidden):
    """No role of the caller grants the call.

    Args:
        scopes: each of them would grant it, the narrowest first.
    """

    code, title = "insufficient_scope", "Insufficient scope"

    def __init__(self, detail: str = "", *, scopes: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.scopes = tuple(scopes)

    def problem(self, request_id: str | None = None) -> Problem:
        return super().problem(request_id).model_copy(update={"scopes": list(self.scopes) or None})


class ArgumentRefused(Forbidden):
    """The caller may call the tool, but not with these arguments."""

    code, title = "argument_refused", "Argument refused"


class NotConfined(Forbidden):
    """The caller is bound to one customer, and what it wants can't be confined to it."""

    code, title = "not_confined", "Not confined"


class NotFound(GatewayError):
    """The thing that the arguments name does not exist."""

    status, code, title = 404, "not_found", "Not found"
    rpc_code = INVALID_PARAMS


class UnknownServer(NotFound):
    code, title = "unknown_server", "Unknown server"


class UnknownTool(NotFound):
    code, title = "unknown_tool", "Unknown tool"


class UnknownResource(NotFound):
    code, title = "unknown_resource", "Unknown resource"


class Conflict(GatewayError):
    """The state of the system forbids the call, for example because the thing exists already."""

    status, code, title = 409, "conflict", "Conflict"


class AckExpired(Conflict):
    """Messages were not acknowledged in time and are delivered again."""

    code, title = "ack_expired", "Acknowledgement expired"


class Interrupted(Conflict):
    """An operator has ended the call while it ran. To repeat it would be to run what somebody did not want to run."""

    code, title = "interrupted", "Interrupted"

    def __init__(self) -> None:
        super().__init__("An operator has ended this call. What it was about to change may have been changed.")


class NotRun(Conflict):
    """A call of a batch was not begun: an earlier one failed where the caller had asked to stop, or no room is left."""

    code, title = "not_run", "Not run"


class InvalidArguments(GatewayError):
    """Arguments break the tool's schema or the backend's rules. Name them in `errors`."""

    status, code, title = 422, "invalid_arguments", "Invalid arguments"
    rpc_code = INVALID_PARAMS

    @classmethod
    def of(cls, field: str, message: str) -> Self:
        """Refuse one argument."""
        return cls(f"{field}: {message}", errors=[FieldError(field=field, message=message)])

    @classmethod
    def from_validation(cls, errors: Iterable[Any], *, skip: int = 0) -> "InvalidArguments":
        """Refuse what pydantic refused, naming each field and never its value.

        Args:
            errors: `failures_of` the error.
            skip: how many leading parts of each location to drop.
        """
        return cls.at((error["loc"][skip:], str(error["msg"])) for error in errors)

    @classmethod
    def at(cls, refusals: Iterable[tuple[Sequence[str | int], str]]) -> "InvalidArguments":
        """Refuse what stands at some places, each with what is wrong there; the first of them, where there are many."""
        fields = [FieldError(field=path_of(place), message=why) for place, why in islice(refusals, MOST_REFUSALS)]
        return cls("; ".join(f"{f.field or 'arguments'}: {f.message}" for f in fields), errors=fields)


class RangeNotSatisfiable(InvalidArguments):
    """The range begins after the end of what is read."""

    status, code, title = 416, "range_not_satisfiable", "Range not satisfiable"


class TooManyRequests(GatewayError):
    status, code, title = 429, "too_many_requests", "Too many requests"

    def __init__(self, detail: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__(detail, retry_after=retry_after)


class ProcessFull(TooManyRequests):
    """Callers have sent all that the process holds of what it can't work on yet. The connection is closed."""

    def __init__(self) -> None:
        super().__init__("Too much is being sent at the moment (MAX_UNFINISHED_BYTES). Repeat in a moment.")


class RateLimited(TooManyRequests):
    """The caller has used up what its roles grant it for now."""

    code, title = "rate_limited", "Rate limited"


class CallerGone(GatewayError):
    """The caller closed the connection before the end; nobody reads this."""

    status, code, title = 499, "caller_gone", "Caller gone"


class BackendUnavailable(GatewayError):
    """The database, broker or cloud is down or refuses the gateway."""

    status, code, title = 503, "backend_unavailable", "Backend unavailable"


class BackendNotConfigured(BackendUnavailable):
    """A setting is missing or wrong. The message names it.

    Args:
        detail: which it is and what to set it to.
        missing: the variable that is not set, where that alone is the matter.
    """

    code, title = "backend_not_configured", "Backend not configured"

    def __init__(self, detail: str = "", *, missing: str = "") -> None:
        super().__init__(detail)
        self.missing = missing


class IdentityUnavailable(BackendUnavailable):
    """Where keys are kept can't be reached, so nobody can tell who calls. That is no reason to call a key a bad one."""

    code, title = "identity_unavailable", "Identity unavailable"


class EmbeddingUnavailable(BackendUnavailable):
    """Text can't be turned into vectors now, or not at all.

    Args:
        detail: why, for an operator: what to set, install or look at. No text that was to be embedded, no key.
        misconfigured: it stays so until a setting or the installation changes, and trying again is in vain.
    """

    code, title = "embedding_unavailable", "Embedding unavailable"
    in_part = True

    def __init__(self, detail: str = "", *, misconfigured: bool = False) -> None:
        super().__init__(detail)
        self.misconfigured = misconfigured


class BackendTimeout(BackendUnavailable):
    """The backend did not answer within the time limit. A write may have happened."""

    status, code, title = 504, "backend_timeout", "Time limit exceeded"
