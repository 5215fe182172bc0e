"""Objects that are being read, piece by piece."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from app.services.aws.failures import aws_failures
from app.services.aws.s3.buckets import Buckets
from app.services.aws.s3.writing import OWN_METADATA

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

_READ_BYTES = 256 * 1024


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
        if self._body is not None:
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


def stream_of(answer: "GetObjectOutputTypeDef | HeadObjectOutputTypeDef") -> ObjectStream:
    """Return the stream of an answer to GetObject, or to HeadObject, which has no bytes."""
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
        metadata={name: value for name, value in answer["Metadata"].items() if not name.startswith(OWN_METADATA)},
        _body=answer.get("Body"),
    )


async def open_object(
    s3: "S3Client", buckets: Buckets, bucket: str, key: str, version_id: str | None, byte_range: str | None
) -> ObjectStream:
    """Begin to read an object; enter the result to have it closed.

    Raises:
        NotFound: the bucket, key or version does not exist.
        RangeNotSatisfiable: the range begins after the end.
        Forbidden: the bucket or key is not allowed.
    """
    buckets.check(bucket, key)
    optional = version_of(version_id)
    if byte_range:
        optional["Range"] = byte_range
    async with buckets.naming_others(bucket):
        with aws_failures("s3:GetObject", missing=no_object(bucket, key, version_id), bucket=bucket):
            answer: Any = await s3.get_object(Bucket=bucket, Key=key, **optional)
            try:
                return stream_of(answer)
            except (LookupError, ValueError):
                answer["Body"].close()
                raise


def version_of(version_id: str | None) -> dict[str, Any]:
    """Return how a request names a version of an object, if it does."""
    return {"VersionId": version_id} if version_id else {}


def no_object(bucket: str, key: str, version_id: str | None) -> str:
    """Return what a caller is told who asks for an object that is not there."""
    version = f", version {version_id!r}" if version_id else ""
    return f"There is no object {key!r}{version} in the bucket {bucket!r}."
