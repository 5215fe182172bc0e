"""Compressed batches, and the messages from before there were any, unpacked beside the event loop.

No further than fits: few bytes may stand for megabytes.
"""

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
"""Before Kafka 0.11 there were single messages, with another head; a compressed one holds many in its value."""
_MESSAGE = struct.Struct(">qiIbb")
"""The head of such a message: offset, length, checksum, magic, attributes. With magic 1, a time follows."""
_TIMESTAMP = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_AFTER_CHECKSUM_OF_A_MESSAGE = 16
_TIMED_BY_THE_BROKER = 0x08
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


def of_one_kind(records: bytes) -> bytes:
    """Return the beginning of what a broker sent that a parser reads as one: no batches behind single messages."""
    at = 0
    while (end := _end_of_batch(records, at)) is not None:
        if _is_batch(records, at):
            return records[:at] or records
        at = end
    return records


def is_packed(records: bytes) -> bool:
    """Tell whether any of the batches that a broker sent is compressed."""
    at = 0
    while (end := _end_of_batch(records, at)) is not None:
        if _codec(records, at):
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
        if _codec(records, at):
            most = LARGEST_BATCH if room == MOST_UNPACKED and not used else room - used
            try:
                if most <= 0:
                    raise _TooLarge
                unpacked = (_batch if _is_batch(records, at) else _messages)(records[at:end], most)
            except _TooLarge:
                if at == 0 and most == LARGEST_BATCH:
                    head = HEAD.unpack_from(records, at) if _is_batch(records, at) else None
                    begin = _MESSAGE.unpack_from(records, at)[0]
                    raise BatchTooLarge(begin, begin + (head[6] if head else 0) + 1) from None
                return b"".join([*parts, records[kept:at]]), used
            except (zlib.error, ValueError, KeyError, struct.error):
                pass  # What was damaged on its way is left as it is, for the parser to refuse.
            else:
                parts += records[kept:at], unpacked
                used += len(unpacked)
                kept = end
        at = end
    return b"".join([*parts, records[kept:]]), used


def _is_batch(records: bytes, at: int) -> bool:
    return _LENGTH_AND_MAGIC.unpack_from(records, at)[1] >= MAGIC_OF_BATCHES


def _codec(records: bytes, at: int) -> int:
    """Return by which codec a batch, or a message, is compressed; 0 if by none."""
    if _is_batch(records, at):
        return _CHECKSUM_AND_ATTRIBUTES.unpack_from(records, at)[1] & _COMPRESSED
    return _MESSAGE.unpack_from(records, at)[4] & _COMPRESSED


def _end_of_batch(records: bytes, at: int) -> int | None:
    """Return where a batch, or a message, ends; None if it is cut off."""
    if at + _MESSAGE.size > len(records):
        return None
    length = _LENGTH_AND_MAGIC.unpack_from(records, at)[0]
    shortest = HEAD.size if _is_batch(records, at) else _MESSAGE.size
    end = at + BEFORE_LENGTH_COUNTS + length
    return end if at + shortest <= end <= len(records) else None


def _batch(batch: bytes, most: int) -> bytes:
    """Return a batch as if it had not been compressed."""
    checksum, attributes = _CHECKSUM_AND_ATTRIBUTES.unpack_from(batch)
    if calc_crc32c(batch[_AFTER_CHECKSUM:]) != checksum:
        raise ValueError("it is damaged")
    unpacked = _CODECS[attributes & _COMPRESSED](batch[HEAD.size :], most)
    return _plain(batch[: HEAD.size], attributes & ~_COMPRESSED, unpacked)


def _messages(message: bytes, most: int) -> bytes:
    """Return the messages that a compressed one holds.

    Theirs are the offsets of magic 0; with magic 1 they count to the one that holds them, which has the last one's.
    """
    last, _, checksum, magic, attributes = _MESSAGE.unpack_from(message)
    if zlib.crc32(message[_AFTER_CHECKSUM_OF_A_MESSAGE:]) != checksum:
        raise ValueError("it is damaged")
    at = _MESSAGE.size + (_TIMESTAMP.size if magic else 0)
    at += _LENGTH.size + max(_LENGTH.unpack_from(message, at)[0], 0)  # the key
    held = _CODECS[attributes & _COMPRESSED](message[at + _LENGTH.size :], most)
    found: list[tuple[int, bytes]] = []
    begin = 0
    while begin < len(held):
        offset, length, *_ = _MESSAGE.unpack_from(held, begin)
        if length < _MESSAGE.size - BEFORE_LENGTH_COUNTS or begin + BEFORE_LENGTH_COUNTS + length > len(held):
            raise ValueError("it breaks off")
        content = held[begin + _AFTER_CHECKSUM_OF_A_MESSAGE : begin + BEFORE_LENGTH_COUNTS + length]
        if magic and attributes & _TIMED_BY_THE_BROKER:
            time = message[_MESSAGE.size : _MESSAGE.size + _TIMESTAMP.size]
            content = bytes([content[0], content[1] | _TIMED_BY_THE_BROKER]) + time + content[2 + len(time) :]
        found.append((offset, content))
        begin += BEFORE_LENGTH_COUNTS + length
    to_add = last - found[-1][0] if magic and found else 0
    return b"".join(
        struct.pack(">qiI", offset + to_add, len(content) + 4, zlib.crc32(content)) + content
        for offset, content in found
    )


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
