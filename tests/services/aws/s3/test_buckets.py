"""Buckets: which there are, what is in them, and that no key leads out of what may be used."""

import asyncio

import pytest

from app.errors import Forbidden
from app.services.aws.clients import Connection
from app.services.aws.s3.buckets import Buckets
from app.services.aws.service import AwsService
from tests.fixtures.aws import AwsBehindTheGateway, in_chunks, settings_for_aws


async def test_2500_keys_are_listed_page_by_page(aws: AwsService, behind: AwsBehindTheGateway, bucket: str) -> None:
    keys = [f"folder-{number % 7}/{number:04}" for number in range(2500)]
    for start in range(0, len(keys), 50):
        await asyncio.gather(*(behind.s3.put_object(Bucket=bucket, Key=key) for key in keys[start : start + 50]))

    found: list[str] = []
    pages, token = 0, None
    while pages == 0 or token:
        page = await aws.buckets.list_objects(bucket, max_keys=1000, continuation_token=token)
        assert page.key_count == len(page.objects)
        assert page.is_truncated is (page.next_continuation_token is not None)
        found += [summary.key for summary in page.objects]
        pages, token = pages + 1, page.next_continuation_token

    assert pages == 3
    assert found == sorted(keys)
    folders = await aws.buckets.list_objects(bucket, delimiter="/")
    assert folders.common_prefixes == [f"folder-{number}/" for number in range(7)]
    assert folders.objects == []


async def all_buckets(buckets: Buckets, limit: int) -> list[str]:
    """Return the names on every page."""
    names: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await buckets.list_buckets(cursor, limit)
        assert len(page.buckets) <= limit
        names += [found.name for found in page.buckets]
        cursor, pages = page.next_cursor, pages + 1
    return names


@pytest.fixture
def limited(aws_connection: Connection, bucket: str) -> AwsService:
    """Objects of which callers may use one prefix only."""
    return AwsService(aws_connection, settings_for_aws(None, allowed_buckets=[f"{bucket}/public/"]))


async def test_keys_under_an_allowed_prefix_may_be_used(limited: AwsService, bucket: str) -> None:
    await limited.objects.upload(bucket, "public/a", "x")

    assert (await limited.objects.download(bucket, "public/a")).content == "x"
    assert [found.key for found in (await limited.buckets.list_objects(bucket, prefix="public/")).objects] == [
        "public/a"
    ]
    assert await all_buckets(limited.buckets, 50) == [bucket]


@pytest.mark.parametrize(
    "key", ["secret", "public", "publicity/a", "public/../secret", "public/./a", "public/a/..", "/public/a", "Public/a"]
)
async def test_no_key_escapes_its_prefix(
    limited: AwsService, behind: AwsBehindTheGateway, bucket: str, key: str
) -> None:
    for call in [
        limited.objects.upload(bucket, key, "x"),
        limited.streams.upload(bucket, key, in_chunks(b"x")),
        limited.objects.download(bucket, key),
        limited.streams.open(bucket, key),
        limited.objects.delete(bucket, key),
        limited.objects.presign(bucket, key, "GET", 60),
        limited.buckets.list_objects(bucket, prefix=key),
    ]:
        with pytest.raises(Forbidden, match="AWS_ALLOWED_BUCKETS"):
            await call

    assert await behind.keys(bucket) == []


async def test_a_bucket_that_is_not_listed_is_refused(limited: AwsService) -> None:
    for call in [
        limited.buckets.list_objects("switchboard-demo"),
        limited.objects.download("switchboard-demo", "public/a"),
        limited.buckets.describe_bucket("switchboard-demo", "", None, 5),
    ]:
        with pytest.raises(Forbidden, match=r"'switchboard-demo' is not in AWS_ALLOWED_BUCKETS"):
            await call


async def test_buckets_are_listed_page_by_page(aws: AwsService, behind: AwsBehindTheGateway, bucket: str) -> None:
    await behind.s3.create_bucket(Bucket=f"{bucket}-second")

    names = await all_buckets(aws.buckets, 3)

    assert {bucket, f"{bucket}-second", "switchboard-demo"} <= set(names)
    assert names == sorted(set(names))
