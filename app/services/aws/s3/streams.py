"""Objects of any size, as streams in flat memory."""

from collections.abc import AsyncIterator, Mapping

from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures, head_object
from app.services.aws.s3.buckets import Buckets
from app.services.aws.s3.ranges import header_range
from app.services.aws.s3.reading import ObjectStream, no_object, open_object, stream_of, version_of
from app.services.aws.s3.schemas import UploadedObject
from app.services.aws.s3.writing import ObjectWriter, checked_writing
from app.services.aws.settings import AwsSettings


class ObjectStreams:
    """The objects of the buckets that the gateway may use, read and written piece by piece."""

    def __init__(self, connection: Connection, settings: AwsSettings, buckets: Buckets) -> None:
        self._connection = connection
        self._buckets = buckets
        self._writer = ObjectWriter(connection, settings.s3_part_bytes, streams=True)

    async def settle(self) -> None:
        """Wait until every upload that was broken off is cleaned up."""
        await self._writer.settle()

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
        return await open_object(clients.streams, self._buckets, bucket, key, version_id, header_range(byte_range))

    async def look(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectStream:
        """Return what `open` would, without a byte of the content.

        Raises:
            NotFound, Forbidden: as for `download`.
        """
        self._buckets.check(bucket, key)
        clients = await self._connection.clients()
        with aws_failures("s3:GetObject", missing=no_object(bucket, key, version_id), bucket=bucket):
            return stream_of(await head_object(clients.streams, Bucket=bucket, Key=key, **version_of(version_id)))

    async def upload(
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
        self._buckets.check(bucket, key)
        writing = checked_writing(bucket, key, content_type, metadata, if_none_match=if_none_match, text=False)
        async with self._buckets.naming_others(bucket):
            return await self._writer.put_stream(writing, chunks, declared_size)
