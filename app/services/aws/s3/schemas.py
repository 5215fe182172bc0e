"""What the S3 tools, resources and streams answer."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.results import Result

ContentEncoding = Literal["text", "base64"]
PresignedMethod = Literal["GET", "PUT", "HEAD"]


class Checksum(BaseModel):
    """A checksum that S3 has verified and keeps with the object."""

    algorithm: str = Field(description="Such as SHA256.")
    value: str = Field(description="In base64.")
    type: str = Field(description="FULL_OBJECT, or COMPOSITE of the parts'.")


class UploadedObject(Result):
    """An object as it was written."""

    bucket: str
    key: str
    etag: str
    version_id: str | None = Field(description="Null without versions.")
    size: int = Field(description="Bytes.")
    checksum: Checksum | None = None


class DownloadedObject(Result):
    """An object with its content, or with the address of a content that is too large to return."""

    bucket: str
    key: str
    content: str | None = Field(description="Null if it is too large.")
    encoding: ContentEncoding | None = Field(description="Of `content`.")
    content_type: str
    content_encoding: str | None = Field(description="Of the stored object, such as gzip.")
    size: int = Field(description="Bytes of the whole object.")
    content_range: str | None = Field(description="Such as `bytes 0-99/1234`; null for all.")
    etag: str
    version_id: str | None
    last_modified: datetime
    metadata: dict[str, str]
    url: str | None = Field(None, description="To GET where `content` is null.")
    reason: str | None = Field(None, description="Why `content` is null.")


class ObjectSummary(BaseModel):
    """One object of a listing."""

    key: str
    size: int = Field(description="Bytes.")
    last_modified: datetime
    etag: str
    storage_class: str


class ObjectList(Result):
    """One page of a bucket's objects."""

    bucket: str
    prefix: str
    delimiter: str | None
    objects: list[ObjectSummary]
    common_prefixes: list[str] = Field(description="Folders, with a delimiter.")
    key_count: int
    is_truncated: bool
    next_continuation_token: str | None = Field(description="Null on the last page.")


class DeletedObject(Result):
    """What was deleted. S3 answers alike whether there was an object at the key or not."""

    bucket: str
    key: str
    version_id: str | None = Field(description="Deleted, or of the delete marker.")
    delete_marker: bool = Field(description="A marker was put over the object, or deleted.")


class PresignedUrl(Result):
    """An address that lets whoever has it make one kind of request, without credentials."""

    bucket: str
    key: str
    method: PresignedMethod
    url: str
    expires_in: int = Field(description="It ends sooner if the gateway's own credentials do.")
    expires_at: datetime


class BucketSummary(BaseModel):
    """One bucket of a listing."""

    name: str
    creation_date: datetime | None
    region: str | None
    uri: str = Field(description="The resource that lists its objects.")


class BucketList(Result):
    """One page of the buckets that the gateway may use."""

    buckets: list[BucketSummary]
    next_cursor: str | None


class BucketContents(Result):
    """One bucket, with a page of its objects."""

    name: str
    region: str
    prefix: str
    objects: list[ObjectSummary]
    next_cursor: str | None
