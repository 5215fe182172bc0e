"""A stream of bytes, cut into the parts of a multipart upload."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Self

from app.errors import InvalidArguments

MAX_PARTS = 10_000
"""S3's limit."""

_WRITE_WITHIN = 60.0
_SLOWEST_BYTES_A_SECOND = 64 * 1024
"""A write may take `_WRITE_WITHIN` seconds and what its bytes need at this pace."""

_LARGEST_IN_MEMORY = 16 * 1024 * 1024


class CountedStream:
    """Counts the bytes of a stream and holds them against what was declared."""

    def __init__(self, chunks: AsyncIterator[bytes], declared: int | None) -> None:
        self._chunks = chunks
        self._declared = declared
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk
        if self._declared is not None and self.size != self._declared:
            raise InvalidArguments(f"The body has {self.size:,} bytes and Content-Length says {self._declared:,}.")


class Part:
    """Bytes on their way to S3: a file in memory, or on disk if it is to become large.

    aiohttp sends a file piece by piece, and would copy plain bytes into its buffers at once.

    Args:
        expected: bytes that it is to hold.
    """

    def __init__(self, expected: int) -> None:
        in_memory = expected <= _LARGEST_IN_MEMORY
        self.file: IO[bytes] = BytesIO() if in_memory else TemporaryFile()  # noqa: SIM115 - `sending` closes it
        self.size = 0

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return a part that holds these bytes."""
        part = cls(len(content))
        part.write(content)
        return part

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes at the end."""
        self.size += self.file.write(data)

    def sha256(self) -> bytes:
        """Return the digest of all bytes."""
        self.file.seek(0)
        digest = hashlib.sha256()
        while piece := self.file.read(_LARGEST_IN_MEMORY):
            digest.update(piece)
        return digest.digest()

    @asynccontextmanager
    async def sending(self) -> AsyncGenerator[None]:
        """Allow the time that the bytes need, and let go of them at the end. aiohttp limits reads only."""
        self.file.seek(0)
        with self.file:
            async with asyncio.timeout(_WRITE_WITHIN + self.size / _SLOWEST_BYTES_A_SECOND):
                yield


def part_sizes(base: int, declared: int | None) -> Iterator[int]:
    """Yield the sizes of the parts, so that ten thousand of them are enough.

    Of a stream of unknown length the first thousand parts have the base size and each further thousand
    twice the size before, up to S3's largest part.
    """
    if declared is not None:
        size = max(base, -(-declared // MAX_PARTS))
        while True:
            yield size
    for number in range(MAX_PARTS + 1):
        yield min(base * 2 ** (number // 1000), 5 * 1024**3)


async def in_parts(chunks: CountedStream, sizes: Iterator[int]) -> AsyncGenerator[Part]:
    """Cut a stream into parts, the last of which may be short."""
    size = next(sizes)
    part = Part(size)
    async for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            taken = rest[: size - part.size]
            part.write(taken)
            rest = rest[len(taken) :]
            if part.size == size:
                yield part
                size = next(sizes)
                part = Part(size)
    if part.size:
        yield part


async def first(count: int, parts: AsyncIterator[Part]) -> AsyncGenerator[Part]:
    """Yield as many parts, or fewer if there are no more, and leave the others."""
    for _ in range(count):
        if (part := await anext(parts, None)) is None:
            return
        yield part


async def chained(ahead: deque[Part], rest: AsyncIterator[Part]) -> AsyncGenerator[Part]:
    """Yield what was looked at already, keeping none of it, and then the rest."""
    while ahead:
        yield ahead.popleft()
    async for part in rest:
        yield part
