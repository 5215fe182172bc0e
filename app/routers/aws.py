"""What the gateway offers of AWS: objects in S3, Lambda functions, SSM parameters."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.errors import (
    BackendNotConfigured,
    Conflict,
    Forbidden,
    InvalidArguments,
    NotFound,
    RangeNotSatisfiable,
    TooManyRequests,
    UnsupportedMediaType,
)
from app.findings import Finding
from app.guard.principal import Principal
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, route, tool
from app.servers.methods import Encoded
from app.services.aws.examination import examine
from app.services.aws.functions import FunctionList, FunctionVersions, Invocation, InvocationType, LogType
from app.services.aws.names import BucketName, FunctionName, ObjectKey, ParameterName, ParameterPath, Qualifier
from app.services.aws.parameters import ParameterList, ParametersByPath, ParameterValue, ParameterVersions
from app.services.aws.s3.reading import ObjectStream
from app.services.aws.s3.schemas import (
    BucketContents,
    BucketList,
    ContentEncoding,
    DeletedObject,
    DownloadedObject,
    ObjectList,
    PresignedMethod,
    PresignedUrl,
    UploadedObject,
)
from app.services.aws.service import AwsService, open_aws
from app.services.aws.settings import AwsSettings

VersionId = Annotated[str, Field(min_length=1, max_length=1024, description="The current one if left out.")]
Limit = Annotated[int, Field(ge=1, le=50)]
Cursor = Annotated[str, Field(max_length=4096)]

_LAMBDA_MAXIMUM = 900.0
"""Seconds that Lambda itself lets a function run. AWS_LAMBDA_TIMEOUT says how long the gateway waits."""

LISTINGS_KEPT = 10.0
"""Seconds for which what there is in the account is answered from memory: each look takes of its quota of requests."""
MOST_INVOCATIONS = 128
"""Functions may be slow, and take neither the other tools' places nor their connections."""

_STREAM_PATH = "/s3/{bucket}/{key:path}"
_METADATA_HEADER = "x-amz-meta-"
_FORM = "application/x-www-form-urlencoded"


PageT = TypeVar("PageT", BucketList, BucketContents, FunctionList, FunctionVersions, ParameterList, ParameterVersions)


def _own_page(principal: Principal, page: PageT) -> PageT:
    """Return a page that only its owner can go on from."""
    return page.model_copy(update={"next_cursor": principal.own_cursor(page.next_cursor)})


def _path_parameters(key: str) -> list[JsonValue]:
    return [
        {
            "name": "bucket",
            "in": "path",
            "required": True,
            "description": "Name of the bucket.",
            "schema": {"type": "string", "minLength": 3, "maxLength": 63, "examples": ["switchboard-demo"]},
        },
        {
            "name": "key",
            "in": "path",
            "required": True,
            "description": "Key of the object, percent-encoded; its slashes may stand as they are.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 1024, "examples": [key]},
        },
    ]


_BYTES: JsonObject = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_UPLOAD_OPENAPI: JsonObject = {
    "parameters": [
        *_path_parameters("uploads/report.pdf"),
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "`*` writes only if there is no object at the key.",
            "schema": {"type": "string", "enum": ["*"]},
        },
    ],
    "requestBody": {"description": "The object's bytes.", "content": _BYTES},
    "responses": {
        "200": {
            "description": "The object as it was written.",
            # s3_upload_file brings the schema along.
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/UploadedObject"}}},
        }
    },
}
_DOWNLOAD_OPENAPI: JsonObject = {
    "parameters": [
        *_path_parameters("customers/12345/contract.md"),
        {
            "name": "version_id",
            "in": "query",
            "description": "A version of the object; the current one if left out.",
            "schema": {"type": "string", "minLength": 1},
        },
        {
            "name": "Range",
            "in": "header",
            "description": "One range: `bytes=0-99`, `bytes=100-` or `bytes=-100`. Ignored by HEAD.",
            "schema": {"type": "string"},
        },
    ],
    "responses": {
        "200": {"description": "The object's bytes.", "content": _BYTES},
        "206": {"description": "The range's bytes.", "content": _BYTES},
    },
}


_DECRYPT = "Show SecureStrings, else masked; only if you need the secret itself."


