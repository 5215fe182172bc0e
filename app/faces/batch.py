"""Batch: `POST /mcp/batch` runs many calls for one round trip, each with its own result or failure."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError, to_json
from starlette.types import Receive, Scope, Send

from app.budget import Share
from app.errors import (
    CallerGone,
    GatewayError,
    InternalError,
    InvalidArguments,
    MalformedRequest,
    MisdirectedRequest,
    NotRun,
    OriginRefused,
    Problem,
    RequestTooLarge,
    UnsupportedMediaType,
    failures_of,
)
from app.exact_json import NotExact, NotJson, Place, read, shape_of
from app.faces.http import (
    JSON,
    CancelWhenCallerGoes,
    call_context,
    read_json,
    send_bytes,
    send_refusal,
    start_answer,
)
from app.faces.openapi import answered_by, problem_responses, takes
from app.gateway import Gateway
from app.servers.calls import CallContext

_EXPECTED = 'expected an object: {"calls": [{"server": "…", "tool": "…", "arguments": {…}}, …]}'
_AT_ONCE = 16
"""Calls of one batch that run at the same time: enough to keep a backend busy, too few to take it from others."""
_MOST_ANSWERED = 16 * 1024 * 1024
"""Bytes of results after which no further call of a batch begins: all are held until the last is there."""
_WRITTEN_AT_ONCE = 1024 * 1024
"""Bytes of an answer; a larger one is written piece by piece, as its reader takes it."""

_MAY_ANSWER: tuple[type[GatewayError], ...] = (
    MalformedRequest,
    OriginRefused,
    RequestTooLarge,
    UnsupportedMediaType,
    MisdirectedRequest,
    InvalidArguments,
    InternalError,
)


_Outcome = bytes | GatewayError
"""What became of a call: its result as the tool's own route would answer it, or its failure."""


@dataclass(slots=True)
class _Results:
    """What the calls of one batch have come to so far."""

    share: Share
    """Of what all callers' results may take."""
    size: int = 0
    """In bytes."""
    ended: GatewayError | None = None
    """Why its caller may not call any more."""

    def end(self, reason: GatewayError) -> None:
        """Let no further call of it begin; those that run end by themselves."""
        self.ended = reason


class BatchCall(BaseModel):
    """One call of a batch."""

    model_config = ConfigDict(extra="forbid")

    server: str = Field(min_length=1, description="The server's name.")
    tool: str = Field(min_length=1, description="The tool's name.")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="The tool's arguments object.")
    id: str | int | None = Field(default=None, description="A name of your choice for the call; its answer repeats it.")


