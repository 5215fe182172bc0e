"""S3: objects in a tool's result, and objects of any size as streams."""

import asyncio
import base64
import binascii
import hashlib
import logging
import mimetypes
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field

from app.errors import Conflict, GatewayError, InvalidArguments, NotFound
from app.results import Result
from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures
from app.services.aws.names import BucketAllowlist
from app.services.aws.parts import MAX_PARTS, CountedStream, Part, chained, first, in_parts, part_sizes
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import BucketTypeDef, GetObjectOutputTypeDef

log = logging.getLogger(__name__)

ContentEncoding = Literal["text", "base64"]
PresignedMethod = Literal["GET", "PUT", "HEAD"]

_PARTS_IN_FLIGHT = 2
_READ_BYTES = 256 * 1024
_LINK_SECONDS = 900
"""How long the address is good for that stands in for a content too large to return."""
_ABORT_WITHIN = 30.0
_MAX_METADATA_BYTES = 2048
_METADATA_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;[\x20-\x7e]*)?", re.ASCII)
_RANGE = re.compile(r"bytes=(?:\d{1,19}-\d{0,19}|-\d{1,19})")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

# What `idempotency_key` leaves on the object it wrote.
_OWN_METADATA = "switchboard-"
_WRITER = "switchboard-idempotency-key"
_FINGERPRINT = "switchboard-fingerprint"


class Checksum(BaseModel):
    """A checksum that S3 has verified and keeps with the object."""

    algorithm: str = Field(description="SHA256, CRC32 or another of S3's.")
    value: str = Field(description="In base64; a COMPOSITE one ends with the number of parts.")
    type: str = Field(description="FULL_OBJECT, or COMPOSITE: the checksum of the parts' checksums.")


class UploadedObject(Result):
    """An object as it was written."""

    bucket: str
    key: str
    etag: str
    version_id: str | None = Field(description="Null where the bucket keeps no versions.")
    size: int = Field(description="Bytes.")
    checksum: Checksum | None = None


class DownloadedObject(Result):
    """An object with its content, or with the address of a content that is too large to return."""

    bucket: str
    key: str
    content: str | None = Field(description="Text, or base64 of the bytes; null if it is too large.")
    encoding: ContentEncoding | None = Field(description="How `content` is written; null without content.")
    content_type: str
    content_encoding: str | None = Field(description="Compression of the content as it is stored, such as gzip.")
    size: int = Field(description="Bytes of the whole object, also where a range of it was asked for.")
    content_range: str | None = Field(description="What of it `content` is, such as `bytes 0-99/1234`; null for all.")
    etag: str
    version_id: str | None
    last_modified: datetime
    metadata: dict[str, str]
    url: str | None = Field(None, description="A presigned address to GET instead, where `content` is null.")
    reason: str | None = Field(None, description="Why there is no content.")


class ObjectSummary(BaseModel):
    """One object of a listing."""

    key: str
    size: int = Field(description="Bytes.")
    last_modified: datetime
    etag: str
    storage_class: str


class ObjectList(Result):
    """One page of a bucket's objects."""

    bucket: str
    prefix: str
    delimiter: str | None
    objects: list[ObjectSummary]
    common_prefixes: list[str] = Field(description="With a delimiter: the `folders` at this level.")
    key_count: int
    is_truncated: bool
    next_continuation_token: str | None = Field(description="Pass it as `continuation_token` for the next page.")


class DeletedObject(Result):
    """What was deleted. S3 answers alike whether there was an object at the key or not."""

    bucket: str
    key: str
    version_id: str | None = Field(description="The version that was deleted, or that of the delete marker.")
    delete_marker: bool = Field(description="True: a marker was put over (or, by version, was itself) the object.")


class PresignedUrl(Result):
    """An address that lets whoever has it make one kind of request, without credentials."""

    bucket: str
    key: str
    method: PresignedMethod
    url: str
    expires_in: int = Field(description="Seconds. It ends sooner if the gateway's own credentials do.")
    expires_at: datetime


class BucketSummary(BaseModel):
    """One bucket of a listing."""

    name: str
    creation_date: datetime | None
    region: str | None
    uri: str = Field(description="The resource that lists its objects.")


class BucketList(Result):
    """One page of the buckets that the gateway may use."""

    buckets: list[BucketSummary]
    next_cursor: str | None