class GetParameterStoreValueArguments(BaseModel):
    """Which parameter, and whether a secret is shown."""

    model_config = ConfigDict(extra="forbid")

    parameter_name: ParameterName
    with_decryption: bool = Field(False, description=_DECRYPT)

    @model_validator(mode="before")
    @classmethod
    def _take_boto_name(cls, arguments: Any) -> Any:
        if isinstance(arguments, dict) and "name" in arguments and "parameter_name" not in arguments:
            arguments = {**arguments, "parameter_name": arguments["name"]}  # pyright: ignore[reportUnknownVariableType] - raw JSON
            del arguments["name"]
        return arguments  # pyright: ignore[reportUnknownVariableType] - raw JSON


class AWSMCPServer(BaseMCPServer):
    """Objects in S3, Lambda functions and SSM parameters, in the words of boto3."""

    server_id = "aws"
    name = "AWS MCP Server"
    settings_class = AwsSettings
    capabilities = ("s3", "lambda", "ssm")

    _aws: AwsService
    """There while the server is open."""

    def __init__(
        self,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        region_name: str | None = None,
        *,
        endpoint_url: str | None = None,
        settings: AwsSettings | None = None,
    ) -> None:
        given = {
            "access_key_id": aws_access_key_id,
            "secret_access_key": aws_secret_access_key,
            "region": region_name,
            "endpoint_url": endpoint_url,
        }
        super().__init__(
            settings=settings or AwsSettings.model_validate({name: value for name, value in given.items() if value})
        )

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Hold the clients of AWS. Neither AWS nor credentials need be there."""
        async with open_aws(self.settings, self.outages) as self._aws:
            yield

    def unconfigured(self) -> BackendNotConfigured | None:
        return self._aws.unconfigured()

    async def ping(self) -> None:
        """Return if AWS answers and knows the gateway's credentials.

        Raises:
            BackendUnavailable: it does not; the message says why.
        """
        await self._aws.ping()

    async def examine(self) -> Sequence[Finding]:
        return await examine(self._aws, self.settings)

    # S3

    @tool(
        destructive=True,
        open_world=True,
        needs_rule="key",
        example={"bucket": "switchboard-demo", "key": "customers/12345/notes/call.txt", "content": "Asked for SSO."},
        errors=[NotFound, Conflict, Forbidden, TooManyRequests],
    )
    async def s3_upload_file(
        self,
        bucket: BucketName,
        key: ObjectKey,
        content: Annotated[
            str, Encoded(by="encoding"), Field(description="As `encoding` says; base64 is for what is no text.")
        ],
        encoding: ContentEncoding = "text",
        content_type: Annotated[
            str | None, Field(max_length=256, description="Guessed from the key if left out.")
        ] = None,
        metadata: Annotated[dict[str, str] | None, Field(max_length=64, description="ASCII, 2 KB in all.")] = None,
        if_none_match: Annotated[bool, Field(description="Never overwrite: answer a conflict.")] = False,
        idempotency_key: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=256,
                description="A repeat with the same one writes nothing while that object is the current one.",
            ),
        ] = None,
    ) -> UploadedObject:
        """Write an object to an S3 bucket, in place of what is there.

        Content beyond the gateway's limit (1 MiB unless configured) is refused with the way to stream it.
        """
        return await self._aws.objects.upload(
            bucket,
            key,
            content,
            encoding=encoding,
            content_type=content_type,
            metadata=metadata,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key,
        )

    @tool(
        read_only=True,
        open_world=True,
        needs_rule="key",
        example={"bucket": "switchboard-demo", "key": "customers/12345/contract.md"},
        errors=[NotFound, Forbidden, RangeNotSatisfiable, TooManyRequests],
    )
    async def s3_download_file(
        self,
        principal: Principal,
        bucket: BucketName,
        key: ObjectKey,
        version_id: VersionId | None = None,
        range: Annotated[  # noqa: A002 - boto3's word
            str | None,
            Field(max_length=64, description="bytes=0-99, bytes=100- or bytes=-100."),
        ] = None,
        encoding: Annotated[
            ContentEncoding | None, Field(description="If left out: text where it is text, else base64.")
        ] = None,
    ) -> DownloadedObject:
        """Read an object from an S3 bucket.

        Beyond the gateway's limit (1 MiB unless configured) a presigned `url` comes instead; ask for a `range`.
        """
        return await self._aws.objects.download(
            bucket,
            key,
            version_id=version_id,
            byte_range=range,
            encoding=encoding,
            short_link=principal.customer is not None,
        )

    @tool(
        read_only=True,
        open_world=True,
        needs_rule="prefix",
        example={"bucket": "switchboard-demo", "prefix": "customers/12345/", "delimiter": "/"},
        errors=[NotFound, Forbidden, TooManyRequests],
    )
    async def s3_list_objects(
        self,
        principal: Principal,
        bucket: BucketName,
        prefix: Annotated[str, Field(max_length=1024)] = "",
        delimiter: Annotated[
            str | None,
            Field(min_length=1, max_length=64, description="Mostly `/`: deeper keys are folders in `common_prefixes`."),
        ] = None,
        max_keys: Annotated[int, Field(ge=1, le=1000)] = 100,
        continuation_token: Annotated[
            str | None,
            Field(min_length=1, max_length=4096, description="`next_continuation_token` of the page before."),
        ] = None,
    ) -> ObjectList:
        """List objects of an S3 bucket in the order of their keys."""
        token = principal.read_cursor(continuation_token, "continuation_token")
        page = await self._aws.buckets.list_objects(
            bucket, prefix=prefix, delimiter=delimiter, max_keys=max_keys, continuation_token=token
        )
        return page.model_copy(update={"next_continuation_token": principal.own_cursor(page.next_continuation_token)})

    @tool(
        destructive=True,
        idempotent=True,
        open_world=True,
        needs_rule="key",
        example={"bucket": "switchboard-demo", "key": "customers/12345/notes/call.txt"},
        errors=[NotFound, Forbidden, TooManyRequests],
    )
    async def s3_delete_object(
        self, bucket: BucketName, key: ObjectKey, version_id: VersionId | None = None
    ) -> DeletedObject:
        """Delete an object from an S3 bucket; there need not be one.

        In a bucket that keeps versions this puts a delete marker over it, and with `version_id` deletes that version
        for good.
        """
        return await self._aws.objects.delete(bucket, key, version_id)

    @tool(
        # An address to PUT writes, by whoever has it: what may only read may not make one.
        destructive=True,
        idempotent=True,
        open_world=True,
        needs_rule="key",
        example={"bucket": "switchboard-demo", "key": "customers/12345/contract.md", "expires_in": 300},
        errors=[Forbidden],
    )
    async def s3_presign_url(
        self,
        principal: Principal,
        bucket: BucketName,
        key: ObjectKey,
        method: Annotated[PresignedMethod, Field(description="What the address allows: PUT writes.")] = "GET",
        expires_in: Annotated[
            int | None,
            Field(
                ge=1,
                le=604_800,
                description="Seconds; 900 if left out. The gateway may allow less.",
            ),
        ] = None,
    ) -> PresignedUrl:
        """Make an address by which anybody may read or write one S3 object for a while, without credentials.

        For what is too large for a result, or for a person to download. Show it only to those who may see, or for PUT
        overwrite, the object, which need not exist.
        """
        bound = principal.customer is not None
        return await self._aws.objects.presign(bucket, key, method, expires_in, short_link=bound)

    # Lambda

    @tool(
        destructive=True,
        open_world=True,
        confined="service",
        timeout=_LAMBDA_MAXIMUM,
        max_in_flight=MOST_INVOCATIONS,
        example={
            "function_name": "process-customer-feedback",
            "payload": {"feedback": "The agent was kind and solved it quickly.", "customer_id": "12345"},
        },
        errors=[NotFound, Conflict, Forbidden, TooManyRequests],
    )
    async def lambda_invoke(
        self,
        principal: Principal,
        function_name: FunctionName,
        payload: Annotated[JsonValue, Field(description="The event, any JSON.")] = {},  # noqa: B006 - never changed
        invocation_type: Annotated[
            InvocationType,
            Field(description="Event does not wait, DryRun only checks."),
        ] = "RequestResponse",
        log_type: Annotated[
            LogType, Field(description="Tail returns the end of the log (RequestResponse only).")
        ] = "None",
        qualifier: Qualifier | None = None,
    ) -> Invocation:
        """Invoke a Lambda function and return what it answers. It is never repeated automatically.

        If the function itself failed, the call still succeeds: `function_error` is set and `payload` has its error.
        """
        return await self._aws.functions.invoke(
            function_name,
            payload,
            invocation_type=invocation_type,
            log_type=log_type,
            qualifier=qualifier,
            customer=principal.customer,
        )

    # SSM

    @tool(
        read_only=True,
        open_world=True,
        example={"parameter_name": "/switchboard/support/email"},
        errors=[NotFound, Forbidden, TooManyRequests],
    )
    async def get_parameter_store_value(self, arguments: GetParameterStoreValueArguments) -> ParameterValue:
        """Read one parameter from the SSM parameter store; `name` is accepted for `parameter_name`."""
        return await self._aws.parameters.get(arguments.parameter_name, with_decryption=arguments.with_decryption)

    @tool(
        read_only=True,
        open_world=True,
        example={"path": "/switchboard/", "recursive": True},
        errors=[Forbidden, TooManyRequests],
    )
    async def get_parameters_by_path(
        self,
        principal: Principal,
        path: ParameterPath,
        recursive: Annotated[bool, Field(description="Also those below deeper levels.")] = False,
        with_decryption: Annotated[bool, Field(description=_DECRYPT)] = False,
        max_results: Annotated[int, Field(ge=1, le=10)] = 10,
        next_token: Annotated[
            str | None, Field(min_length=1, max_length=4096, description="`next_token` of the page before.")
        ] = None,
    ) -> ParametersByPath:
        """Read the parameters under a path of the SSM parameter store."""
        page = await self._aws.parameters.get_by_path(
            path,
            recursive=recursive,
            with_decryption=with_decryption,
            max_results=max_results,
            next_token=principal.read_cursor(next_token, "next_token"),
        )
        return page.model_copy(update={"next_token": principal.own_cursor(page.next_token)})

    # Resources

    @resource("aws://s3/buckets{?cursor,limit}", cache_seconds=LISTINGS_KEPT)
    async def s3_buckets(self, principal: Principal, cursor: Cursor | None = None, limit: Limit = 50) -> BucketList:
        """The S3 buckets that may be used; up to 10 s old."""
        return _own_page(principal, await self._aws.buckets.list_buckets(principal.read_cursor(cursor), limit))

    @resource("aws://s3/buckets/{bucket}{?prefix,cursor,limit}")
    async def s3_bucket(
        self,
        principal: Principal,
        bucket: BucketName,
        prefix: Annotated[str, Field(max_length=1024)] = "",
        cursor: Cursor | None = None,
        limit: Limit = 50,
    ) -> BucketContents:
        """One S3 bucket: its region and its objects."""
        page = await self._aws.buckets.describe_bucket(bucket, prefix, principal.read_cursor(cursor), limit)
        return _own_page(principal, page)

    @resource("aws://lambda/functions{?cursor,limit}", cache_seconds=LISTINGS_KEPT)
    async def lambda_functions(
        self, principal: Principal, cursor: Cursor | None = None, limit: Limit = 50
    ) -> FunctionList:
        """The Lambda functions that may be invoked; up to 10 s old."""
        return _own_page(principal, await self._aws.functions.list(principal.read_cursor(cursor), limit))

    @resource("aws://lambda/functions/{function_name}{?cursor,limit}")
    async def lambda_function(
        self, principal: Principal, function_name: FunctionName, cursor: Cursor | None = None, limit: Limit = 50
    ) -> FunctionVersions:
        """One Lambda function and its versions; never its environment."""
        page = await self._aws.functions.describe(function_name, principal.read_cursor(cursor), limit)
        return _own_page(principal, page)

    @resource("aws://ssm/parameters{?cursor,limit}", cache_seconds=LISTINGS_KEPT)
    async def ssm_parameters(
        self, principal: Principal, cursor: Cursor | None = None, limit: Limit = 50
    ) -> ParameterList:
        """The SSM parameters that may be read: names and types, never values; up to 10 s old."""
        return _own_page(principal, await self._aws.parameters.list(principal.read_cursor(cursor), limit))

    @resource("aws://ssm/parameters/{+parameter_name}{?cursor,limit}")
    async def ssm_parameter(
        self, principal: Principal, parameter_name: ParameterName, cursor: Cursor | None = None, limit: Limit = 50
    ) -> ParameterVersions:
        """One SSM parameter and its versions, never their values. Write the slashes of its name as %2F."""
        page = await self._aws.parameters.describe(parameter_name, principal.read_cursor(cursor), limit)
        return _own_page(principal, page)

    # Streams

    @route(_STREAM_PATH, methods=("POST",), acts_as="s3_upload_file", openapi=_UPLOAD_OPENAPI)
    async def s3_upload_stream(self, request: Request, context: CallContext, bucket: str, key: str) -> Response:
        """Write an object of any size from the request's body, in flat memory.

        Large bodies become a multipart upload, which is aborted if the body breaks off. Headers: `Content-Type`,
        `If-None-Match: *` to never overwrite, `x-amz-meta-<name>` for metadata.
        """
        headers = request.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaType("Send the object's bytes as they are, without Content-Encoding.")
        if headers.get("if-none-match", "*") != "*":
            raise InvalidArguments.of("If-None-Match", "only `*` is known here: write if there is no object")
        content_type = headers.get("content-type")
        length = headers.get("content-length")
        written = await self._aws.streams.upload(
            bucket,
            key,
            request.stream(),
            # The default of HTML forms and of curl says nothing about a file.
            content_type=None
            if content_type and content_type.partition(";")[0].strip().lower() == _FORM
            else content_type,
            metadata={
                # As S3 does with a header that comes several times.
                name.removeprefix(_METADATA_HEADER): ",".join(headers.getlist(name))
                for name in headers
                if name.startswith(_METADATA_HEADER)
            },
            if_none_match="if-none-match" in headers,
            declared_size=int(length) if length and length.isdecimal() else None,
        )
        return Response(written.model_dump_json(), media_type="application/json")

    @route(_STREAM_PATH, methods=("GET",), acts_as="s3_download_file", openapi=_DOWNLOAD_OPENAPI)
    async def s3_download_stream(self, request: Request, context: CallContext, bucket: str, key: str) -> Response:
        """Read an object of any size, or one range of it, as a stream; HEAD answers the whole object's headers.

        One `Range: bytes=…` answers 206 with `Content-Range`, or 416 beyond the end; several, and other units than
        bytes, are answered with the whole object. `?version_id=` reads a version.
        """
        version_id = request.query_params.get("version_id") or None
        if request.method == "HEAD":
            return ObjectResponse(await self._aws.streams.look(bucket, key, version_id=version_id))
        # A range under a condition may be ignored, and the whole object is always right.
        byte_range = None if "if-range" in request.headers else request.headers.get("range")
        return ObjectResponse(await self._aws.streams.open(bucket, key, version_id=version_id, byte_range=byte_range))


class ObjectResponse(StreamingResponse):
    """Passes an object, or what is known of it, on, and gives its connection back however that ends."""

    def __init__(self, stream: ObjectStream) -> None:
        headers = {
            "accept-ranges": "bytes",
            "content-length": str(stream.content_length),
            "etag": f'"{stream.etag}"',
            "last-modified": stream.last_modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            # Objects are other people's content: no browser may run one under the gateway's own origin.
            "content-disposition": "attachment",
            "content-security-policy": "sandbox",
            "x-content-type-options": "nosniff",
        }
        optional = {
            "content-range": stream.content_range,
            "content-encoding": stream.content_encoding,
            "x-amz-version-id": stream.version_id,
        }
        headers |= {name: value for name, value in optional.items() if value is not None}
        headers |= {f"{_METADATA_HEADER}{name}": value for name, value in stream.metadata.items()}
        headers["content-type"] = stream.content_type
        super().__init__(stream.chunks(), 206 if stream.content_range else 200, media_type=None)
        # As S3 has sent them: others write more into metadata than Latin-1 holds.
        self.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        async with self._stream:
            await super().__call__(scope, receive, send)