class _SentCall(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _SentBatch(msgspec.Struct):
    calls: list[_SentCall]


_sent = msgspec.json.Decoder(_SentBatch)


def _in_arguments(place: Place) -> bool:
    """Tell whether a place of a batch is within the arguments of one of its calls."""
    return len(place) > 3 and place[0] == "calls" and place[2] == "arguments"


class BatchRequest(BaseModel):
    """Calls to run for one round trip."""

    model_config = ConfigDict(extra="forbid")

    calls: list[BatchCall] = Field(min_length=1)
    mode: Literal["concurrent", "sequential"] = Field(
        default="concurrent", description="Whether the calls run side by side or in their order."
    )
    stop_on_error: bool = Field(
        default=False,
        description="In sequential mode: run nothing more after the first failure; the rest answers `not_run`.",
        validate_default=True,
    )

    @field_validator("stop_on_error")
    @classmethod
    def _needs_an_order(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("mode") == "concurrent":
            raise PydanticCustomError("needs_an_order", 'only calls in an order can stop; set "mode": "sequential"')
        return value


class CallSucceeded(BaseModel):
    """A call that was answered."""

    success: Literal[True] = True
    id: str | int | None = Field(description="The call's `id`.")
    result: dict[str, JsonValue] = Field(description="What the tool returned, as its own route would answer it.")


class CallFailed(BaseModel):
    """A call that failed."""

    success: Literal[False] = False
    id: str | int | None = Field(description="The call's `id`.")
    error: Problem


class BatchAnswer(BaseModel):
    """The answers of a batch, in the order of its calls. `success` says that the batch ran, not that each call did."""

    success: Literal[True] = True
    results: list[CallSucceeded | CallFailed]
    failed: int = Field(description="How many calls failed.")


class BatchEndpoint:
    """Runs batches, as an ASGI application.

    Args:
        gateway: where the calls go. Each is admitted, limited and logged there as if it had come alone.
        request_model: `BatchRequest`, with the number of calls limited.
    """

    def __init__(self, gateway: Gateway, request_model: type[BatchRequest]) -> None:
        self._gateway = gateway
        self._request_model = request_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = call_context(scope, "batch")
        try:
            batch, arguments = self._parse(await read_json(scope, receive, self._gateway))
        except CallerGone:
            return
        except GatewayError as error:
            await send_refusal(scope, send, error)
            return
        run = self._in_order if batch.mode == "sequential" else self._side_by_side
        with self._gateway.results.share() as share:
            so_far = _Results(share)
            try:
                with CancelWhenCallerGoes(receive, self._gateway.lookout), context.principal.holding(so_far.end):
                    outcomes = await run(batch, arguments, context, so_far)
            except CallerGone:
                return
            await _send(send, _answer(batch.calls, outcomes, context.request_id), context.request_id)

    def _parse(self, body: bytes) -> tuple[BatchRequest, list[bytes]]:
        """Return a batch, and the arguments of its calls as the caller wrote them."""
        try:
            parsed = read(body)
        except NotJson as error:
            raise MalformedRequest(f"The batch is not valid JSON ({error}). Send one JSON object.") from None
        except NotExact as error:
            # What is wrong with the arguments of a call is that call's failure, as it would be if it had come alone.
            if outside := [defect for defect in error.defects if not _in_arguments(defect[0])]:
                raise InvalidArguments.at(outside) from None
            parsed = shape_of(body)
        if not isinstance(parsed, dict):
            raise InvalidArguments.at([((), _EXPECTED)])
        try:
            batch = self._request_model.model_validate(parsed, strict=True)
        except ValidationError as error:
            raise InvalidArguments.from_validation(failures_of(error)) from None
        return batch, [bytes(call.arguments) for call in _sent.decode(body).calls]

    async def _in_order(
        self, batch: BatchRequest, arguments: Sequence[bytes], context: CallContext, results: _Results
    ) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        not_run: NotRun | None = None
        for position, call in enumerate(batch.calls):
            outcome = not_run or await self._run(call, arguments[position], context, results)
            outcomes.append(outcome)
            if batch.stop_on_error and not_run is None and isinstance(outcome, GatewayError):
                not_run = NotRun(f"calls.{position} failed ({outcome.code}), and the batch stops at the first failure.")
        return outcomes

    async def _side_by_side(
        self, batch: BatchRequest, arguments: Sequence[bytes], context: CallContext, results: _Results
    ) -> list[_Outcome]:
        # Fewer at a time than a server admits, or a batch would be refused by its own calls.
        places = asyncio.Semaphore(min(_AT_ONCE, self._gateway.settings.max_calls_in_flight))

        async def run_in_turn(call: BatchCall, given: bytes) -> _Outcome:
            async with places:
                return await self._run(call, given, context, results)

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(run_in_turn(*call)) for call in zip(batch.calls, arguments, strict=True)]
        return [task.result() for task in running]

    async def _run(self, call: BatchCall, arguments: bytes, context: CallContext, results: _Results) -> _Outcome:
        if results.ended is not None:
            return results.ended
        if results.size >= _MOST_ANSWERED:
            return NotRun(f"The batch has {results.size} bytes of results already. Send this call in another one.")
        try:
            result = await self._gateway.call(call.server, call.tool, arguments, context, held=results.share)
        except GatewayError as error:
            return error
        results.size += len(result)
        results.share.take(results.size)
        return result


def add_batch_route(router: APIRouter, gateway: Gateway) -> None:
    """Add `POST /mcp/batch` and its documentation.

    Args:
        router: the application's own. FastAPI wraps the routes of an included router and would not run ours.
        gateway: where calls go.
    """
    most = gateway.settings.max_batch_calls
    about = f"At most {most} calls."
    calls = Annotated[list[BatchCall], Field(min_length=1, max_length=most, description=about)]
    request_model = create_model("BatchRequest", __base__=BatchRequest, calls=(calls, ...))
    endpoint = BatchEndpoint(gateway, request_model)

    router.add_api_route(
        "/mcp/batch",
        takes(request_model),
        methods=["POST"],
        tags=["batch"],
        operation_id="batch",
        summary="Run many calls",
        description=(
            "Run calls of any servers for one round trip, side by side or in order. Each has its own result or failure "
            "and counts as a call of its own; the batch itself answers 200 whenever it could be read."
        ),
        response_model=BatchAnswer,
        responses=problem_responses(*_MAY_ANSWER),
        route_class_override=answered_by(endpoint),
    )


def _answer(calls: Sequence[BatchCall], outcomes: Sequence[_Outcome], request_id: str) -> list[bytes]:
    """Write a `BatchAnswer` around results that are JSON already, in pieces."""
    pieces: list[bytes] = []
    separator = b'{"success":true,"results":['
    for call, outcome in zip(calls, outcomes, strict=True):
        name = to_json(call.id)
        if isinstance(outcome, GatewayError):
            problem = outcome.problem(request_id).model_dump_json(exclude_none=True).encode()
            pieces.append(b'%b{"success":false,"id":%b,"error":%b}' % (separator, name, problem))
        else:
            pieces += (b'%b{"success":true,"id":%b,"result":' % (separator, name), outcome, b"}")
        separator = b","
    failed = sum(isinstance(outcome, GatewayError) for outcome in outcomes)
    return [*pieces, b'],"failed":%d}' % failed]


async def _send(send: Send, pieces: Sequence[bytes], request_id: str) -> None:
    """Answer with a body that is there in pieces."""
    size = sum(map(len, pieces))
    if size <= _WRITTEN_AT_ONCE:
        await send_bytes(send, 200, JSON, b"".join(pieces), request_id)
        return
    await start_answer(send, 200, JSON, size, request_id)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
