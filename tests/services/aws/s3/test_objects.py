"""Objects: what goes in comes out, page by page, and nothing half-written is left."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest

from app.errors import Conflict, Forbidden, InvalidArguments, NotFound, RangeNotSatisfiable
from app.local.aws import LocalAws
from app.services.aws.clients import Connection
from app.services.aws.s3.objects import ObjectStore
from app.services.aws.s3.parts import part_sizes
from app.services.aws.service import AwsService, open_aws
from tests.fixtures.aws import AwsBehindTheGateway, settings_for_aws

PART = 5 * 1024 * 1024
EVERY_BYTE = bytes(range(256))
UNUSUAL_KEYS = [
    "a/../b",
    "..",
    "./x",
    "a//b",
    "/leading",
    "trailing/",
    "spaces and+plus",
    "percent%2Fencoded%zz",
    "question?and#hash",
    "ümläut/☃/日本語",
    "<xml>&\"quotes'",
    "tab\tnewline\n",
    "\x01control",
    "~tilde!*'()",
    "k" * 1024,
]


@pytest.fixture
def small_parts(aws_connection: Connection) -> ObjectStore:
    """Objects under the smallest parts and a limit that tests reach quickly."""
    return ObjectStore(aws_connection, settings_for_aws(None, s3_part_bytes=PART, s3_max_inline_bytes=1000))


async def in_chunks(body: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("body", [b"", EVERY_BYTE, b"\x00" * 10, "žluťoučký\n".encode() * 100], ids=len)
async def test_bytes_come_back_as_they_went_in(aws: AwsService, bucket: str, body: bytes) -> None:
    written = await aws.objects.upload(bucket, "file.bin", base64.b64encode(body).decode(), encoding="base64")
    read = await aws.objects.download(bucket, "file.bin", encoding="base64")

    assert read.content is not None
    assert base64.b64decode(read.content) == body
    assert (written.size, read.size) == (len(body), len(body))
    assert read.etag == written.etag
    assert written.checksum is not None
    assert base64.b64decode(written.checksum.value) == hashlib.sha256(body).digest()


async def test_text_is_returned_as_text_and_anything_else_in_base64(aws: AwsService, bucket: str) -> None:
    text = "Zeile eins\r\n\tzwei ☃\n"
    await aws.objects.upload(bucket, "note.txt", text)
    await aws.objects.upload(bucket, "blob", base64.b64encode(EVERY_BYTE).decode(), encoding="base64")

    as_text = await aws.objects.download(bucket, "note.txt")
    as_base64 = await aws.objects.download(bucket, "blob")

    assert (as_text.encoding, as_text.content) == ("text", text)
    assert as_base64.encoding == "base64"
    assert as_base64.content == base64.b64encode(EVERY_BYTE).decode()
    with pytest.raises(InvalidArguments, match="encoding"):
        await aws.objects.download(bucket, "blob", encoding="text")


async def test_the_content_type_is_guessed_from_the_key_unless_given(aws: AwsService, bucket: str) -> None:
    for key, given, expected in [
        ("a.json", None, "application/json"),
        ("a.csv", None, "text/csv"),
        ("a.tar.gz", None, "application/gzip"),
        ("unknown", None, "text/plain; charset=utf-8"),
        # A key is no address, whatever it looks like.
        ("data:text/html,x", None, "text/plain; charset=utf-8"),
        ("data:a/b\r\nx-evil: 1,x", None, "text/plain; charset=utf-8"),
        ("http://host/a.json", None, "application/json"),
        ("folder.html/file", None, "text/plain; charset=utf-8"),
        ("a.json", "application/x-mine", "application/x-mine"),
    ]:
        await aws.objects.upload(bucket, key, "{}", content_type=given)
        assert (await aws.objects.download(bucket, key)).content_type == expected
    with pytest.raises(InvalidArguments, match="content_type"):
        await aws.objects.upload(bucket, "x", "x", content_type="text/plain\r\nx-evil: 1")


async def test_metadata_is_kept_and_what_http_can_not_carry_is_refused(aws: AwsService, bucket: str) -> None:
    await aws.objects.upload(bucket, "k", "x", metadata={"Customer-Id": "12345"})

    assert (await aws.objects.download(bucket, "k")).metadata == {"customer-id": "12345"}
    for refused in [
        {"ümlaut": "x"},
        {"a b": "x"},
        {"a": "ü"},
        {"a": "x\ny"},
        {"a": "x" * 3000},
        {"switchboard-x": "y"},
        {"Customer": "1", "customer": "2"},
    ]:
        with pytest.raises(InvalidArguments, match="metadata"):
            await aws.objects.upload(bucket, "k", "x", metadata=refused)


async def test_content_that_is_no_base64_is_refused(aws: AwsService, bucket: str) -> None:
    with pytest.raises(InvalidArguments, match="content"):
        await aws.objects.upload(bucket, "k", "no base64!", encoding="base64")


@pytest.mark.parametrize("key", UNUSUAL_KEYS, ids=lambda key: ascii(key[:20]))
async def test_a_key_may_hold_any_utf_8(aws: AwsService, behind: AwsBehindTheGateway, bucket: str, key: str) -> None:
    await aws.objects.upload(bucket, key, "here")

    assert await behind.keys(bucket) == [key]
    assert [found.key for found in (await aws.objects.list_objects(bucket)).objects] == [key]
    assert (await aws.objects.download(bucket, key)).content == "here"
    await aws.objects.delete(bucket, key)
    assert await behind.keys(bucket) == []


@pytest.mark.parametrize(
    "key", [key for key in UNUSUAL_KEYS if "." not in key.split("/") and ".." not in key.split("/")]
)
async def test_a_presigned_address_leads_to_the_object(aws: AwsService, bucket: str, key: str) -> None:
    put = await aws.objects.presign(bucket, key, "PUT", 60)
    get = await aws.objects.presign(bucket, key, "GET", 60)

    async with httpx.AsyncClient() as http:
        assert (await http.put(put.url, content=EVERY_BYTE)).status_code == 200
        answer = await http.get(get.url)

    assert answer.content == EVERY_BYTE
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in urlsplit(get.url).query


async def test_a_range_is_returned_and_one_beyond_the_end_is_refused(aws: AwsService, bucket: str) -> None:
    await aws.objects.upload(bucket, "k", "0123456789")

    for asked, content, described in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
    ]:
        read = await aws.objects.download(bucket, "k", byte_range=asked)
        assert (read.content, read.content_range, read.size) == (content, described, 10)
    with pytest.raises(RangeNotSatisfiable, match="range"):
        await aws.objects.download(bucket, "k", byte_range="bytes=10-")
    for malformed in ["0-4", "bytes=", "bytes=a-b", "bytes=0-1,3-4"]:
        with pytest.raises(InvalidArguments, match="range"):
            await aws.objects.download(bucket, "k", byte_range=malformed)


async def test_content_beyond_the_limit_becomes_an_address_with_the_reason(
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_object(Bucket=bucket, Key="large", Body=b"x" * 1001)

    read = await small_parts.download(bucket, "large")

    assert (read.content, read.encoding, read.size) == (None, None, 1001)
    assert read.reason is not None
    assert "1,001" in read.reason
    assert read.url is not None
    async with httpx.AsyncClient() as http:
        assert (await http.get(read.url)).content == b"x" * 1001
    part = await small_parts.download(bucket, "large", byte_range="bytes=0-9")
    assert (part.content, part.url) == ("x" * 10, None)
    with pytest.raises(InvalidArguments, match="s3_presign_url"):
        await small_parts.upload(bucket, "large", "x" * 1001)


async def test_2500_keys_are_listed_page_by_page(aws: AwsService, behind: AwsBehindTheGateway, bucket: str) -> None:
    keys = [f"folder-{number % 7}/{number:04}" for number in range(2500)]
    for start in range(0, len(keys), 50):
        await asyncio.gather(*(behind.s3.put_object(Bucket=bucket, Key=key) for key in keys[start : start + 50]))

    found: list[str] = []
    pages, token = 0, None
    while pages == 0 or token:
        page = await aws.objects.list_objects(bucket, max_keys=1000, continuation_token=token)
        assert page.key_count == len(page.objects)
        assert page.is_truncated is (page.next_continuation_token is not None)
        found += [summary.key for summary in page.objects]
        pages, token = pages + 1, page.next_continuation_token

    assert pages == 3
    assert found == sorted(keys)
    folders = await aws.objects.list_objects(bucket, delimiter="/")
    assert folders.common_prefixes == [f"folder-{number}/" for number in range(7)]
    assert folders.objects == []


async def test_what_is_missing_is_named(aws: AwsService, bucket: str) -> None:
    for missing, call in [
        ("no-such-bucket", aws.objects.download("no-such-bucket", "k")),
        ("no-such-bucket", aws.objects.list_objects("no-such-bucket")),
        ("no-such-bucket", aws.objects.upload("no-such-bucket", "k", "x")),
        ("no-such-bucket", aws.objects.upload("no-such-bucket", "k", "x", idempotency_key="call-1")),
        ("no-such-bucket", aws.objects.delete("no-such-bucket", "k")),
        ("no-such-bucket", aws.objects.describe_bucket("no-such-bucket", "", None, 5)),
        ("no/such/key", aws.objects.download(bucket, "no/such/key")),
        ("no/such/key", aws.objects.download(bucket, "no/such/key", version_id="v1")),
    ]:
        with pytest.raises(NotFound, match=missing):
            await call


async def test_if_none_match_never_overwrites(aws: AwsService, bucket: str) -> None:
    await aws.objects.upload(bucket, "k", "first", if_none_match=True)

    with pytest.raises(Conflict, match="exists already"):
        await aws.objects.upload(bucket, "k", "second", if_none_match=True)

    assert (await aws.objects.download(bucket, "k")).content == "first"


async def test_a_repeat_with_the_same_idempotency_key_writes_nothing_more(
    aws: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = await aws.objects.upload(bucket, "k", "content", idempotency_key="call-1", metadata={"a": "b"})

    again = await aws.objects.upload(bucket, "k", "content", idempotency_key="call-1", metadata={"a": "b"})

    assert (again.etag, again.version_id) == (first.etag, first.version_id)
    assert first.version_id is not None
    assert len((await behind.s3.list_object_versions(Bucket=bucket))["Versions"]) == 1
    assert (await aws.objects.download(bucket, "k")).metadata == {"a": "b"}
    with pytest.raises(Conflict, match="idempotency_key"):
        await aws.objects.upload(bucket, "k", "other content", idempotency_key="call-1")


async def test_an_idempotency_key_is_forgotten_once_the_object_was_overwritten(aws: AwsService, bucket: str) -> None:
    await aws.objects.upload(bucket, "k", "mine", idempotency_key="call-1")
    await aws.objects.upload(bucket, "k", "theirs")

    await aws.objects.upload(bucket, "k", "mine", idempotency_key="call-1")

    assert (await aws.objects.download(bucket, "k")).content == "mine"
    with pytest.raises(Conflict, match="exists already"):
        await aws.objects.upload(bucket, "k", "more", idempotency_key="call-2", if_none_match=True)


async def test_calls_at_one_moment_with_one_idempotency_key_write_once(
    aws: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    written = await asyncio.gather(
        *(aws.objects.upload(bucket, "k", "content", idempotency_key="call-1") for _ in range(8))
    )

    assert len({result.version_id for result in written}) == 1
    assert len((await behind.s3.list_object_versions(Bucket=bucket))["Versions"]) == 1


async def test_a_version_is_read_and_deleted_by_its_id(
    aws: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = await aws.objects.upload(bucket, "k", "first")
    await aws.objects.upload(bucket, "k", "second")

    assert (await aws.objects.download(bucket, "k", version_id=first.version_id)).content == "first"
    marker = await aws.objects.delete(bucket, "k")
    assert marker.delete_marker
    assert marker.version_id is not None
    with pytest.raises(NotFound):
        await aws.objects.download(bucket, "k")
    assert (await aws.objects.delete(bucket, "k", first.version_id)).version_id == first.version_id
    with pytest.raises(NotFound):
        await aws.objects.download(bucket, "k", version_id=first.version_id)


# Streams


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 12345])
async def test_a_stream_comes_back_byte_for_byte(small_parts: ObjectStore, bucket: str, size: int) -> None:
    body = (EVERY_BYTE * (size // 256 + 1))[:size]

    written = await small_parts.upload_stream(bucket, "k", in_chunks(body, 333_333), declared_size=size)
    async with await small_parts.open(bucket, "k") as stream:
        read = await stream.read()

    assert read == body
    assert (written.size, stream.size) == (size, size)
    assert written.checksum is not None
    assert written.checksum.type == ("COMPOSITE" if size > PART else "FULL_OBJECT")


async def test_a_range_of_a_stream_is_read_across_parts(small_parts: ObjectStore, bucket: str) -> None:
    body = b"".join(number.to_bytes(4, "big") for number in range(3 * PART // 4))
    await small_parts.upload_stream(bucket, "k", in_chunks(body))

    async with await small_parts.open(bucket, "k", byte_range=f"bytes={PART - 10}-{PART + 9}") as stream:
        assert await stream.read() == body[PART - 10 : PART + 10]
    assert stream.content_range == f"bytes {PART - 10}-{PART + 9}/{len(body)}"


async def test_parts_beyond_what_memory_holds_go_through_the_disk(
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.aws.s3.parts._LARGEST_IN_MEMORY", 1024)
    body = EVERY_BYTE * (2 * PART // 256 + 1)

    await small_parts.upload_stream(bucket, "k", in_chunks(body))

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
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str
) -> None:
    seen: list[int] = []

    async def breaking_off() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * PART
        seen.append(len(await behind.uploads(bucket)))
        raise BrokeOff

    with pytest.raises(BrokeOff):
        await small_parts.upload_stream(bucket, "k", breaking_off())

    assert seen == [1]
    assert await behind.uploads(bucket) == []
    assert await behind.keys(bucket) == []


async def test_a_cancelled_upload_leaves_no_object_and_no_parts(
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str
) -> None:
    under_way = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * PART
        under_way.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(small_parts.upload_stream(bucket, "k", stalling()))
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
        upload = asyncio.create_task(service.objects.upload_stream(bucket, "k", stalling()))
        async with asyncio.timeout(20):
            await under_way.wait()
        upload.cancel()
        await asyncio.wait([upload], timeout=0)
        upload.cancel()
        await asyncio.wait([upload])

    assert await behind.uploads(bucket) == []


@pytest.mark.parametrize("declared", [PART * 2 - 1, PART * 2 + 1])
async def test_a_stream_of_another_length_than_declared_is_refused(
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str, declared: int
) -> None:
    with pytest.raises(InvalidArguments, match="Content-Length"):
        await small_parts.upload_stream(bucket, "k", in_chunks(b"x" * 2 * PART), declared_size=declared)

    assert await behind.uploads(bucket) == []
    assert await behind.keys(bucket) == []


@pytest.mark.parametrize("size", [10, 2 * PART + 1])
async def test_a_stream_never_overwrites_if_told_so(
    small_parts: ObjectStore, behind: AwsBehindTheGateway, bucket: str, size: int
) -> None:
    await small_parts.upload(bucket, "k", "first")

    with pytest.raises(Conflict):
        await small_parts.upload_stream(bucket, "k", in_chunks(b"x" * size), if_none_match=True)

    assert await behind.body(bucket, "k") == b"first"
    assert await behind.uploads(bucket) == []


# Allowlists


@pytest.fixture
def limited(aws_connection: Connection, bucket: str) -> ObjectStore:
    """Objects of which callers may use one prefix only."""
    return ObjectStore(aws_connection, settings_for_aws(None, allowed_buckets=[f"{bucket}/public/"]))


async def test_keys_under_an_allowed_prefix_may_be_used(limited: ObjectStore, bucket: str) -> None:
    await limited.upload(bucket, "public/a", "x")

    assert (await limited.download(bucket, "public/a")).content == "x"
    assert [found.key for found in (await limited.list_objects(bucket, prefix="public/")).objects] == ["public/a"]
    assert await all_buckets(limited, 50) == [bucket]


@pytest.mark.parametrize(
    "key", ["secret", "public", "publicity/a", "public/../secret", "public/./a", "public/a/..", "/public/a", "Public/a"]
)
async def test_no_key_escapes_its_prefix(
    limited: ObjectStore, behind: AwsBehindTheGateway, bucket: str, key: str
) -> None:
    for call in [
        limited.upload(bucket, key, "x"),
        limited.upload_stream(bucket, key, in_chunks(b"x")),
        limited.download(bucket, key),
        limited.open(bucket, key),
        limited.delete(bucket, key),
        limited.presign(bucket, key, "GET", 60),
        limited.list_objects(bucket, prefix=key),
    ]:
        with pytest.raises(Forbidden, match="AWS_ALLOWED_BUCKETS"):
            await call

    assert await behind.keys(bucket) == []


async def test_a_bucket_that_is_not_listed_is_refused(limited: ObjectStore) -> None:
    for call in [
        limited.list_objects("switchboard-demo"),
        limited.download("switchboard-demo", "public/a"),
        limited.describe_bucket("switchboard-demo", "", None, 5),
    ]:
        with pytest.raises(Forbidden, match=r"'switchboard-demo' is not in AWS_ALLOWED_BUCKETS"):
            await call


async def all_buckets(objects: ObjectStore, limit: int) -> list[str]:
    """Return the names on every page."""
    names: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await objects.list_buckets(cursor, limit)
        assert len(page.buckets) <= limit
        names += [found.name for found in page.buckets]
        cursor, pages = page.next_cursor, pages + 1
    return names


async def test_buckets_are_listed_page_by_page(aws: AwsService, behind: AwsBehindTheGateway, bucket: str) -> None:
    await behind.s3.create_bucket(Bucket=f"{bucket}-second")

    names = await all_buckets(aws.objects, 3)

    assert {bucket, f"{bucket}-second", "switchboard-demo"} <= set(names)
    assert names == sorted(set(names))
