"""S3: objects in a tool's result, and objects of any size as streams."""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from app.errors import InvalidArguments
from app.services.aws.clients import Connection
from app.services.aws.failures import MissingBucket, aws_failures, head_object, naming_others
from app.services.aws.names import BucketAllowlist
from app.services.aws.s3.parts import Part
from app.services.aws.s3.ranges import asked_range, header_range
from app.services.aws.s3.reading import ObjectStream, stream_of
from app.services.aws.s3.schemas import (
    BucketContents,
    BucketList,
    BucketSummary,
    ContentEncoding,
    DeletedObject,
    DownloadedObject,
    ObjectList,
    ObjectSummary,
    PresignedMethod,
    PresignedUrl,
    UploadedObject,
)
from app.services.aws.s3.writing import ObjectWriter, checked_writing
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import BucketTypeDef

MOST_SHORT_LINK_SECONDS = 300
"""Seconds that an address is good for that is given to a session of one customer."""
_LINK_SECONDS = 900
"""How long an address is good for, unless it is asked for longer."""
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_AFTER = "after:"
"""Marks a cursor of our own, for stores that do not page their buckets."""


class ObjectStore:
    """The objects of the buckets that the gateway may use."""

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self._inline_limit = settings.s3_max_inline_bytes
        self._allowed = BucketAllowlist(settings.allowed_buckets)
        self._longest_link = settings.s3_presign_max_seconds
        self._writer = ObjectWriter(connection, settings.s3_part_bytes)
        self._stream_writer = ObjectWriter(connection, settings.s3_part_bytes, streams=True)

    async def settle(self) -> None:
        """Wait until every upload that was broken off is cleaned up."""
        await self._stream_writer.settle()

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
        body = _utf_8(content) if encoding == "text" else _decoded(content)
        if len(body) > self._inline_limit:
            raise InvalidArguments.of(
                "content",
                f"larger than {self._inline_limit:,} bytes; POST it to /mcp/aws/s3/<bucket>/<key>, or PUT it to an "
                "address from s3_presign_url",
            )
        writing = checked_writing(
            bucket, key, content_type, metadata, if_none_match=if_none_match, text=encoding == "text"
        )
        async with self._naming_buckets(bucket):
            if idempotency_key is None:
                return await self._writer.put(writing, Part.of(body))
            return await self._writer.put_unless_done(writing, body, idempotency_key)

    async def download(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        byte_range: str | None = None,
        encoding: ContentEncoding | None = None,
        short_link: bool = False,
    ) -> DownloadedObject:
        """Return an object's content, or an address for it if it is too large.

        Args:
            short_link: as for `presign`.
            byte_range: one range as in HTTP, `bytes=0-99`, `bytes=100-` or `bytes=-100`.
            encoding: how to write the content; text where it is text if left out.

        Raises:
            NotFound: the bucket, key or version does not exist.
            InvalidArguments: text was asked for and the content is none.
            RangeNotSatisfiable: the range begins after the end.
        """
        clients = await self._connection.clients()
        part = asked_range(byte_range) if byte_range is not None else None
        async with await self._open(clients.s3, bucket, key, version_id, part) as stream:
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
            url = (await self.presign(bucket, key, "GET", version_id=version_id, short_link=short_link)).url
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
        async with self._naming_buckets(bucket):
            with aws_failures("s3:DeleteObject", missing=_no_object(bucket, key, version_id), bucket=bucket):
                answer = await clients.s3.delete_object(Bucket=bucket, Key=key, **_version(version_id))
        return DeletedObject(
            bucket=bucket,
            key=key,
            version_id=answer.get("VersionId", version_id),
            delete_marker=answer.get("DeleteMarker", False),
        )

    async def presign(
        self,
        bucket: str,
        key: str,
        method: PresignedMethod,
        expires_in: int | None = None,
        *,
        version_id: str | None = None,
        short_link: bool = False,
    ) -> PresignedUrl:
        """Sign an address for one request. Nothing is asked of S3, so the object need not exist.

        Args:
            expires_in: seconds, at most AWS_S3_PRESIGN_MAX_SECONDS; 900, or that if it is less, if left out.
            short_link: at most 300 seconds: the address is a customer's, and outlives the key of its session.

        Raises:
            InvalidArguments: the address would be good for longer than the operator allows.
        """
        self._allowed.check(bucket, key)
        longest = min(MOST_SHORT_LINK_SECONDS, self._longest_link) if short_link else self._longest_link
        if expires_in is None:
            expires_in = min(_LINK_SECONDS, longest)
        if expires_in > longest:
            raise InvalidArguments.of("expires_in", f"at most {longest:,} seconds here (AWS_S3_PRESIGN_MAX_SECONDS)")
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
        async with self._naming_buckets(bucket):
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

    async def _buckets(self) -> Iterable[str]:
        """Return the buckets, or prefixes in buckets, that may be used."""
        if self._allowed.entries:
            return self._allowed.entries
        page = await self.list_buckets(None, 50)
        return (bucket.name for bucket in page.buckets)

    def _naming_buckets(self, bucket: str) -> AbstractAsyncContextManager[None]:
        return naming_others(bucket, self._buckets, kind=MissingBucket)

    # Streams

    async def open(
        self, bucket: str, key: str, *, version_id: str | None = None, byte_range: str | None = None
    ) -> ObjectStream:
        """Begin to read an object; enter the result to have it closed.

        Args:
            byte_range: of a `Range` header; the whole object is read where it may be ignored.

        Raises:
            NotFound, InvalidArguments, RangeNotSatisfiable, Forbidden: as for `download`.
        """
        clients = await self._connection.clients()
        return await self._open(clients.streams, bucket, key, version_id, header_range(byte_range))

    async def look(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectStream:
        """Return what `open` would, without a byte of the content.

        Raises:
            NotFound, Forbidden: as for `download`.
        """
        self._allowed.check(bucket, key)
        clients = await self._connection.clients()
        with aws_failures("s3:GetObject", missing=_no_object(bucket, key, version_id), bucket=bucket):
            return stream_of(await head_object(clients.streams, Bucket=bucket, Key=key, **_version(version_id)))

    async def _open(
        self, s3: "S3Client", bucket: str, key: str, version_id: str | None, byte_range: str | None
    ) -> ObjectStream:
        self._allowed.check(bucket, key)
        optional = _version(version_id)
        if byte_range:
            optional["Range"] = byte_range
        async with self._naming_buckets(bucket):
            with aws_failures("s3:GetObject", missing=_no_object(bucket, key, version_id), bucket=bucket):
                answer: Any = await s3.get_object(Bucket=bucket, Key=key, **optional)
                try:
                    return stream_of(answer)
                except (LookupError, ValueError):
                    answer["Body"].close()
                    raise

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
        """Write an object of any size from a stream, in flat memory, as `ObjectWriter.put_stream` says.

        Raises:
            Forbidden: the bucket or key is not allowed.
        """
        self._allowed.check(bucket, key)
        writing = checked_writing(bucket, key, content_type, metadata, if_none_match=if_none_match, text=False)
        async with self._naming_buckets(bucket):
            return await self._stream_writer.put_stream(writing, chunks, declared_size)


def _utf_8(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise InvalidArguments.of(
            "content",
            'holds half of a surrogate pair; send bytes that are no text in base64, with `encoding: "base64"`',
        ) from None


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
