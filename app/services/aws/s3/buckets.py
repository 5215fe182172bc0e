"""Buckets: which may be used, and what is in them."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.services.aws.clients import Connection
from app.services.aws.failures import MissingBucket, aws_failures, naming_others
from app.services.aws.names import BucketAllowlist
from app.services.aws.s3.schemas import BucketContents, BucketList, BucketSummary, ObjectList, ObjectSummary
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import BucketTypeDef

_AFTER = "after:"
"""Marks a cursor of our own, for stores that do not page their buckets."""


class Buckets:
    """The buckets that the gateway may use."""

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self._allowed = BucketAllowlist(settings.allowed_buckets)

    def check(self, bucket: str, key: str) -> None:
        """Return if a key of a bucket, or what begins with it, may be used.

        Raises:
            Forbidden: it may not.
        """
        self._allowed.check(bucket, key)

    def naming_others(self, bucket: str) -> AbstractAsyncContextManager[None]:
        """Return a context in which the failure that there is no such bucket names those that there are."""
        return naming_others(bucket, self._names, kind=MissingBucket)

    async def list_objects(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str | None = None,
        max_keys: int = 100,
        continuation_token: str | None = None,
    ) -> ObjectList:
        """Return a page of a bucket's objects, in the order of their keys' bytes.

        Raises:
            NotFound: the bucket does not exist.
            Forbidden: the bucket, or this prefix of it, is not allowed.
        """
        self._allowed.check(bucket, prefix)
        clients = await self._connection.clients()
        optional: dict[str, Any] = {"Delimiter": delimiter, "ContinuationToken": continuation_token}
        given = {name: value for name, value in optional.items() if value is not None}
        async with self.naming_others(bucket):
            with aws_failures("s3:ListBucket", bucket=bucket):
                page = await clients.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=max_keys, **given)
                return ObjectList(
                    bucket=bucket,
                    prefix=prefix,
                    delimiter=delimiter,
                    objects=[
                        ObjectSummary(
                            key=found["Key"],  # pyright: ignore[reportTypedDictNotRequiredAccess] - S3 always gives it
                            size=found.get("Size", 0),
                            last_modified=found.get("LastModified", datetime.fromtimestamp(0, UTC)),
                            etag=found.get("ETag", "").strip('"'),
                            storage_class=found.get("StorageClass", "STANDARD"),
                        )
                        for found in page.get("Contents", [])
                    ],
                    common_prefixes=[found.get("Prefix", "") for found in page.get("CommonPrefixes", [])],
                    key_count=page.get("KeyCount", 0),
                    is_truncated=page["IsTruncated"],
                    next_continuation_token=page.get("NextContinuationToken"),
                )

    async def list_buckets(self, cursor: str | None, limit: int) -> BucketList:
        """Return a page of the buckets that callers may use; it may be short, or empty, before the last."""
        clients = await self._connection.clients()
        after = cursor.removeprefix(_AFTER) if cursor and cursor.startswith(_AFTER) else ""
        token = {"ContinuationToken": cursor} if cursor and not after else {}
        with aws_failures("s3:ListAllMyBuckets"):
            page = await clients.s3.list_buckets(MaxBuckets=limit, **token)
            found = [bucket for bucket in page["Buckets"] if bucket.get("Name", "") > after]
        next_cursor = page.get("ContinuationToken")
        if len(found) > limit:
            # Compatible stores answer with every bucket at once, so the page is cut here.
            found = found[:limit]
            next_cursor = _AFTER + found[-1].get("Name", "")
        shown = [_bucket_summary(bucket) for bucket in found if self._allowed.shows(bucket.get("Name", ""))]
        return BucketList(buckets=shown, next_cursor=next_cursor)

    async def describe_bucket(self, bucket: str, prefix: str, cursor: str | None, limit: int) -> BucketContents:
        """Return where a bucket is and a page of its objects."""
        page = await self.list_objects(bucket, prefix=prefix, max_keys=limit, continuation_token=cursor)
        clients = await self._connection.clients()
        with aws_failures("s3:GetBucketLocation", bucket=bucket, missing=f"There is no bucket {bucket!r}."):
            answer = await clients.s3.get_bucket_location(Bucket=bucket)
        return BucketContents(
            name=bucket,
            region=answer.get("LocationConstraint") or "us-east-1",
            prefix=prefix,
            objects=page.objects,
            next_cursor=page.next_continuation_token,
        )

    async def _names(self) -> Iterable[str]:
        """Return the buckets, or prefixes in buckets, that may be used."""
        if self._allowed.entries:
            return self._allowed.entries
        page = await self.list_buckets(None, 50)
        return (bucket.name for bucket in page.buckets)


def _bucket_summary(bucket: "BucketTypeDef") -> BucketSummary:
    name = bucket.get("Name", "")
    return BucketSummary(
        name=name,
        creation_date=bucket.get("CreationDate"),
        region=bucket.get("BucketRegion"),
        uri=f"aws://s3/buckets/{name}",
    )
