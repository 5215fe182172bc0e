"""An object's bytes as a tool's arguments and results hold them: as text, or in base64."""

import base64
import binascii
import re

from app.errors import InvalidArguments
from app.services.aws.s3.schemas import ContentEncoding

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def bytes_of(content: str, encoding: ContentEncoding) -> bytes:
    """Return what a caller has written down.

    Raises:
        InvalidArguments: it is no text that has bytes, or no base64.
    """
    return _utf_8(content) if encoding == "text" else _decoded(content)


def _utf_8(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise InvalidArguments.of(
            "content",
            'holds half of a surrogate pair; send bytes that are no text in base64, with `encoding: "base64"`',
        ) from None


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArguments.of("content", "not base64, which `encoding` says it is") from None


def written_as(body: bytes, encoding: ContentEncoding | None) -> tuple[str, ContentEncoding]:
    """Write bytes as text where they are UTF-8 without control characters, else as base64."""
    if encoding != "base64":
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and (encoding == "text" or not _NOT_TEXT.search(text)):
            return text, "text"
        if encoding == "text":
            raise InvalidArguments.of("encoding", "the content is not UTF-8; ask for base64")
    return base64.b64encode(body).decode(), "base64"
