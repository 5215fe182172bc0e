"""Values: what goes in comes out unchanged, decoded only where nothing is lost."""

import asyncio
import base64
import json
import math
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record import default_records
from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidArguments
from app.local.kafka import LocalKafka
from app.servers.calls import JsonObject
from app.services.kafka import KafkaService
from app.services.kafka.messages import ConsumedMessages, Message, written
from app.services.kafka.positions import FromTail, Milliseconds
from tests.services.kafka.conftest import browse, values, work

LOSSLESS = [
    b"{}",
    b"[]",
    b'{"a":[1,2.5,-3,null,true,"x"]}',
    b' { "a" : [ 1 , 2 ] } ',
    b'{"a":"\\u00e9\\n\\ud83d\\ude00"}',
    '{"ä":"é"}'.encode(),
    b"[1e5,1E+22,1.0E22,1e23,5e-324,1.7976931348623157e308,2.2250738585072014e-308]",
    b"[0,0.0,-0.0,1.0,100,0.1,123456789.123456]",
    b"[9007199254740993,-18446744073709551616,1267650600228229401496703205376]",
    b'{"a":{"a":{"a":1}},"b":{"a":1}}',
    b'"text"',
    b'"1.10"',
    b"7",
    b"-7.25",
    b"true",
    b"null",
    b"[" * 100 + b"]" * 100,
]
LOSSY = [
    # Numbers, at every depth.
    b'{"e":1e400,"amt":0.1234567890123456789012}',
    b'[{"a":[{"b":0.1234567890123456789012}]}]',
    b"[1e400]",
    b"[-1e400]",
    b"[1e-400]",
    b"[9007199254740993.0]",
    b"[123456789012345678901234.5]",
    b"[1.10]",
    b"[1.00]",
    b"[1.50E3]",
    b"[-0]",
    b"[1e99999999999999999999]",
    b"[" + b"9" * 5000 + b"]",
    b"[0." + b"1" * 400 + b"]",
    # Names, text, structure.
    b'{"a":1,"a":2}',
    b'{"x":[{"a":1,"b":2,"a":1}]}',
    b'{"a":1,"\\u0061":2}',
    b'{"a":"\\ud800"}',
    b'{"\\udc00":1}',
    b'["\\ud800x"]',
    b"[" * 101 + b"]" * 101,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    # No JSON, or a bare number written so that it may be none.
    b"[NaN]",
    b"[Infinity]",
    b"{'a':1}",
    b"[1,]",
    b"1.10",
    b"007",
    b"1e5",
    b" 5",
    b"1e400",
    b"NaN",
    b"-0",
    b"\xef\xbb\xbf[1]",
]


async def stored(kafka: KafkaService, topic: str, *raw: bytes) -> list[Message]:
    """Store bytes as they are and read them back."""
    for value in raw:
        await kafka.publish(topic, base64.b64encode(value).decode(), encoding="base64", key="k")
    return (await browse(kafka, topic, max_messages=1000)).messages


async def test_what_loses_nothing_is_decoded(kafka: KafkaService, topic: str) -> None:
    for raw, message in zip(LOSSLESS, await stored(kafka, topic, *LOSSLESS), strict=True):
        assert message.encoding == "json", raw
        assert message.value == json.loads(raw), raw
        # Negative zero is equal to zero.
        assert str(message.value) == str(json.loads(raw)), raw


async def test_what_would_lose_something_is_text(kafka: KafkaService, topic: str) -> None:
    for raw, message in zip(LOSSY, await stored(kafka, topic, *LOSSY), strict=True):
        assert (message.encoding, message.value) == ("text", raw.decode()), raw


async def test_a_key_is_decoded_as_carefully_as_a_value(kafka: KafkaService, topic: str) -> None:
    keys = {'{"id":1}': "json", '{"id":1,"id":2}': "text", '{"id":1e400}': "text", "[0.10]": "text", "7": "text"}
    # Another spelling is another key to Kafka, so it must not be read as the same.
    keys |= {
        '{"id": 1}': "text",
        '[1,"é",null,{"a":2.5}]': "json",
        '["\\u00e9"]': "text",
        "[1e1]": "text",
        '"a"': "text",
    }
    keys |= {" [1]": "text", "[1]\n": "text", "{}": "json", "null": "text"}
    for key in keys:
        await kafka.publish(topic, "x", key=key)
    messages = (await browse(kafka, topic, max_messages=100)).messages
    for message, (key, encoding) in zip(messages, keys.items(), strict=True):
        assert (message.key_encoding, message.key) == (encoding, json.loads(key) if encoding == "json" else key)