class BucketContents(Result):
    """One bucket, with a page of its objects."""

    name: str
    region: str
    prefix: str
    objects: list[ObjectSummary]
    next_cursor: str | None


@dataclass
class ObjectStream:
    """An object that is being read. Use it as a context manager, so that the connection is given back."""

    content_type: str
    content_encoding: str | None
    content_length: int
    content_range: str | None
    size: int
    etag: str
    version_id: str | None
    last_modified: datetime
    metadata: dict[str, str]
    _body: Any
    _action: str = "s3:GetObject"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the content in pieces, none larger than 256 KiB.

        Raises:
            BackendUnavailable: the connection broke off, or the bytes do not match their checksum.
        """
        while True:
            with aws_failures(self._action):
                chunk: bytes = await self._body.read(_READ_BYTES)
            if not chunk:
                return
            yield chunk

    async def read(self) -> bytes:
        """Return the content as a whole."""
        return b"".join([chunk async for chunk in self.chunks()])


@dataclass(frozen=True)
class _Writing:
    """What goes with the bytes of an object that is written."""

    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    if_none_match: bool = False


class ObjectStore:
    """The objects of the buckets that the gateway may use."""

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self._inline_limit = settings.s3_max_inline_bytes
        self._part_bytes = settings.s3_part_bytes
        self._allowed = BucketAllowlist(settings.allowed_buckets)
        self._unfinished: set[asyncio.Task[None]] = set()

    async def settle(self) -> None:
        """Wait until every upload that was broken off is cleaned up."""
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_ABORT_WITHIN)

    # Whole objects

    async def upload(
        self,
        bucket: str,
        key: str,
        content: str,
        *,
        encoding: ContentEncoding = "text",
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        idempotency_key: str | None = None,
    ) -> UploadedObject:
        """Write an object from text or base64.

        Args:
            if_none_match: write only if there is no object at the key.
            idempotency_key: while the object that a call with this key wrote is the current one, a repeat writes
                nothing and answers with it. Once it was overwritten or deleted, the repeat writes again: S3 is
                the only memory there is.

        Raises:
            Conflict: there is an object already, or the idempotency key was used for something else.
            InvalidArguments: the content is no base64, too large, or an argument breaks S3's rules.
            Forbidden: the bucket or key is not allowed.
        """
        self._allowed.check(bucket, key)
        body = content.encode() if encoding == "text" else _decoded(content)
        if len(body) > self._inline_limit:
            raise InvalidArguments.of(
                "content",
                f"larger than {self._inline_limit:,} bytes; POST it to /mcp/aws/s3/<bucket>/<key>, or PUT it to an "
                "address from s3_presign_url",
            )
        writing = _writing(bucket, key, content_type, metadata, if_none_match=if_none_match, text=encoding == "text")
        if idempotency_key is None:
            return await self._put(writing, Part.of(body))
        return await self._put_unless_done(writing, body, idempotency_key)

    async def download(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        byte_range: str | None = None,
        encoding: ContentEncoding | None = None,
    ) -> DownloadedObject:
        """Return an object's content, or an address for it if it is too large.

        Args:
            byte_range: as in HTTP, `bytes=0-99`, `bytes=100-` or `bytes=-100`.
            encoding: how to write the content; text where it is text if left out.

        Raises:
            NotFound: the bucket, key or version does not exist.
            InvalidArguments: text was asked for and the content is none.
            RangeNotSatisfiable: the range begins after the end.
        """
        async with await self.open(bucket, key, version_id=version_id, byte_range=byte_range) as stream:
            content: str | None = None
            written: ContentEncoding | None = None
            url = reason = None
            if stream.content_length > self._inline_limit:
                reason = (
                    f"The content has {stream.content_length:,} bytes and a result holds at most "
                    f"{self._inline_limit:,}. GET `url`, or ask for a `range`."
                )
            else:
                content, written = _written(await stream.read(), encoding)
        if reason is not None:
            url = (await self.presign(bucket, key, "GET", _LINK_SECONDS, version_id=version_id)).url
        return DownloadedObject(
            bucket=bucket,
            key=key,
            content=content,
            encoding=written,
            content_type=stream.content_type,
            content_encoding=stream.content_encoding,
            size=stream.size,
            content_range=stream.content_range,
            etag=stream.etag,
            version_id=stream.version_id,
            last_modified=stream.last_modified,
            metadata=stream.metadata,
            url=url,
            reason=reason,
        )

    async def delete(self, bucket: str, key: str, version_id: str | None = None) -> DeletedObject:
        """Delete an object, or one version of it.

        Raises:
            NotFound: the bucket does not exist. A missing key is no error.
        """
        self._allowed.check(bucket, key)
        clients = await self._connection.clients()
        with aws_failures("s3:DeleteObject", missing=_no_object(bucket, key, version_id), bucket=bucket):
            answer = await clients.s3.delete_object(Bucket=bucket, Key=key, **_version(version_id))
        return DeletedObject(
            bucket=bucket,
            key=key,
            version_id=answer.get("VersionId", version_id),
            delete_marker=answer.get("DeleteMarker", False),
        )

    async def presign(
        self, bucket: str, key: str, method: PresignedMethod, expires_in: int, *, version_id: str | None = None
    ) -> PresignedUrl:
        """Sign an address for one request. Nothing is asked of S3, so the object need not exist.

        Args:
            expires_in: seconds, 1 to 604,800.
        """
        self._allowed.check(bucket, key)
        clients = await self._connection.clients()
        operation = {"GET": "get_object", "PUT": "put_object", "HEAD": "head_object"}[method]
        with aws_failures(f"s3:{operation}", bucket=bucket):
            url = await clients.s3.generate_presigned_url(
                operation, Params={"Bucket": bucket, "Key": key, **_version(version_id)}, ExpiresIn=expires_in
            )
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_in)
        return PresignedUrl(
            bucket=bucket, key=key, method=method, url=url, expires_in=expires_in, expires_at=expires_at
        )

    # Listings

    async def list_objects(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str | None = None,
        max_keys: int = 100,
        continuation_token: str | None = None,
    ) -> ObjectList:
        """Return a page of a bucket's objects, in the order of their keys' bytes.

        Raises:
            NotFound: the bucket does not exist.
            Forbidden: the bucket, or this prefix of it, is not allowed.
        """
        self._allowed.check(bucket, prefix)
        clients = await self._connection.clients()
        optional: dict[str, Any] = {"Delimiter": delimiter, "ContinuationToken": continuation_token}
        given = {name: value for name, value in optional.items() if value is not None}
        with aws_failures("s3:ListBucket", bucket=bucket):
            page = await clients.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=max_keys, **given)
        return ObjectList(
            bucket=bucket,
            prefix=prefix,
            delimiter=delimiter,
            objects=[
                ObjectSummary(
                    key=found["Key"],  # pyright: ignore[reportTypedDictNotRequiredAccess] - S3 always gives it
                    size=found.get("Size", 0),
                    last_modified=found.get("LastModified", datetime.fromtimestamp(0, UTC)),
                    etag=found.get("ETag", "").strip('"'),
                    storage_class=found.get("StorageClass", "STANDARD"),
                )
                for found in page.get("Contents", [])
            ],
            common_prefixes=[found.get("Prefix", "") for found in page.get("CommonPrefixes", [])],
            key_count=page.get("KeyCount", 0),
            is_truncated=page["IsTruncated"],
            next_continuation_token=page.get("NextContinuationToken"),
        )

    async def list_buckets(self, cursor: str | None, limit: int) -> BucketList:
        """Return a page of the buckets that callers may use; it may be short, or empty, before the last."""
        clients = await self._connection.clients()
        after = cursor.removeprefix(_AFTER) if cursor and cursor.startswith(_AFTER) else ""
        token = {"ContinuationToken": cursor} if cursor and not after else {}
        with aws_failures("s3:ListAllMyBuckets"):
            page = await clients.s3.list_buckets(MaxBuckets=limit, **token)
        found = [bucket for bucket in page["Buckets"] if bucket.get("Name", "") > after]
        next_cursor = page.get("ContinuationToken")
        if len(found) > limit:
            # Compatible stores answer with every bucket at once, so the page is cut here.
            found = found[:limit]
            next_cursor = _AFTER + found[-1].get("Name", "")
        shown = [_bucket_summary(bucket) for bucket in found if self._allowed.shows(bucket.get("Name", ""))]
        return BucketList(buckets=shown, next_cursor=next_cursor)

    async def describe_bucket(self, bucket: str, prefix: str, cursor: str | None, limit: int) -> BucketContents:
        """Return where a bucket is and a page of its objects."""
        page = await self.list_objects(bucket, prefix=prefix, max_keys=limit, continuation_token=cursor)
        clients = await self._connection.clients()
        with aws_failures("s3:GetBucketLocation", bucket=bucket, missing=f"There is no bucket {bucket!r}."):
            answer = await clients.s3.get_bucket_location(Bucket=bucket)
        return BucketContents(
            name=bucket,
            region=answer.get("LocationConstraint") or "us-east-1",
            prefix=prefix,
            objects=page.objects,
            next_cursor=page.next_continuation_token,
        )

    # Streams

    async def open(
        self, bucket: str, key: str, *, version_id: str | None = None, byte_range: str | None = None
    ) -> ObjectStream:
        """Begin to read an object; enter the result to have it closed.

        Raises:
            NotFound, InvalidArguments, RangeNotSatisfiable, Forbidden: as for `download`.
        """
        self._allowed.check(bucket, key)
        if byte_range is not None and not _RANGE.fullmatch(byte_range):
            raise InvalidArguments.of("range", "expected one range, as bytes=0-99, bytes=100- or bytes=-100")
        clients = await self._connection.clients()
        optional = _version(version_id)
        if byte_range:
            optional["Range"] = byte_range
        with aws_failures("s3:GetObject", missing=_no_object(bucket, key, version_id), bucket=bucket):
            answer = await clients.s3.get_object(Bucket=bucket, Key=key, **optional)
        return _stream(answer)

    async def upload_stream(
        self,
        bucket: str,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_none_match: bool = False,
        declared_size: int | None = None,
    ) -> UploadedObject:
        """Write an object of any size from a stream, in flat memory.

        What fits into one part goes up as one request. More becomes a multipart upload, of which three parts are
        held at a time, two on their way and one that fills: in memory, or on disk if S3's limit of ten thousand
        parts makes them larger than 16 MiB. If anything fails, the caller's going away included, the upload is
        aborted and S3 keeps nothing.

        Args:
            chunks: the bytes; an exception of theirs ends the upload and is passed on.
            declared_size: bytes to come, if known; fewer or more are refused.

        Raises:
            Conflict: `if_none_match`, and there is an object already.
            InvalidArguments: the stream is not as long as declared, or longer than S3 takes.
        """
        self._allowed.check(bucket, key)
        writing = _writing(bucket, key, content_type, metadata, if_none_match=if_none_match, text=False)
        counted = CountedStream(chunks, declared_size)
        async with aclosing(in_parts(counted, part_sizes(self._part_bytes, declared_size))) as parts:
            # Two parts are looked at: only then is it sure that one request is not enough.
            ahead = deque([part async for part in first(2, parts)])
            if len(ahead) < 2:
                return await self._put(writing, ahead.popleft() if ahead else Part.of(b""))
            async with self._multipart(writing) as upload_id:
                done = await self._send_parts(writing, upload_id, chained(ahead, parts))
                return await self._complete(writing, upload_id, done, counted.size)

    async def _send_parts(self, writing: _Writing, upload_id: str, parts: AsyncIterator[Part]) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        in_flight: deque[asyncio.Task[dict[str, Any]]] = deque()
        number = 0
        try:
            async for part in parts:
                number += 1
                if number > MAX_PARTS:
                    raise InvalidArguments(f"The stream is longer than {MAX_PARTS:,} parts, which S3 does not take.")
                if len(in_flight) == _PARTS_IN_FLIGHT:
                    done.append(await in_flight.popleft())
                in_flight.append(asyncio.create_task(self._send_part(writing, upload_id, number, part)))
            while in_flight:
                done.append(await in_flight.popleft())
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)
        return done

    async def _send_part(self, writing: _Writing, upload_id: str, number: int, part: Part) -> dict[str, Any]:
        clients = await self._connection.clients()
        with aws_failures("s3:PutObject", bucket=writing.bucket):
            async with part.sending():
                answer = await clients.s3.upload_part(
                    Bucket=writing.bucket,
                    Key=writing.key,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=part.file,
                    ChecksumAlgorithm="CRC32",
                )
        checksum = {"ChecksumCRC32": answer["ChecksumCRC32"]} if "ChecksumCRC32" in answer else {}
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    @asynccontextmanager
    async def _multipart(self, writing: _Writing) -> AsyncGenerator[str]:
        """Yield the id of a multipart upload, which is aborted unless the body ends well."""
        clients = await self._connection.clients()

        async def begin() -> str:
            with aws_failures("s3:PutObject", bucket=writing.bucket):
                answer = await clients.s3_once.create_multipart_upload(
                    Bucket=writing.bucket,
                    Key=writing.key,
                    ContentType=writing.content_type,
                    Metadata=writing.metadata,
                    ChecksumAlgorithm="CRC32",
                )
            return answer["UploadId"]

        # Shielded: were it cut off half way, S3 would keep an upload whose id nobody knows.
        begun = asyncio.create_task(begin())
        try:
            yield await asyncio.shield(begun)
        except BaseException:
            await self._see_through(self._abort(writing, begun))
            raise

    async def _abort(self, writing: _Writing, begun: "asyncio.Task[str]") -> None:
        try:
            upload_id = await begun
        except GatewayError:
            return
        clients = await self._connection.clients()
        try:
            with aws_failures("s3:AbortMultipartUpload", bucket=writing.bucket, missing="The upload is gone."):
                async with asyncio.timeout(_ABORT_WITHIN):
                    await clients.s3.abort_multipart_upload(Bucket=writing.bucket, Key=writing.key, UploadId=upload_id)
        except (NotFound, Conflict):
            log.debug("upload %s was gone before it was aborted", upload_id)
        except GatewayError as error:
            log.warning(
                "bucket=%s upload_id=%s: parts are left, abort it or have a lifecycle rule do so (%s)",
                writing.bucket,
                upload_id,
                error.detail,
            )

    async def _see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end even if the caller is cancelled, once more, while it waits."""
        task = asyncio.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    async def _complete(
        self, writing: _Writing, upload_id: str, parts: list[dict[str, Any]], size: int
    ) -> UploadedObject:
        clients = await self._connection.clients()
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if writing.if_none_match else {}
        # S3 answers a repeat of the same completion alike, unless a condition stands before it.
        client = clients.s3_once if condition else clients.s3
        with aws_failures("s3:PutObject", bucket=writing.bucket):
            answer: Any = await client.complete_multipart_upload(
                Bucket=writing.bucket,
                Key=writing.key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},  # pyright: ignore[reportArgumentType] - its checksums vary
                **condition,
            )
        return UploadedObject(
            bucket=writing.bucket,
            key=writing.key,
            etag=str(answer.get("ETag", "")).strip('"'),
            version_id=answer.get("VersionId"),
            size=size,
            checksum=_checksum(answer),
        )

    # Single requests

    async def _put(self, writing: _Writing, body: Part, condition: dict[str, Any] | None = None) -> UploadedObject:
        clients = await self._connection.clients()
        condition = condition or ({"IfNoneMatch": "*"} if writing.if_none_match else {})
        # Repeated after its answer was lost, a conditional write would find its own object in the way.
        client = clients.s3_once if condition else clients.s3
        digest = base64.b64encode(body.sha256()).decode()
        with aws_failures("s3:PutObject", bucket=writing.bucket, missing="The object was deleted meanwhile."):
            async with body.sending():
                answer = await client.put_object(
                    Bucket=writing.bucket,
                    Key=writing.key,
                    Body=body.file,
                    ContentType=writing.content_type,
                    Metadata=writing.metadata,
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=digest,
                    **condition,
                )
        return UploadedObject(
            bucket=writing.bucket,
            key=writing.key,
            etag=answer["ETag"].strip('"'),
            version_id=answer.get("VersionId"),
            size=body.size,
            checksum=Checksum(algorithm="SHA256", value=digest, type="FULL_OBJECT"),
        )

    async def _put_unless_done(self, writing: _Writing, body: bytes, idempotency_key: str) -> UploadedObject:
        """Write once for an idempotency key: look, then write on the condition that nothing has changed since."""
        writer = hashlib.sha256(idempotency_key.encode()).hexdigest()
        digest = hashlib.sha256(repr((writing.content_type, sorted(writing.metadata.items()))).encode())
        digest.update(body)
        marked = _Writing(
            writing.bucket,
            writing.key,
            writing.content_type,
            {**writing.metadata, _WRITER: writer, _FINGERPRINT: digest.hexdigest()},
        )
        for _ in range(2):
            current = await self._head(writing.bucket, writing.key)
            if current is not None and current["Metadata"].get(_WRITER) == writer:
                if current["Metadata"].get(_FINGERPRINT) != digest.hexdigest():
                    raise Conflict("This idempotency_key has written something else to the same key. Choose another.")
                return UploadedObject(
                    bucket=writing.bucket,
                    key=writing.key,
                    etag=current["ETag"].strip('"'),
                    version_id=current.get("VersionId"),
                    size=current["ContentLength"],
                    checksum=_checksum(current),
                )
            if current is not None and writing.if_none_match:
                raise Conflict("An object exists already at this key.")
            try:
                return await self._put(
                    marked, Part.of(body), {"IfMatch": current["ETag"]} if current else {"IfNoneMatch": "*"}
                )
            except Conflict:
                continue
            except NotFound:
                if current is None:
                    raise  # it is the bucket that is missing, and not the object that was there a moment ago
        raise Conflict("Others write to the same key at the same moment. Repeat with the same idempotency_key.")

    async def _head(self, bucket: str, key: str) -> Any:
        clients = await self._connection.clients()
        try:
            with aws_failures("s3:GetObject", bucket=bucket):
                return await clients.s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except NotFound:
            return None


