"""What a fetch answers: records in order, and how many of them a reader may see."""

from collections.abc import Iterator
from typing import Any

from aiokafka.structs import TopicPartition

from app.errors import Conflict
from app.services.kafka.driver import READ_COMMITTED, READ_UNCOMMITTED, PartitionReader, Record
from app.services.kafka.unpacking import (
    BEFORE_LENGTH_COUNTS,
    HEAD,
    LARGEST_BATCH,
    MAGIC_OF_BATCHES,
    MOST_UNPACKED,
    BatchTooLarge,
    is_packed,
    of_one_kind,
    unpack,
)

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
        self._bytes = of_one_kind(records)
        self._isolation = isolation
        self._aborted: list[tuple[int, int]] = list(aborted or ()) if isolation == READ_COMMITTED else []
        self._open()

    def _open(self) -> None:
        self._reader = PartitionReader(self._partition, self._begin, self._bytes, self._aborted, self._isolation)
        self._records = iter(self._reader)
        self._next: Record | None = None
        self._at_end = False

    @property
    def is_packed(self) -> bool:
        """Whether there are compressed batches, which are to be unpacked before any record is taken."""
        return is_packed(self._bytes)

    def unpack(self, room: int) -> int:
        """Unpack what is compressed, as far as there is room, and leave the rest to the next fetch. For a thread.

        Args:
            room: bytes.

        Returns:
            how many of them it took.

        Raises:
            Conflict: there is a batch that no answer takes.
        """
        try:
            self._bytes, used = unpack(self._bytes, room)
        except BatchTooLarge as batch:
            where = f"partition {self._partition.partition} of {self._partition.topic}"
            raise Conflict(
                f"What {where} holds at offset {batch.begin} is compressed and would unpack to more than "
                f"{LARGEST_BATCH // 1024 // 1024} MiB; read on behind it, from offset {batch.following}"
            ) from None
        self._open()
        return used

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
        """Count readable records, unpacking no more than the first and the last batch. For a thread, if it is packed.

        Args:
            until: offset before which they count.

        Returns:
            their number, and the offset to count on from; that of a batch which is too large to be looked into.
        """
        position, counted, at = self._begin, 0, 0
        aborted = sorted(self._aborted, key=lambda transaction: transaction[1])
        aborting: set[int] = set()
        while position < until and at + HEAD.size <= len(self._bytes):
            base, length, _, magic, _, attributes, last, _, _, producer, _, _, records = HEAD.unpack_from(
                self._bytes, at
            )
            end_of_batch = at + BEFORE_LENGTH_COUNTS + length
            if end_of_batch > len(self._bytes):
                break  # The broker cut the answer off at its limit.
            if magic < MAGIC_OF_BATCHES:
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
                    try:
                        batch, _ = unpack(self._bytes[at:end_of_batch], MOST_UNPACKED)
                    except BatchTooLarge:
                        break
                    counted += self._count_one_by_one(batch, until, 0)[0]
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