@pytest.mark.parametrize(
    "number", [0, 42, 2**24 - 1, 2**24, 5_000_000_000, 1_795_360_867_131, 2**55 - 1, 2**63 - 1, -1]
)
async def test_a_long_of_java_names_no_schema_as_a_key(kafka: KafkaService, topic: str, number: int) -> None:
    raw = base64.b64encode(number.to_bytes(8, "big", signed=True)).decode()
    await kafka.publish(topic, "x", key=raw, key_encoding="base64")
    [message] = (await browse(kafka, topic)).messages
    assert (message.key_encoding, message.key, message.key_schema_id) == ("base64", raw, None)


@pytest.mark.parametrize(
    ("raw", "encoding", "schema_id"),
    [
        (b"\0\0\0\0\x2a\x02\x06foo", "schema_registry", 42),
        (b"\0\0\x01\x86\xa0{}", "schema_registry", 100_000),
        (b"\0\0\0\0\1", "schema_registry", 1),
        (b"\0\0\0\0\0\0\0\x2a", "base64", None),  # 42, as Java's LongSerializer writes it
        (b"\0\0\0\x2a", "base64", None),
        (b"\0", "base64", None),
        (b"\0text", "base64", None),
        (b"\0\xff\xff\xff\xff", "base64", None),
        (b"\x80abc", "base64", None),
        (b"a\0b", "text", None),
    ],
)
async def test_bytes_of_a_schema_registry_are_named_as_such(
    kafka: KafkaService, topic: str, raw: bytes, encoding: str, schema_id: int | None
) -> None:
    as_base64 = base64.b64encode(raw).decode()
    await kafka.publish(topic, as_base64, encoding="base64", key=as_base64, key_encoding="base64")
    [message] = (await browse(kafka, topic)).messages
    shown = raw.decode() if encoding == "text" else as_base64
    assert (message.encoding, message.value, message.schema_id) == (encoding, shown, schema_id)
    assert (message.key_encoding, message.key, message.key_schema_id) == (encoding, shown, schema_id)
    # What has no schema says nothing of one.
    assert ("schema_id" in message.model_dump()) == (schema_id is not None)
    # What was read as base64 is written back as it was.
    if encoding != "text":
        await kafka.publish(topic, message.value, encoding="base64")
        assert (await browse(kafka, topic)).messages[-1].value == message.value


@pytest.mark.parametrize(
    "message",
    [
        math.inf,
        {"a": math.nan},
        [[{"a": [-math.inf]}]],
        {"a": "\ud800"},
        {"\udc00": 1},
    ],
)
async def test_what_json_can_not_write_is_not_stored(kafka: KafkaService, topic: str, message: Any) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await kafka.publish(topic, message)
    assert refused.value.errors[0].field == "message"
    assert (await kafka.topics.describe(topic)).message_count == 0


@pytest.mark.parametrize("message", [{"a": "NaN and Infinity"}, ["NaN"], {"Infinity": 1}, "NaN", 2**200, 1e22, 1e-7])
async def test_what_only_looks_like_it_is_stored(kafka: KafkaService, topic: str, message: Any) -> None:
    await kafka.publish(topic, message)
    [read] = (await browse(kafka, topic)).messages
    if not isinstance(message, float):
        assert read.value == message
    else:
        assert json.loads(str(read.value)) == message  # a bare number in a notation of its own is text


async def test_a_large_page_is_decoded_beside_the_event_loop(kafka: KafkaService, topic: str) -> None:
    """More than is decoded at once, which is the only way to a thread, comes back the same."""
    large: JsonObject = {"rows": [{"n": number, "half": number / 2} for number in range(10_000)]}
    await kafka.publish(topic, large)
    [message] = (await browse(kafka, topic)).messages
    assert (message.encoding, message.value) == ("json", large)


