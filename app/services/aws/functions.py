"""Lambda: functions are invoked and described."""

import asyncio
import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from app.errors import ArgumentRefused, InvalidArguments
from app.exact_json import MOST_VALUES_OF_ANSWERS, NotExact, NotJson, read
from app.results import Result
from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures, naming_others
from app.services.aws.names import FunctionAllowlist, has_qualifier
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_lambda.type_defs import FunctionConfigurationResponseTypeDef, FunctionConfigurationTypeDef

InvocationType = Literal["RequestResponse", "Event", "DryRun"]
LogType = Literal["None", "Tail"]
PayloadEncoding = Literal["json", "text", "base64"]

_DEEPEST = 100
"""Lists and objects in each other that are decoded: callers' parsers end at 200, and an answer wraps a payload."""


class Invocation(Result):
    """What Lambda answered. A handler that failed is told by `function_error`, not by a failed call."""

    function_name: str
    status_code: int = Field(description="202 for Event, 204 for DryRun.")
    payload: JsonValue = Field(description="The error object if `function_error` is set.")
    payload_encoding: PayloadEncoding | None = Field(
        description="json, or how it is written that is no JSON or would lose; null without one."
    )
    function_error: str | None = Field(description="Handled or Unhandled; null if it succeeded.")
    executed_version: str | None
    log_result: str | None = Field(description="The last 4 KB, with log_type Tail.")


class FunctionSummary(BaseModel):
    """One function, or one version of one. Its environment is left out: it often holds secrets."""

    function_name: str
    function_arn: str
    version: str
    description: str
    runtime: str | None = Field(description="Null for a container image.")
    handler: str | None
    memory_size: int | None = Field(description="MiB.")
    timeout: int | None = Field(description="Seconds.")
    last_modified: str | None
    uri: str = Field(description="The resource that describes the function.")


class FunctionList(Result):
    """One page of the functions that the gateway may invoke."""

    functions: list[FunctionSummary]
    next_cursor: str | None


class FunctionVersions(Result):
    """One function, with a page of its versions."""

    function: FunctionSummary
    versions: list[FunctionSummary]
    next_cursor: str | None


