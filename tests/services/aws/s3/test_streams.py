"""Streams: objects of any size come back byte for byte, and nothing half-written is left."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import Conflict, InvalidArguments
from app.local.aws import LocalAws
from app.services.aws.s3.parts import part_sizes
from app.services.aws.service import AwsService, open_aws
from tests.fixtures.aws import EVERY_BYTE, AwsBehindTheGateway, in_chunks, settings_for_aws
from tests.fixtures.aws import SMALLEST_PART as PART


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 12345])
async def test_a_stream_comes_back_byte_for_byte(small_parts: AwsService, bucket: str, size: int) -> None:
    body = (EVERY_BYTE * (size // 256 + 1))[:size]

    written = await small_parts.streams.upload(bucket, "k", in_chunks(body, 333_333), declared_size=size)
    async with await small_parts.streams.open(bucket, "k") as stream:
        read = await stream.read()

    assert read == body
    assert (written.size, stream.size) == (size, size)
    assert written.checksum is not None
    assert written.checksum.type == ("COMPOSITE" if size > PART else "FULL_OBJECT")


async def test_a_range_of_a_stream_is_read_across_parts(small_parts: AwsService, bucket: str) -> None:
    body = b"".join(number.to_bytes(4, "big") for number in range(3 * PART // 4))
    await small_parts.streams.upload(bucket, "k", in_chunks(body))

    async with await small_parts.streams.open(bucket, "k", byte_range=f"bytes={PART - 10}-{PART + 9}") as stream:
        assert await stream.read() == body[PART - 10 : PART + 10]
    assert stream.content_range == f"bytes {PART - 10}-{PART + 9}/{len(body)}"


async def test_parts_beyond_what_memory_holds_go_through_the_disk(
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.aws.s3.parts._LARGEST_IN_MEMORY", 1024)
    body = EVERY_BYTE * (2 * PART // 256 + 1)

    await small_parts.streams.upload(bucket, "k", in_chunks(body))

    assert await behind.body(bucket, "k") == body


def test_ten_thousand_parts_are_enough_for_any_object() -> None:
    largest = 5 * 1024**4
    undeclared = list(part_sizes(8 * 1024**2, None))

    assert undeclared[0] == 8 * 1024**2
    assert sum(undeclared[:10_000]) >= largest
    assert max(undeclared) <= 5 * 1024**3
    for declared in (0, 8 * 1024**2, 80 * 1024**3, 100 * 1024**3 + 1, largest):
        size = next(part_sizes(8 * 1024**2, declared))
        assert size >= 8 * 1024**2
        assert size * 10_000 >= declared


class BrokeOff(Exception):
    """Stands for a caller who goes away."""


async def test_a_stream_that_breaks_off_leaves_no_object_and_no_parts(
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    seen: list[int] = []

    async def breaking_off() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * PART
        seen.append(len(await behind.uploads(bucket)))
        raise BrokeOff

    with pytest.raises(BrokeOff):
        await small_parts.streams.upload(bucket, "k", breaking_off())

    assert seen == [1]
    assert await behind.uploads(bucket) == []
    assert await behind.keys(bucket) == []


async def test_a_cancelled_upload_leaves_no_object_and_no_parts(
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    under_way = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * PART
        under_way.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(small_parts.streams.upload(bucket, "k", stalling()))
    async with asyncio.timeout(20):
        await under_way.wait()
    assert len(await behind.uploads(bucket)) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert await behind.uploads(bucket) == []
    assert await behind.keys(bucket) == []


async def test_an_upload_that_is_cancelled_twice_is_cleaned_up_before_the_service_closes(
    aws_stack: LocalAws, behind: AwsBehindTheGateway, bucket: str
) -> None:
    under_way = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield b"x" * 3 * PART
        under_way.set()
        await asyncio.Event().wait()

    async with open_aws(settings_for_aws(aws_stack, s3_part_bytes=PART)) as service:
        upload = asyncio.create_task(service.streams.upload(bucket, "k", stalling()))
        async with asyncio.timeout(20):
            await under_way.wait()
        upload.cancel()
        await asyncio.wait([upload], timeout=0)
        upload.cancel()
        await asyncio.wait([upload])

    assert await behind.uploads(bucket) == []


@pytest.mark.parametrize("declared", [PART * 2 - 1, PART * 2 + 1])
async def test_a_stream_of_another_length_than_declared_is_refused(
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str, declared: int
) -> None:
    with pytest.raises(InvalidArguments, match="Content-Length"):
        await small_parts.streams.upload(bucket, "k", in_chunks(b"x" * 2 * PART), declared_size=declared)

    assert await behind.uploads(bucket) == []
    assert await behind.keys(bucket) == []


@pytest.mark.parametrize("size", [10, 2 * PART + 1])
async def test_a_stream_never_overwrites_if_told_so(
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str, size: int
) -> None:
    await small_parts.objects.upload(bucket, "k", "first")

    with pytest.raises(Conflict):
        await small_parts.streams.upload(bucket, "k", in_chunks(b"x" * size), if_none_match=True)

    assert await behind.body(bucket, "k") == b"first"
    assert await behind.uploads(bucket) == []
