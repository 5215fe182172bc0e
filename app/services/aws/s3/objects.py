"""Whole objects, in a tool's arguments and results."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from app.errors import InvalidArguments
from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures
from app.services.aws.s3.buckets import Buckets
from app.services.aws.s3.contents import bytes_of, written_as
from app.services.aws.s3.parts import Part
from app.services.aws.s3.ranges import asked_range
from app.services.aws.s3.reading import no_object, open_object, version_of
from app.services.aws.s3.schemas import (
    ContentEncoding,
    DeletedObject,
    DownloadedObject,
    PresignedMethod,
    PresignedUrl,
    UploadedObject,
)
from app.services.aws.s3.writing import ObjectWriter, checked_writing
from app.services.aws.settings import AwsSettings

MOST_SHORT_LINK_SECONDS = 300
"""Seconds that an address is good for that is given to a session of one customer."""
_LINK_SECONDS = 900
"""How long an address is good for, unless it is asked for longer."""


class ObjectStore:
    """The objects of the buckets that the gateway may use."""

    def __init__(self, connection: Connection, settings: AwsSettings, buckets: Buckets) -> None:
        self._connection = connection
        self._buckets = buckets
        self._inline_limit = settings.s3_max_inline_bytes
        self._longest_link = settings.s3_presign_max_seconds
        self._writer = ObjectWriter(connection, settings.s3_part_bytes)

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
        self._buckets.check(bucket, key)
        body = bytes_of(content, encoding)
        if len(body) > self._inline_limit:
            raise InvalidArguments.of(
                "content",
                f"larger than {self._inline_limit:,} bytes; POST it to /mcp/aws/s3/<bucket>/<key>, or PUT it to an "
                "address from s3_presign_url",
            )
        writing = checked_writing(
            bucket, key, content_type, metadata, if_none_match=if_none_match, text=encoding == "text"
        )
        async with self._buckets.naming_others(bucket):
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
        async with await open_object(clients.s3, self._buckets, bucket, key, version_id, part) as stream:
            content: str | None = None
            written: ContentEncoding | None = None
            url = reason = None
            if stream.content_length > self._inline_limit:
                reason = (
                    f"The content has {stream.content_length:,} bytes and a result holds at most "
                    f"{self._inline_limit:,}. GET `url`, or ask for a `range`."
                )
            else:
                content, written = written_as(await stream.read(), encoding)
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
        self._buckets.check(bucket, key)
        clients = await self._connection.clients()
        async with self._buckets.naming_others(bucket):
            with aws_failures("s3:DeleteObject", missing=no_object(bucket, key, version_id), bucket=bucket):
                answer = await clients.s3.delete_object(Bucket=bucket, Key=key, **version_of(version_id))
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
        self._buckets.check(bucket, key)
        longest = min(MOST_SHORT_LINK_SECONDS, self._longest_link) if short_link else self._longest_link
        if expires_in is None:
            expires_in = min(_LINK_SECONDS, longest)
        if expires_in > longest:
            bound = "AWS_S3_PRESIGN_MAX_SECONDS" if longest == self._longest_link else "this session is one customer's"
            raise InvalidArguments.of("expires_in", f"at most {longest:,} seconds here ({bound})")
        clients = await self._connection.clients()
        operation = {"GET": "get_object", "PUT": "put_object", "HEAD": "head_object"}[method]
        with aws_failures(f"s3:{operation}", bucket=bucket):
            url = await clients.s3.generate_presigned_url(
                operation, Params={"Bucket": bucket, "Key": key, **version_of(version_id)}, ExpiresIn=expires_in
            )
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_in)
        return PresignedUrl(
            bucket=bucket, key=key, method=method, url=url, expires_in=expires_in, expires_at=expires_at
        )