class Functions:
    """The Lambda functions that the gateway may invoke."""

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self._allowed = FunctionAllowlist(frozenset(settings.allowed_functions))

    async def invoke(
        self,
        function_name: str,
        payload: JsonValue,
        *,
        invocation_type: InvocationType = "RequestResponse",
        log_type: LogType = "None",
        qualifier: str | None = None,
        customer: str | None = None,
    ) -> Invocation:
        """Invoke a function, once: only a dry run is repeated after a failure of the network.

        Args:
            customer: to whom the caller is bound: the payload's `customer_id`, whatever it was.

        Raises:
            ArgumentRefused: the caller is bound, and the payload is no object that could say to whom.
            NotFound: the function, its version or alias does not exist.
            TooManyRequests: the function runs as often as it may.
            BackendTimeout: no answer within AWS_LAMBDA_TIMEOUT; the function may still run.
        """
        self._allowed.check(function_name)
        if customer is not None:
            if not isinstance(payload, dict):
                raise ArgumentRefused("payload: send an object; this session's customer_id is written into it.")
            payload = {**payload, "customer_id": customer}
        if qualifier and has_qualifier(function_name):
            raise InvalidArguments.of("qualifier", "function_name has a version or alias already; give one of them")
        if log_type == "Tail" and invocation_type != "RequestResponse":
            raise InvalidArguments.of("log_type", "Tail needs the invocation_type RequestResponse")
        clients = await self._connection.clients()
        client = clients.functions if invocation_type == "DryRun" else clients.functions_once
        options: dict[str, Any] = {"Qualifier": qualifier} if qualifier else {}
        async with naming_others(function_name, self._names):
            with aws_failures("lambda:InvokeFunction", missing=_no_function(function_name, qualifier)):
                answer = await client.invoke(
                    FunctionName=function_name,
                    Payload=_json(payload),
                    InvocationType=invocation_type,
                    LogType=log_type,
                    **options,
                )
                decoded, encoding = await asyncio.to_thread(_decoded, await answer["Payload"].read())
                return Invocation(
                    function_name=function_name,
                    status_code=answer["StatusCode"],
                    payload=decoded,
                    payload_encoding=encoding,
                    function_error=answer.get("FunctionError") or None,
                    executed_version=answer.get("ExecutedVersion") or None,
                    log_result=_log_tail(answer.get("LogResult")),
                )

    async def list(self, cursor: str | None, limit: int) -> FunctionList:
        """Return a page of the functions that callers may invoke; it may be short before the last."""
        clients = await self._connection.clients()
        with aws_failures("lambda:ListFunctions"):
            page = await clients.functions.list_functions(MaxItems=limit, **_marker(cursor))
            found = [_summary(function) for function in page["Functions"]]
        shown = [f for f in found if self._allowed.shows(f.function_name) or self._allowed.shows(f.function_arn)]
        return FunctionList(functions=shown, next_cursor=page.get("NextMarker") or None)

    async def _names(self) -> Iterable[str]:
        page = await self.list(None, 50)
        return (function.function_name for function in page.functions)

    async def describe(self, function_name: str, cursor: str | None, limit: int) -> FunctionVersions:
        """Return a function and a page of its versions.

        Raises:
            NotFound: it does not exist.
        """
        self._allowed.check(function_name)
        clients = await self._connection.clients()
        missing = _no_function(function_name, None)
        async with naming_others(function_name, self._names):
            with aws_failures("lambda:GetFunctionConfiguration", missing=missing):
                function = _summary(await clients.functions.get_function_configuration(FunctionName=function_name))
        with aws_failures("lambda:ListVersionsByFunction", missing=missing):
            page = await clients.functions.list_versions_by_function(
                FunctionName=function_name, MaxItems=limit, **_marker(cursor)
            )
            return FunctionVersions(
                function=function,
                versions=[_summary(version) for version in page["Versions"]],
                next_cursor=page.get("NextMarker") or None,
            )


def _json(payload: JsonValue) -> bytes:
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except ValueError:
        raise InvalidArguments.of("payload", "NaN and Infinity are no JSON") from None


def _decoded(body: bytes) -> tuple[JsonValue, PayloadEncoding | None]:
    """Return what a function answered, decoded only if nothing is lost by it."""
    if not body:
        return None, None
    with suppress(NotJson, NotExact):
        if _depth(payload := read(body, MOST_VALUES_OF_ANSWERS)) <= _DEEPEST:
            return payload, "json"
    try:
        return body.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"


def _depth(value: JsonValue) -> int:
    """Return how many lists and objects stand in each other."""
    if isinstance(value, dict | list):
        return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def _log_tail(encoded: str | None) -> str | None:
    return base64.b64decode(encoded).decode(errors="replace") if encoded else None


def _marker(cursor: str | None) -> dict[str, Any]:
    return {"Marker": cursor} if cursor else {}


def _no_function(name: str, qualifier: str | None) -> str:
    return f"There is no Lambda function {name!r}" + (f" with the qualifier {qualifier!r}." if qualifier else ".")


def _summary(function: "FunctionConfigurationTypeDef | FunctionConfigurationResponseTypeDef") -> FunctionSummary:
    name = function.get("FunctionName", "")
    return FunctionSummary(
        function_name=name,
        function_arn=function.get("FunctionArn", ""),
        version=function.get("Version", ""),
        description=function.get("Description", ""),
        runtime=function.get("Runtime"),
        handler=function.get("Handler"),
        memory_size=function.get("MemorySize"),
        timeout=function.get("Timeout"),
        last_modified=function.get("LastModified"),
        uri=f"aws://lambda/functions/{name}",
    )
