"""What the gateway uses of aiokafka's insides: all of it behind one module, and as it was when it was read."""

import ast
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, conn
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender
from aiokafka.record import default_records, memory_records
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import decode_varint_py
from aiokafka.structs import TopicPartition

from app.services.kafka import driver
from app.services.kafka.driver import READ_COMMITTED, READ_UNCOMMITTED
from app.services.kafka.records import Fetched

ROOT = Path(__file__).parents[3]
PROMISED = {"aiokafka", "aiokafka.errors", "aiokafka.structs", "aiokafka.admin"}
"""What aiokafka's documentation describes."""


def test_the_pinned_version_is_the_one_whose_insides_were_read() -> None:
    """Who changes the version reads `driver.py` and what it names in aiokafka, then writes the new one here."""
    assert version("aiokafka") == "0.14.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [pin] = [line for line in project["dependencies"] if line.startswith("aiokafka")]
    assert re.fullmatch(r"aiokafka\[[a-z0-9,]+\]==0\.14\.0", pin), "aiokafka has to be pinned exactly"


def test_only_the_driver_knows_aiokafkas_insides() -> None:
    for path in (ROOT / "app").rglob("*.py"):
        if path == Path(driver.__file__):
            continue
        tree = ast.parse(path.read_text())
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {name for name in imported if name.partition(".")[0] == "aiokafka"} <= PROMISED, path


INSIDE_RECORDS: Any = default_records
INSIDE_BATCHES: Any = memory_records
TAKEN: list[tuple[Any, list[str]]] = [
    (INSIDE_RECORDS._DefaultRecordBatchPy._maybe_uncompress, ["self"]),
    (INSIDE_RECORDS._DefaultRecordBatchPy._read_msg, ["self", "decode_varint"]),
    (INSIDE_BATCHES._MemoryRecordsPy._cache_next, ["self", "len_offset", "log_overhead"]),
    (decode_varint_py, ["buffer", "pos"]),
    (AIOKafkaClient._metadata_update, ["self", "cluster_metadata", "topics"]),
    (AIOKafkaProducer._serialize, ["self", "key", "value", "headers"]),
    (Sender.close, ["self"]),
    (MessageAccumulator.fail_all, ["self", "exception"]),
    (RangePartitionAssignor.assign, ["cluster", "members"]),
    (
        PartitionRecords.__init__,
        [
            "self",
            "tp",
            "records",
            "aborted_transactions",
            "fetch_offset",
            "key_deserializer",
            "value_deserializer",
            "check_crcs",
            "isolation_level",
        ],
    ),
]


@pytest.mark.parametrize(("function", "parameters"), TAKEN, ids=lambda value: getattr(value, "__qualname__", ""))
def test_a_function_takes_what_the_driver_gives(function: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters


def test_connections_take_what_the_settings_give() -> None:
    assert {"host", "port", "client_id", "request_timeout_ms", "security_protocol", "ssl_context"} <= set(
        inspect.signature(conn.create_conn).parameters
    ) | set(inspect.signature(conn.AIOKafkaConnection.__init__).parameters)


async def test_a_producer_has_the_parts_that_the_driver_takes_hold_of() -> None:
    producer: Any = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    producer._closed = True  # Not started, so there is nothing to close.
    assert type(producer.client) is AIOKafkaClient, "the driver changes the class of a client that it knows"
    assert producer._sender.sender_task is None, "by this the driver knows a start that failed"
    assert isinstance(producer._message_accumulator, MessageAccumulator)
    assert {"_metadata_update"} == {
        name for name in vars(driver._Client) if not name.startswith("__") and callable(vars(driver._Client)[name])
    }


def test_requests_are_prepared_by_the_versions_of_the_broker() -> None:
    request = driver.AllTopicsRequest()
    assert list(inspect.signature(request.prepare).parameters) == ["versions"]
    assert request.prepare({3: (0, 12)}).API_VERSION == 5


def batch(base: int, values: list[bytes], *, producer: int = -1, transactional: bool = False) -> bytes:
    """Write a batch as a producer does, and give it its place as a broker does."""
    builder = DefaultRecordBatchBuilder(
        2,
        compression_type=0,
        is_transactional=transactional,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=100_000,
    )
    for number, value in enumerate(values):
        builder.append(number, timestamp=1_700_000_000_000, key=None, value=value, headers=[])
    return base.to_bytes(8, "big") + bytes(builder.build())[8:]


@pytest.mark.parametrize("size", [0, 1, 100, 20_000])
def test_the_size_of_a_batch_is_known_before_it_is_written(size: int) -> None:
    assert driver.size_of_batch(None, b"x" * size, []) == len(batch(0, [b"x" * size]))


PARTITION = TopicPartition("t", 0)


def test_records_are_read_and_counted_alike() -> None:
    stored = batch(0, [b"a", b"b", b"c"]) + batch(5, [b"d"]) + batch(6, [b"e", b"f"], producer=9, transactional=True)
    for begin, until, isolation, aborted, expected in (
        (0, 8, READ_COMMITTED, [], b"abcdef"),
        (1, 8, READ_COMMITTED, [], b"bcdef"),
        (1, 7, READ_COMMITTED, [], b"bcde"),
        (2, 6, READ_COMMITTED, [], b"cd"),
        (0, 8, READ_COMMITTED, [(9, 6)], b"abcd"),
        (0, 8, READ_UNCOMMITTED, [(9, 6)], b"abcdef"),
    ):
        read = Fetched(PARTITION, begin, 0, 8, stored, aborted, isolation)
        assert b"".join(record.value or b"" for record in read if record.offset < until) == expected
        count, position = Fetched(PARTITION, begin, 0, 8, stored, aborted, isolation).count(until)
        assert (count, position >= until) == (len(expected), True)


def test_an_answer_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    stored = batch(0, [b"a", b"b"]) + batch(2, [b"c"])[:-3]
    fetched = Fetched(PARTITION, 0, 0, 3, stored, [], READ_COMMITTED)
    assert fetched.count(3) == (2, 2)
    assert [record.offset for record in fetched] == [0, 1]
    assert fetched.position == 2


def test_a_position_stands_before_the_next_record() -> None:
    stored = batch(0, [b"a"]) + batch(3, [b"x"], producer=9, transactional=True) + batch(7, [b"b"])
    fetched = Fetched(PARTITION, 0, 0, 8, stored, [(9, 3)], READ_COMMITTED)
    assert fetched.position == 0
    first = fetched.take()
    assert first is not None
    assert (first.value, fetched.position) == (b"a", 7)
    assert [record.offset for record in fetched] == [7]
    assert fetched.position == 8


def test_members_and_shares_are_written_as_kafka_reads_them() -> None:
    subscription = driver.encode_subscription("t")
    assert ConsumerProtocolMemberMetadata.decode(subscription).subscription == ["t"]
    everybody = driver.Subscriptions([("one", subscription), ("two", subscription)])
    assert everybody.topics == {"t"}
    shares = dict(everybody.divide_by_range({"t": {0, 1, 2}}))
    assert {member: driver.decode_assignment(share) for member, share in shares.items()} == {
        "one": {"t": [0, 1]},
        "two": {"t": [2]},
    }
    assert ConsumerProtocolMemberAssignment.decode(shares["two"]).assignment == [("t", [2])]
    assert driver.decode_assignment(b"") == {}
