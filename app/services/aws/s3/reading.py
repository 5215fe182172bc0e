"""Objects that are being read, piece by piece."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from app.services.aws.failures import aws_failures
from app.services.aws.s3.writing import OWN_METADATA

if TYPE_CHECKING:
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
