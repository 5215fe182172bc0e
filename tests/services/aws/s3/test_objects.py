"""Objects: what goes in comes out."""

import asyncio
import base64
import hashlib
from urllib.parse import urlsplit

import httpx
import pytest

from app.errors import Conflict, InvalidArguments, NotFound, RangeNotSatisfiable
from app.services.aws.service import AwsService
from tests.fixtures.aws import EVERY_BYTE, AwsBehindTheGateway

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
    assert [found.key for found in (await aws.buckets.list_objects(bucket)).objects] == [key]
    assert (await aws.objects.download(bucket, key)).content == "here"
    await aws.objects.delete(bucket, key)
    assert await behind.keys(bucket) == []


@pytest.mark.parametrize(
    "key", [key for key in UNUSUAL_KEYS if "." not in key.split("/") and ".." not in key.split("/")]
)
async def test_a_presigned_address_leads_to_the_object(aws: AwsService, bucket: str, key: str) -> None:
    put = await aws.objects.presign(bucket, key, "PUT", 60)
    get = await aws.objects.presign(bucket, key, "GET", 60)

    async with httpx.AsyncClient(timeout=30) as http:
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
    small_parts: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_object(Bucket=bucket, Key="large", Body=b"x" * 1001)

    read = await small_parts.objects.download(bucket, "large")

    assert (read.content, read.encoding, read.size) == (None, None, 1001)
    assert read.reason is not None
    assert "1,001" in read.reason
    assert read.url is not None
    async with httpx.AsyncClient(timeout=30) as http:
        assert (await http.get(read.url)).content == b"x" * 1001
    part = await small_parts.objects.download(bucket, "large", byte_range="bytes=0-9")
    assert (part.content, part.url) == ("x" * 10, None)
    with pytest.raises(InvalidArguments, match="s3_presign_url"):
        await small_parts.objects.upload(bucket, "large", "x" * 1001)


async def test_what_is_missing_is_named(aws: AwsService, bucket: str) -> None:
    for missing, call in [
        ("no-such-bucket", aws.objects.download("no-such-bucket", "k")),
        ("no-such-bucket", aws.buckets.list_objects("no-such-bucket")),
        ("no-such-bucket", aws.objects.upload("no-such-bucket", "k", "x")),
        ("no-such-bucket", aws.objects.upload("no-such-bucket", "k", "x", idempotency_key="call-1")),
        ("no-such-bucket", aws.objects.delete("no-such-bucket", "k")),
        ("no-such-bucket", aws.buckets.describe_bucket("no-such-bucket", "", None, 5)),
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