_AFTER = "after:"
"""Marks a cursor of our own, for stores that do not page their buckets."""


def _writing(
    bucket: str,
    key: str,
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    *,
    if_none_match: bool,
    text: bool,
) -> _Writing:
    if content_type is None:
        guessed, compression = mimetypes.guess_type(key)
        content_type = f"application/{compression}" if compression else guessed
        content_type = content_type or ("text/plain; charset=utf-8" if text else "application/octet-stream")
    elif not _MEDIA_TYPE.fullmatch(content_type):
        raise InvalidArguments.of("content_type", "expected a media type such as text/csv")
    checked = {name.lower(): value for name, value in (metadata or {}).items()}
    for name, value in checked.items():
        if not _METADATA_NAME.fullmatch(name) or name.startswith(_OWN_METADATA):
            raise InvalidArguments.of("metadata", f"a name has letters, digits, - and _ and no {_OWN_METADATA!r} ahead")
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise InvalidArguments.of("metadata", "a value is printable ASCII without spaces around it")
    if sum(len(name) + len(value) for name, value in checked.items()) > _MAX_METADATA_BYTES:
        raise InvalidArguments.of("metadata", "larger than 2 KB in all")
    return _Writing(bucket, key, content_type, checked, if_none_match)


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArguments.of("content", "not base64, which `encoding` says it is") from None


