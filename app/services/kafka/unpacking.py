"""Compressed batches, unpacked beside the event loop, no further than fits: few bytes may stand for megabytes."""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cramjam

from app.services.kafka.driver import calc_crc32c

HEAD = struct.Struct(">qiibIhiqqqhii")
"""The head of a batch of records: offset, length, epoch, magic, checksum, attributes, last offset delta, two times,
producer's id and epoch, sequence, number of records."""
BEFORE_LENGTH_COUNTS = 12
MAGIC_OF_BATCHES = 2
"""Older messages, which no broker keeps any longer, have another head."""
_COMPRESSED = 0x07
_LENGTH_AND_MAGIC = struct.Struct(">8xi4xb")
_CHECKSUM_AND_ATTRIBUTES = struct.Struct(">17xIh")
_AFTER_CHECKSUM = 21
MOST_UNPACKED = 8 * 1024 * 1024
"""Bytes that the compressed batches of one answer become; what is behind them is left to the next fetch."""
LARGEST_BATCH = 16 * 1024 * 1024
"""Bytes that one compressed batch may become."""

_codecs: Any = cramjam


class BatchTooLarge(Exception):
    """A compressed batch would become larger than may be.

    Args:
        begin: its first offset.
        following: the offset after it.
    """

    def __init__(self, begin: int, following: int) -> None:
        super().__init__(begin, following)
        self.begin = begin
        self.following = following


class _TooLarge(Exception):
    """What is unpacked does not fit."""


def is_packed(records: bytes) -> bool:
    """Tell whether any of the batches that a broker sent is compressed."""
    at = 0
    while (end := _end_of_batch(records, at)) is not None:
        if _CHECKSUM_AND_ATTRIBUTES.unpack_from(records, at)[1] & _COMPRESSED:
            return True
        at = end
    return False


def unpack(records: bytes, room: int) -> tuple[bytes, int]:
    """Return batches as if none had been compressed, and how many bytes the compressed ones have become.

    Args:
        records: as the broker sent them.
        room: bytes that compressed batches may become; what is behind the last that fits is cut off, as brokers cut
            their answers. The first of them may be as large as LARGEST_BATCH if there is all of MOST_UNPACKED.

    Raises:
        BatchTooLarge: the first batch of all alone is larger than that.
    """
    parts: list[bytes] = []
    kept = at = used = 0
    while (end := _end_of_batch(records, at)) is not None:
        checksum, attributes = _CHECKSUM_AND_ATTRIBUTES.unpack_from(records, at)
        # What was damaged on its way is left as it is, for the parser to refuse.
        if attributes & _COMPRESSED and calc_crc32c(records[at + _AFTER_CHECKSUM : end]) == checksum:
            most = LARGEST_BATCH if room == MOST_UNPACKED and not used else room - used
            try:
                if most <= 0:
                    raise _TooLarge
                unpacked = _CODECS[attributes & _COMPRESSED](records[at + HEAD.size : end], most)
            except _TooLarge:
                if at == 0 and most == LARGEST_BATCH:
                    head = HEAD.unpack_from(records, at)
                    raise BatchTooLarge(head[0], head[0] + head[6] + 1) from None
                return b"".join([*parts, records[kept:at]]), used
            except (zlib.error, ValueError, KeyError):
                pass  # as above
            else:
                parts += records[kept:at], _plain(records[at : at + HEAD.size], attributes & ~_COMPRESSED, unpacked)
                used += len(unpacked)
                kept = end
        at = end
    return b"".join([*parts, records[kept:]]), used


def _end_of_batch(records: bytes, at: int) -> int | None:
    """Return where a batch ends; None if it is cut off, or older than those that are known here."""
    if at + HEAD.size > len(records):
        return None
    length, magic = _LENGTH_AND_MAGIC.unpack_from(records, at)
    end = at + BEFORE_LENGTH_COUNTS + length
    return end if magic >= MAGIC_OF_BATCHES and at + HEAD.size <= end <= len(records) else None


def _plain(head: bytes, attributes: int, payload: bytes) -> bytes:
    """Return a batch that is not compressed."""
    behind = struct.pack(">h", attributes) + head[_AFTER_CHECKSUM + 2 :] + payload
    length = _AFTER_CHECKSUM - BEFORE_LENGTH_COUNTS + len(behind)
    return head[:8] + struct.pack(">i", length) + head[12:17] + struct.pack(">I", calc_crc32c(behind)) + behind


def _gzip(data: bytes, most: int) -> bytes:
    unpacked = bytearray()
    while data:
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        unpacked += stream.decompress(data, most + 1 - len(unpacked))
        if len(unpacked) > most:
            raise _TooLarge
        if not stream.eof:
            raise ValueError("it breaks off")
        data = stream.unused_data
    return bytes(unpacked)


_XERIAL = b"\x82SNAPPY\0"
_HEAD_OF_XERIAL = 16


def _snappy(data: bytes, most: int) -> bytes:
    """Unpack one block, or, as Kafka's own clients write it, blocks with their lengths."""
    blocks = [data]
    if data.startswith(_XERIAL):
        blocks.clear()
        at = _HEAD_OF_XERIAL
        while at < len(data):
            begin = at + 4
            at = begin + int.from_bytes(data[at:begin], "big")
            blocks.append(data[begin:at])
    try:
        if sum(_codecs.snappy.decompress_raw_len(block) for block in blocks) > most:
            raise _TooLarge
        return b"".join(bytes(_codecs.snappy.decompress_raw(block)) for block in blocks)
    except _codecs.DecompressionError as error:
        raise ValueError("it is damaged") from error


def _into(decompress: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes]:
    def unpack_into(data: bytes, most: int) -> bytes:
        room = bytearray(most)  # of which the system gives no more than is written to
        try:
            return bytes(memoryview(room)[: decompress(data, room)])
        except _codecs.DecompressionError as error:
            raise (_TooLarge if "whole buffer" in str(error) else ValueError)(str(error)) from error

    return unpack_into


_CODECS: Mapping[int, Callable[[bytes, int], bytes]] = {
    1: _gzip,
    2: _snappy,
    3: _into(_codecs.lz4.decompress_into),
    4: _into(_codecs.zstd.decompress_into),
}
"""By the number that Kafka has given them; each raises _TooLarge, or ValueError or zlib.error for what is damaged."""
