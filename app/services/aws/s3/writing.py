"""Objects that are being written: in one request, once for an idempotency key, or part by part."""

import asyncio
import base64
import hashlib
import logging
import mimetypes
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.errors import Conflict, GatewayError, InvalidArguments, NotFound
from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures, head_object
from app.services.aws.s3.parts import MAX_PARTS, CountedStream, Part, chained, first, in_parts, part_sizes
from app.services.aws.s3.schemas import Checksum, UploadedObject

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

log = logging.getLogger(__name__)

_PARTS_IN_FLIGHT = 2
_ABORT_WITHIN = 30.0
_MAX_METADATA_BYTES = 2048
_METADATA_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;[\x20-\x7e]*)?", re.ASCII)

# What `idempotency_key` leaves on the object it wrote.
OWN_METADATA = "switchboard-"
_WRITER = "switchboard-idempotency-key"
_FINGERPRINT = "switchboard-fingerprint"


@dataclass(frozen=True)
class Writing:
    """What goes with the bytes of an object that is written."""

    bucket: str
    key: str
    content_type: str
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    if_none_match: bool = False


class ObjectWriter:
    """Writes objects that callers may write.

    Args:
        connection: where the clients come from.
        part_bytes: size of a stream's parts.
        streams: take the connections that streams have to themselves.
    """

    def __init__(self, connection: Connection, part_bytes: int, *, streams: bool = False) -> None:
        self._connection = connection
        self._part_bytes = part_bytes
        self._streams = streams
        self._unfinished: set[asyncio.Task[None]] = set()

    async def _client(self, *, once: bool = False) -> "S3Client":
        """Return the client for a call, which may be repeated unless it is to be made once."""
        clients = await self._connection.clients()
        if self._streams:
            return clients.streams_once if once else clients.streams
        return clients.s3_once if once else clients.s3

    async def settle(self) -> None:
        """Wait until every upload that was broken off is cleaned up."""
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_ABORT_WITHIN)

    async def put(self, writing: Writing, body: Part, condition: dict[str, Any] | None = None) -> UploadedObject:
        """Write an object in one request.

        Args:
            writing: what goes with the bytes.
            body: the bytes.
            condition: boto3's `IfMatch` or `IfNoneMatch`, in place of what `writing` says.
        """
        condition = condition or ({"IfNoneMatch": "*"} if writing.if_none_match else {})
        # Repeated after its answer was lost, a conditional write would find its own object in the way.
        client = await self._client(once=bool(condition))
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

    async def put_unless_done(self, writing: Writing, body: bytes, idempotency_key: str) -> UploadedObject:
        """Write once for an idempotency key: look, then write on the condition that nothing has changed since."""
        writer = hashlib.sha256(idempotency_key.encode()).hexdigest()
        digest = hashlib.sha256(repr((writing.content_type, sorted(writing.metadata.items()))).encode())
        digest.update(body)
        marked = Writing(
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
                return await self.put(
                    marked, Part.of(body), {"IfMatch": current["ETag"]} if current else {"IfNoneMatch": "*"}
                )
            except Conflict:
                continue
            except NotFound:
                if current is None:
                    raise  # it is the bucket that is missing, and not the object that was there a moment ago
        raise Conflict("Others write to the same key at the same moment. Repeat with the same idempotency_key.")

    async def _head(self, bucket: str, key: str) -> Any:
        client = await self._client()
        try:
            with aws_failures("s3:GetObject", bucket=bucket):
                found = await head_object(client, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
                return {"ETag": found["ETag"], "Metadata": found["Metadata"], **found}
        except NotFound:
            return None

    # Streams

    async def put_stream(
        self, writing: Writing, chunks: AsyncIterator[bytes], declared_size: int | None
    ) -> UploadedObject:
        """Write an object of any size from a stream, in flat memory.

        What fits into one part goes up as one request. More becomes a multipart upload, of which three parts are
        held at a time, two on their way and one that fills: in memory, or on disk if S3's limit of ten thousand
        parts makes them larger than 16 MiB. If anything fails, the caller's going away included, the upload is
        aborted and S3 keeps nothing.

        Args:
            writing: what goes with the bytes.
            chunks: the bytes; an exception of theirs ends the upload and is passed on.
            declared_size: bytes to come, if known; fewer or more are refused.

        Raises:
            Conflict: `if_none_match`, and there is an object already.
            InvalidArguments: the stream is not as long as declared, or longer than S3 takes.
        """
        counted = CountedStream(chunks, declared_size)
        async with aclosing(in_parts(counted, part_sizes(self._part_bytes, declared_size))) as parts:
            # Two parts are looked at: only then is it sure that one request is not enough.
            ahead = deque([part async for part in first(2, parts)])
            if len(ahead) < 2:
                return await self.put(writing, ahead.popleft() if ahead else Part.of(b""))
            async with self._multipart(writing) as upload_id:
                done = await self._send_parts(writing, upload_id, chained(ahead, parts))
                return await self._complete(writing, upload_id, done, counted.size)

    async def _send_parts(self, writing: Writing, upload_id: str, parts: AsyncIterator[Part]) -> list[dict[str, Any]]:
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

    async def _send_part(self, writing: Writing, upload_id: str, number: int, part: Part) -> dict[str, Any]:
        client = await self._client()
        with aws_failures("s3:PutObject", bucket=writing.bucket):
            async with part.sending():
                answer = await client.upload_part(
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
    async def _multipart(self, writing: Writing) -> AsyncGenerator[str]:
        """Yield the id of a multipart upload, which is aborted unless the body ends well."""
        client = await self._client(once=True)

        async def begin() -> str:
            with aws_failures("s3:PutObject", bucket=writing.bucket):
                answer = await client.create_multipart_upload(
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

    async def _abort(self, writing: Writing, begun: "asyncio.Task[str]") -> None:
        try:
            upload_id = await begun
        except GatewayError:
            return
        client = await self._client()
        try:
            with aws_failures("s3:AbortMultipartUpload", bucket=writing.bucket, missing="The upload is gone."):
                async with asyncio.timeout(_ABORT_WITHIN):
                    await client.abort_multipart_upload(Bucket=writing.bucket, Key=writing.key, UploadId=upload_id)
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
        self, writing: Writing, upload_id: str, parts: list[dict[str, Any]], size: int
    ) -> UploadedObject:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if writing.if_none_match else {}
        # S3 answers a repeat of the same completion alike, unless a condition stands before it.
        client = await self._client(once=bool(condition))
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


def checked_writing(
    bucket: str,
    key: str,
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    *,
    if_none_match: bool,
    text: bool,
) -> Writing:
    """Return what goes with an object's bytes.

    Args:
        bucket: where to.
        key: where to.
        content_type: the media type; guessed from the key if None.
        metadata: the caller's own.
        if_none_match: write only if there is no object at the key.
        text: the bytes are text, if nothing else says what they are.

    Raises:
        InvalidArguments: an argument breaks S3's rules.
    """
    if content_type is None:
        # Of the name alone: before a colon, `guess_type` reads the scheme of an address, and in `data:` a type.
        guessed, compression = mimetypes.guess_type(f"./{key.rpartition('/')[2]}")
        content_type = f"application/{compression}" if compression else guessed
        content_type = content_type or ("text/plain; charset=utf-8" if text else "application/octet-stream")
    elif not _MEDIA_TYPE.fullmatch(content_type):
        raise InvalidArguments.of("content_type", "expected a media type such as text/csv")
    checked = {name.lower(): value for name, value in (metadata or {}).items()}
    if len(checked) < len(metadata or {}):
        raise InvalidArguments.of("metadata", "S3 keeps names in lower case: two of these are the same")
    for name, value in checked.items():
        if not _METADATA_NAME.fullmatch(name) or name.startswith(OWN_METADATA):
            raise InvalidArguments.of("metadata", f"a name has letters, digits, - and _ and no {OWN_METADATA!r} ahead")
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise InvalidArguments.of("metadata", "a value is printable ASCII without spaces around it")
    if sum(len(name) + len(value) for name, value in checked.items()) > _MAX_METADATA_BYTES:
        raise InvalidArguments.of("metadata", "larger than 2 KB in all")
    return Writing(bucket, key, content_type, checked, if_none_match)


def _checksum(answer: Mapping[str, Any]) -> Checksum | None:
    for name, value in answer.items():
        if name.startswith("Checksum") and name not in ("ChecksumType", "ChecksumAlgorithm"):
            kind = answer.get("ChecksumType") or ("COMPOSITE" if "-" in str(value) else "FULL_OBJECT")
            return Checksum(algorithm=name.removeprefix("Checksum"), value=str(value), type=str(kind))
    return None
