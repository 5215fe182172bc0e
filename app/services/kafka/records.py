"""What a fetch answers: records in order, and how many of them a reader may see."""

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.structs import TopicPartition

from app.services.kafka.driver import READ_COMMITTED, READ_UNCOMMITTED, PartitionReader, Record

_BATCH = struct.Struct(">qiibIhiqqqhii")
"""The head of a batch of records: offset, length, epoch, magic, checksum, attributes, last offset delta, two times,
producer's id and epoch, sequence, number of records."""
_BEFORE_LENGTH_COUNTS = 12
_MAGIC_OF_BATCHES = 2
_TRANSACTIONAL, _CONTROL = 0x10, 0x20


class Fetched:
    """What one partition answered to a fetch. Its readable records are taken one by one.

    Args:
        partition: whose answer it is.
        position: offset that was asked for.
        first: first offset that is still stored; -1 if the broker does not say.
        end: offset after the last message that may be read.
        records: as the broker sent them.
        aborted: producers and first offsets of aborted transactions, as the broker sent them.
        isolation: READ_COMMITTED or READ_UNCOMMITTED.
    """

    def __init__(
        self,
        partition: TopicPartition,
        position: int,
        first: int,
        end: int,
        records: bytes,
        aborted: Any,
        isolation: int,
    ) -> None:
        self.first = first
        self.end = end
        self.size = len(records)
        self._partition = partition
        self._begin = position
        self._bytes = records
        self._isolation = isolation
        self._aborted: list[tuple[int, int]] = list(aborted or ()) if isolation == READ_COMMITTED else []
        self._reader = PartitionReader(partition, position, records, self._aborted, isolation)
        self._records = iter(self._reader)
        self._next: Record | None = None
        self._at_end = False

    def peek(self) -> Record | None:
        """Return the next record without taking it; None if there is no more."""
        if self._next is None and not self._at_end:
            self._next = next(self._records, None)
            self._at_end = self._next is None
        return self._next

    def take(self) -> Record | None:
        """Return the next record; None if there is no more."""
        record, self._next = self.peek(), None
        return record

    def __iter__(self) -> Iterator[Record]:
        while (record := self.take()) is not None:
            yield record

    @property
    def position(self) -> int:
        """Offset to read on from: all that may be read before it has been taken.

        Markers of transactions, aborted records and what compaction removed have offsets, too; they are behind it.
        """
        following = self.peek()
        return self._reader.position if following is None else following.offset

    def count(self, until: int) -> tuple[int, int]:
        """Count readable records without unpacking them.

        Args:
            until: offset before which they count.

        Returns:
            their number, and the offset to count on from.
        """
        position, counted, at = self._begin, 0, 0
        aborted = sorted(self._aborted, key=lambda transaction: transaction[1])
        aborting: set[int] = set()
        while position < until and at + _BATCH.size <= len(self._bytes):
            base, length, _, magic, _, attributes, last, _, _, producer, _, _, records = _BATCH.unpack_from(
                self._bytes, at
            )
            end_of_batch = at + _BEFORE_LENGTH_COUNTS + length
            if end_of_batch > len(self._bytes):
                break  # The broker cut the answer off at its limit.
            if magic < _MAGIC_OF_BATCHES:
                return self._count_one_by_one(self._bytes[at:], until, counted)
            while aborted and aborted[0][1] <= base:
                aborting.add(aborted.pop(0)[0])
            if attributes & _CONTROL:
                # A transaction that was aborted ends with its producer's next marker.
                aborting.discard(producer)
            elif not (attributes & _TRANSACTIONAL and producer in aborting):
                if base >= self._begin and base + last < until:
                    counted += records
                else:
                    counted += self._count_one_by_one(self._bytes[at:end_of_batch], until, 0)[0]
            position = max(position, base + last + 1)
            at = end_of_batch
        return counted, position

    def _count_one_by_one(self, records: bytes, until: int, counted: int) -> tuple[int, int]:
        reader = PartitionReader(self._partition, self._begin, records, None, READ_UNCOMMITTED)
        for record in reader:
            if record.offset >= until:
                return counted, until
            counted += 1
        return counted, reader.position