MOMENT: TypeAdapter[int] = TypeAdapter(Milliseconds)


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        # As floating-point seconds these would be one less.
        ("2038-08-07T18:40:42.924Z", 2_164_819_242_924),
        ("2038-08-07T20:40:42.924+02:00", 2_164_819_242_924),
        ("2026-11-22t15:21:07.131z", 1_795_360_867_131),
        ("2026-11-22 15:21:07.131999Z", 1_795_360_867_131),
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        (1_795_360_867_131, 1_795_360_867_131),
        # A string of digits certainly is the number.
        ("1795360867131", 1_795_360_867_131),
        ("0", 0),
        ("5", 5),
        ("1700", 1700),
        (2026, 2026),
    ],
)
def test_a_moment_is_taken_to_the_millisecond(written: Any, milliseconds: int) -> None:
    assert MOMENT.validate_python(written) == milliseconds


def test_every_millisecond_is_taken_as_it_is_written() -> None:
    for milliseconds in range(2_164_819_242_000, 2_164_819_243_000):
        written = f"2038-08-07T18:40:42.{milliseconds % 1000:03}Z"
        assert MOMENT.validate_python(written) == milliseconds


@pytest.mark.parametrize(
    "written",
    [
        # More likely a date than a time in 1970 or 2612.
        *("20261122", "20261122152107", "2026", "202611", "202611221521", "19991231"),
        # No number is written so.
        *("05", "007", "00", "+5", "-5", "-0", "1_000", "1,000", "5.0", "٣", "1e12", "0x10", "9" * 30),
        *("2026-11-22", "2026-11-22T15:21:07", "soon", "", -1, True, 1.5),
    ],
)
def test_what_may_be_another_moment_is_refused_with_an_example(written: Any) -> None:
    with pytest.raises(ValidationError, match="ISO 8601"):
        MOMENT.validate_python(written)


class NameOfBytes(str):
    """A header's name that is no UTF-8, as clients in other languages may write it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xffname"


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_a_header_of_any_name_hides_no_message(
    kafka_broker: LocalKafka, kafka: KafkaService, topic: str, group_id: str, compression: str | None
) -> None:
    await kafka.publish(topic, "before")
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, compression_type=compression)
    await producer.start()
    try:
        batch = producer.create_batch()
        # Only aiokafka's builder in Python asks the name for its bytes.
        python: Any = default_records
        batch._builder = python._DefaultRecordBatchBuilderPy(2, 1 if compression else 0, 0, -1, -1, -1, 100_000)
        now = int(time.time() * 1000)
        for _ in range(2):
            headers = [(NameOfBytes("name"), b"\xff"), ("plain", None)]
            assert batch.append(key=b"k", value=b"odd", timestamp=now, headers=headers) is not None
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()
    await kafka.publish(topic, "after")
    everything = await browse(kafka, topic)
    assert values(everything) == ["before", "odd", "odd", "after"]
    assert [message.offset for message in everything.messages] == [0, 1, 2, 3]
    assert everything.messages[2].model_dump()["headers"] == {"\\xffname": {"base64": "/w=="}, "plain": None}
    assert values(await browse(kafka, topic, start=FromTail(tail=2))) == ["odd", "after"]
    assert values(await work(kafka, topic, group_id)) == ["before", "odd", "odd", "after"]
    assert (await kafka.topics.describe(topic)).message_count == 4


async def test_a_page_is_written_message_by_message_and_the_event_loop_goes_on() -> None:
    message = {"topic": "t", "partition": 0, "offset": 1, "timestamp": None, "key": "k", "value": ["x" * 100] * 2000}
    page = ConsumedMessages.model_validate(
        {"messages": [message] * 8, "next_cursor": '"messages":[]', "reached_end": True, "truncated": False}
    )
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    try:
        assert (await written(page)).json == page.model_dump_json().encode()
        assert turns >= len(page.messages)
    finally:
        task.cancel()
    empty = page.model_copy(update={"messages": []})
    assert (await written(empty)).json == empty.model_dump_json().encode()