def _written(body: bytes, encoding: ContentEncoding | None) -> tuple[str, ContentEncoding]:
    """Write bytes as text where they are UTF-8 without control characters, else as base64."""
    if encoding != "base64":
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and (encoding == "text" or not _NOT_TEXT.search(text)):
            return text, "text"
        if encoding == "text":
            raise InvalidArguments.of("encoding", "the content is not UTF-8; ask for base64")
    return base64.b64encode(body).decode(), "base64"


def _stream(answer: "GetObjectOutputTypeDef") -> ObjectStream:
    length = answer["ContentLength"]
    content_range = answer.get("ContentRange")
    return ObjectStream(
        content_type=answer.get("ContentType", "application/octet-stream"),
        content_encoding=answer.get("ContentEncoding"),
        content_length=length,
        content_range=content_range,
        size=int(content_range.rpartition("/")[2]) if content_range else length,
        etag=answer["ETag"].strip('"'),
        version_id=answer.get("VersionId"),
        last_modified=answer["LastModified"].astimezone(UTC),
        metadata={name: value for name, value in answer["Metadata"].items() if not name.startswith(_OWN_METADATA)},
        _body=answer["Body"],
    )


def _checksum(answer: Mapping[str, Any]) -> Checksum | None:
    for name, value in answer.items():
        if name.startswith("Checksum") and name not in ("ChecksumType", "ChecksumAlgorithm"):
            kind = answer.get("ChecksumType") or ("COMPOSITE" if "-" in str(value) else "FULL_OBJECT")
            return Checksum(algorithm=name.removeprefix("Checksum"), value=str(value), type=str(kind))
    return None


def _version(version_id: str | None) -> dict[str, Any]:
    return {"VersionId": version_id} if version_id else {}


def _no_object(bucket: str, key: str, version_id: str | None) -> str:
    version = f", version {version_id!r}" if version_id else ""
    return f"There is no object {key!r}{version} in the bucket {bucket!r}."


def _bucket_summary(bucket: "BucketTypeDef") -> BucketSummary:
    name = bucket.get("Name", "")
    return BucketSummary(
        name=name,
        creation_date=bucket.get("CreationDate"),
        region=bucket.get("BucketRegion"),
        uri=f"aws://s3/buckets/{name}",
    )
