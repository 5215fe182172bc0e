"""The AWS server as callers meet it: every tool through every face, streams over HTTP."""

import asyncio
import base64
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.local.aws import LocalAws
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.services.aws.clients import Connection
from app.services.aws.demo.seeding import DEMO_BUCKET, DEMO_FUNCTION
from app.services.aws.parameters import MASK
from app.settings import Settings
from tests.fixtures.aws import AwsBehindTheGateway, scripted_aws, settings_for_aws
from tests.fixtures.gateway import Call, Served, mcp_client, serve

PART = 5 * 1024 * 1024
EVERY_BYTE = bytes(range(256))
SECRET_PARAMETER = "/switchboard/crm/api-key"
SECRET = "demo-crm-key-7f3a91"


@asynccontextmanager
async def served_with(**settings: Any) -> AsyncGenerator[Served]:
    """Serve a gateway that offers AWS alone, under the given settings of it, and lets one caller have all streams."""
    service_settings = settings_for_aws(settings.pop("stack", None), **settings)
    app = create_app([AWSMCPServer], Settings(max_streams_per_caller=128), [service_settings])
    async with serve(app) as served:
        yield served


@pytest.fixture(scope="module")
async def gateway(aws_stack: LocalAws) -> AsyncGenerator[Served]:
    async with served_with(stack=aws_stack, s3_part_bytes=PART) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        yield client


# Tools, through every face


async def test_an_object_is_written_read_listed_and_deleted(call: Call, bucket: str) -> None:
    content = base64.b64encode(EVERY_BYTE).decode()
    written = await call(
        "aws", "s3_upload_file", {"bucket": bucket, "key": "a/b.bin", "content": content, "encoding": "base64"}
    )
    read = await call("aws", "s3_download_file", {"bucket": bucket, "key": "a/b.bin"})
    listed = await call("aws", "s3_list_objects", {"bucket": bucket, "delimiter": "/"})
    deleted = await call("aws", "s3_delete_object", {"bucket": bucket, "key": "a/b.bin"})
    gone = await call("aws", "s3_download_file", {"bucket": bucket, "key": "a/b.bin"})

    assert written["success"] is True
    assert (written["size"], written["etag"]) == (256, read["etag"])
    assert (read["content"], read["encoding"]) == (content, "base64")
    assert (listed["common_prefixes"], listed["objects"], listed["is_truncated"]) == (["a/"], [], False)
    assert (deleted["key"], deleted["delete_marker"]) == ("a/b.bin", False)
    assert (gone["success"], gone["code"]) == (False, "not_found")
    assert "'a/b.bin'" in gone["detail"]


async def test_the_demo_function_runs(call: Call) -> None:
    answer = await call(
        "mcp_aws",
        "lambda_invoke",
        {
            "function_name": DEMO_FUNCTION,
            "payload": {"feedback": "Great help, thank you!", "customer_id": "12345"},
            "log_type": "Tail",
        },
    )

    assert answer["payload"]["sentiment"] == "positive"
    assert answer["payload"]["customer_id"] == "12345"
    assert "customer 12345" in answer["log_result"]


async def test_a_function_that_fails_is_no_failure_of_the_gateway(call: Call) -> None:
    answer = await call("aws", "lambda_invoke", {"function_name": DEMO_FUNCTION, "payload": {}})

    assert answer["success"] is True
    assert answer["function_error"] == "Unhandled"
    assert "feedback" in answer["payload"]["errorMessage"]


@pytest.mark.parametrize("spelling", ["parameter_name", "name"])
async def test_a_secret_parameter_is_masked_unless_it_is_asked_for(call: Call, spelling: str) -> None:
    masked = await call("aws", "get_parameter_store_value", {spelling: SECRET_PARAMETER})
    shown = await call("aws", "get_parameter_store_value", {spelling: SECRET_PARAMETER, "with_decryption": True})

    assert (masked["value"], masked["masked"], masked["type"]) == (MASK, True, "SecureString")
    assert (shown["value"], shown["masked"]) == (SECRET, False)


async def test_parameters_are_read_by_their_path(call: Call) -> None:
    page = await call("aws", "get_parameters_by_path", {"path": "/switchboard/support", "max_results": 2})
    rest = await call(
        "aws",
        "get_parameters_by_path",
        {"path": "/switchboard/support", "max_results": 2, "next_token": page["next_token"]},
    )

    names = [parameter["name"] for parameter in (*page["parameters"], *rest["parameters"])]
    assert names == [f"/switchboard/support/{name}" for name in ("email", "hours", "languages")]


async def test_an_address_is_good_for_no_longer_than_the_operator_allows(call: Call) -> None:
    place = {"bucket": DEMO_BUCKET, "key": "customers/12345/contract.md"}
    week = await call("aws", "s3_presign_url", {**place, "method": "PUT", "expires_in": 604_800})
    hour = await call("aws", "s3_presign_url", {**place, "method": "PUT", "expires_in": 3600})
    quiet = await call("aws", "s3_presign_url", place)

    assert (week["code"], week["errors"][0]["field"]) == ("invalid_arguments", "expires_in")
    assert "AWS_S3_PRESIGN_MAX_SECONDS" in week["detail"]
    assert (hour["expires_in"], quiet["expires_in"]) == (3600, 900)


def test_what_makes_addresses_to_write_at_is_not_called_read_only() -> None:
    for name, tool in AWSMCPServer.tools.items():
        writes = name in ("s3_upload_file", "s3_delete_object", "s3_presign_url", "lambda_invoke")
        assert (tool.destructive, tool.read_only) == (writes, not writes)


async def test_what_is_missing_is_told_with_what_there_is(call: Call) -> None:
    bucket = await call("aws", "s3_list_objects", {"bucket": "switchboard-dmo"})
    function = await call("aws", "lambda_invoke", {"function_name": "process-feedback"})
    parameter = await call("aws", "get_parameter_store_value", {"name": "/switchboard/support/mail"})

    assert [answer["code"] for answer in (bucket, function, parameter)] == ["not_found"] * 3
    assert f"Those that may be used: {DEMO_BUCKET}" in bucket["detail"]
    assert f"Those that may be used: {DEMO_FUNCTION}" in function["detail"]
    assert "Those that may be used: /switchboard/support/email, " in parameter["detail"]


async def test_a_presigned_address_works_without_credentials(call: Call) -> None:
    answer = await call(
        "aws", "s3_presign_url", {"bucket": DEMO_BUCKET, "key": "customers/12345/contract.md", "expires_in": 60}
    )

    async with httpx.AsyncClient(timeout=30) as anybody:
        assert "customer 12345" in (await anybody.get(answer["url"])).text


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("s3_upload_file", {"bucket": "Bad_Bucket", "key": "k", "content": "x"}, "bucket"),
        ("s3_upload_file", {"bucket": "bucket", "key": "", "content": "x"}, "key"),
        ("s3_upload_file", {"bucket": "bucket", "key": "k", "content": "x", "encoding": "hex"}, "encoding"),
        ("s3_upload_file", {"bucket": "bucket", "key": "k", "content": "?", "encoding": "base64"}, "content"),
        ("s3_download_file", {"bucket": "bucket", "key": "k", "range": "0-9"}, "range"),
        ("s3_list_objects", {"bucket": "bucket", "max_keys": 1001}, "max_keys"),
        ("s3_list_objects", {"bucket": "bucket", "max_keys": "five"}, "max_keys"),
        ("s3_presign_url", {"bucket": "bucket", "key": "k", "expires_in": 604801}, "expires_in"),
        ("s3_presign_url", {"bucket": "bucket", "key": "k", "method": "DELETE"}, "method"),
        ("lambda_invoke", {"function_name": "a/b"}, "function_name"),
        ("lambda_invoke", {"function_name": "a:1", "qualifier": "2"}, "qualifier"),
        ("get_parameter_store_value", {"parameter_name": "a b"}, "parameter_name"),
        ("get_parameter_store_value", {"parameter_name": "a", "name": "b"}, "name"),
        ("get_parameter_store_value", {}, "parameter_name"),
        ("get_parameters_by_path", {"path": "no-slash"}, "path"),
    ],
)
async def test_an_argument_that_is_refused_is_named(
    call: Call, tool: str, arguments: dict[str, Any], field: str
) -> None:
    answer = await call("aws", tool, arguments)

    assert (answer["status"], answer["code"]) == (422, "invalid_arguments")
    assert field in [error["field"].split(".")[0] for error in answer["errors"]]


async def test_text_that_is_no_utf_8_is_answered_with_the_way_to_send_bytes(
    http: httpx.AsyncClient, gateway: Served, bucket: str
) -> None:
    place = b'"bucket": "%s", "key": "k"' % bucket.encode()
    hint = 'encoding: "base64"'
    for content in (b"\xe4", b"\\ud800", b"ok\xff\xfe"):
        arguments = b'{%s, "content": "%s"}' % (place, content)
        tool = await http.post(
            "/mcp/aws/tools/s3_upload_file", content=arguments, headers={"content-type": "application/json"}
        )
        batch = await http.post(
            "/mcp/batch",
            content=b'{"calls": [{"server": "aws", "tool": "s3_upload_file", "arguments": %s}]}' % arguments,
            headers={"content-type": "application/json"},
        )
        mcp = await http.post(
            "/mcp/aws",
            content=b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "s3_upload_file", '
            b'"arguments": %s}}' % arguments,
            headers={"content-type": "application/json", "accept": "application/json, text/event-stream"},
        )
        assert (tool.status_code, batch.status_code) == (400, 400)
        assert hint in tool.json()["detail"]
        assert hint in batch.json()["detail"]
        assert hint in mcp.json()["error"]["message"]
    said = await http.post("/mcp/aws/tools/s3_download_file", json={"bucket": bucket, "key": "k"})
    assert said.status_code == 404


# Resources


async def test_resources_list_names_and_never_values(gateway: Served, behind: AwsBehindTheGateway) -> None:
    async with mcp_client(gateway, "mcp-2026-07-28", "aws") as client:
        listed = {str(resource.uri) for resource in (await client.list_resources()).resources}
        templates = {t.uri_template for t in (await client.list_resource_templates()).resource_templates}

        async def read(uri: str) -> str:
            [content] = (await client.read_resource(uri)).contents
            text: str = content.text  # type: ignore[union-attr]
            return text

        buckets = await read("aws://s3/buckets")
        parameters = await read("aws://ssm/parameters")
        functions = await read("aws://lambda/functions")
        one_bucket = await read(f"aws://s3/buckets/{DEMO_BUCKET}?prefix=customers/12345/&limit=2")
        one_function = await read(f"aws://lambda/functions/{DEMO_FUNCTION}")
        one_parameter = await read("aws://ssm/parameters/%2Fswitchboard%2Fcrm%2Fapi-key")

    assert listed == {"aws://s3/buckets", "aws://lambda/functions", "aws://ssm/parameters"}
    assert templates >= {
        "aws://s3/buckets/{bucket}{?prefix,cursor,limit}",
        "aws://lambda/functions/{function_name}{?cursor,limit}",
        "aws://ssm/parameters/{+parameter_name}{?cursor,limit}",
    }
    assert DEMO_BUCKET in buckets
    assert SECRET_PARAMETER in parameters
    assert DEMO_FUNCTION in functions
    assert "customers/12345/contract.md" in one_bucket
    assert '"version":"$LATEST"' in one_function
    assert '"type":"SecureString"' in one_parameter
    everything = parameters + one_parameter + functions + one_function
    assert SECRET not in everything
    assert base64.b64encode(SECRET.encode()).decode() not in everything


async def test_the_objects_of_a_bucket_page_by_cursor(http: httpx.AsyncClient) -> None:
    keys: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        uri = httpx.URL(f"aws://s3/buckets/{DEMO_BUCKET}", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        page = (await http.get("/mcp/aws/resources/read", params={"uri": str(uri)})).json()
        keys += [found["key"] for found in page["objects"]]
        cursor, pages = page["next_cursor"], pages + 1

    assert pages >= 3
    assert len(keys) == len(set(keys)) >= 7


# Streams


@pytest.mark.parametrize("size", [0, 1, PART, 3 * PART + 7])
async def test_a_stream_comes_back_byte_for_byte(http: httpx.AsyncClient, bucket: str, size: int) -> None:
    body = (EVERY_BYTE * (size // 256 + 1))[:size]

    written = await http.post(
        f"/mcp/aws/s3/{bucket}/dir/file.bin",
        content=body,
        headers={"content-type": "application/x-mine", "x-amz-meta-customer": "12345"},
    )
    read = await http.get(f"/mcp/aws/s3/{bucket}/dir/file.bin")

    assert written.status_code == 200
    assert (written.json()["success"], written.json()["size"]) == (True, size)
    assert read.status_code == 200
    assert read.content == body
    assert read.headers["content-type"] == "application/x-mine"
    assert read.headers["content-length"] == str(size)
    assert read.headers["x-amz-meta-customer"] == "12345"
    assert read.headers["etag"] == f'"{written.json()["etag"]}"'
    assert read.headers["x-content-type-options"] == "nosniff"


async def test_a_body_without_a_length_is_taken_too(http: httpx.AsyncClient, bucket: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * (PART // 10)

    written = await http.post(f"/mcp/aws/s3/{bucket}/k", content=body())

    assert written.json()["size"] == 11 * (PART // 10)


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-", 206, b"89"),
        ("BYTES=2-4", 206, b"234"),
        ("Bytes=,2-4 ,", 206, b"234"),
        (f"bytes=7-{'9' * 30}", 206, b"789"),
        (f"bytes=-{'9' * 30}", 206, b"0123456789"),
        # A server ignores units that it does not know, and may ignore several ranges, as S3 does.
        ("lines=2-4", 200, b"0123456789"),
        ("items", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        (f"bytes={'9' * 30}-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=4-2", 422, None),
        ("bytes=", 422, None),
        ("bytes=two-four", 422, None),
        ("bytes=0-1,nonsense", 422, None),
    ],
)
async def test_a_range_is_served(
    http: httpx.AsyncClient, behind: AwsBehindTheGateway, bucket: str, asked: str, status: int, content: bytes | None
) -> None:
    await behind.s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")

    answer = await http.get(f"/mcp/aws/s3/{bucket}/k", headers={"range": asked})

    assert answer.status_code == status
    if content is not None:
        assert answer.content == content
        assert ("content-range" in answer.headers) is (status == 206)
    else:
        assert answer.json()["errors"][0]["field"] == "range"


async def test_head_answers_what_get_would_and_no_byte(
    http: httpx.AsyncClient, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789", ContentType="text/x", Metadata={"a": "b"})

    head = await http.head(f"/mcp/aws/s3/{bucket}/k")
    ranged = await http.head(f"/mcp/aws/s3/{bucket}/k", headers={"range": "bytes=0-1"})
    whole = await http.get(f"/mcp/aws/s3/{bucket}/k")
    missing = await http.head(f"/mcp/aws/s3/{bucket}/none")

    own = {"date", "x-request-id"}
    shown = {name: value for name, value in head.headers.items() if name not in own}
    assert (head.status_code, head.content) == (200, b"")
    assert shown == {name: value for name, value in whole.headers.items() if name not in own}
    assert head.headers["content-length"] == "10"
    assert (ranged.status_code, ranged.headers["content-length"]) == (200, "10")
    assert missing.status_code == 404


@asynccontextmanager
async def raw_request(served: Served, text: str) -> AsyncGenerator[asyncio.StreamReader]:
    """Send a request, or its beginning, and hold the connection without reading on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(text.encode())
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def send_raw(gateway: Served, method: str, path: bytes, body: bytes = b"") -> bytes:
    """Send a path that no client library would leave as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = b"%s %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (method.encode(), path, len(body)) + body)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"plain", "plain"),
        (b"a/b", "a/b"),
        (b"a%2Fb", "a/b"),
        (b"a%252Fb", "a%2Fb"),
        (b"a//b", "a//b"),
        (b"/lead", "/lead"),
        (b"a/../b", "a/../b"),
        (b"a/%2E%2E/b", "a/../b"),
        (b"..", ".."),
        (b"trail/", "trail/"),
        (b"%E2%98%83", "☃"),
        (b"a%20b+c", "a b+c"),
        (b"q%3Fa%23b", "q?a#b"),
        (b"%00", "\x00"),
        (b"tools/x", "tools/x"),
        (b"two%0Alines", "two\nlines"),
        (b"%0A", "\n"),
        (b"end%0D%0A", "end\r\n"),
        (b"a%0A/%0Ab", "a\n/\nb"),
        (b"%E2%80%A8%C2%85%0B%0C", "\u2028\x85\x0b\x0c"),
    ],
)
async def test_the_key_is_read_from_the_raw_path(
    gateway: Served, behind: AwsBehindTheGateway, bucket: str, raw: bytes, key: str
) -> None:
    path = b"/mcp/aws/s3/" + bucket.encode() + b"/" + raw

    written = await send_raw(gateway, "POST", path, b"here")
    read = await send_raw(gateway, "GET", path)

    assert b"HTTP/1.1 200" in written
    assert await behind.keys(bucket) == [key]
    assert read.endswith(b"\r\n\r\nhere")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (b"/mcp/aws/s3/bucket/", b'"key"'),
        (b"/mcp/aws/s3/bucket/%FF%FE", b'"key"'),
        (b"/mcp/aws/s3/bucket/%C3", b'"key"'),
        (b"/mcp/aws/s3/bucket/" + b"k" * 1025, b'"key"'),
        (b"/mcp/aws/s3/Bad_Bucket/k", b'"bucket"'),
        (b"/mcp/aws/s3/a%2Fb/k", b'"bucket"'),
        (b"/mcp/aws%2Fs3/bucket/k", b'"bucket"'),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_path_that_names_no_object_is_422(gateway: Served, method: str, path: bytes, field: bytes) -> None:
    answer = await send_raw(gateway, method, path)

    assert answer.startswith(b"HTTP/1.1 422")
    assert b"application/problem+json" in answer
    assert field in answer


async def test_a_caller_who_goes_away_leaves_no_parts(
    gateway: Served, behind: AwsBehindTheGateway, bucket: str
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"POST /mcp/aws/s3/{bucket}/k HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {10 * PART}\r\n\r\n"
    writer.write(head.encode() + b"x" * (3 * PART))
    await writer.drain()
    async with asyncio.timeout(30):
        while len(await behind.uploads(bucket)) != 1:
            pass

    writer.transport.abort()

    async with asyncio.timeout(30):
        while await behind.uploads(bucket):
            pass
    assert await behind.keys(bucket) == []


async def test_a_download_that_breaks_off_breaks_the_connection() -> None:
    head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: x\r\nlast-modified: Sun, 22 Nov 2026 14:22:49 GMT"

    async with (
        scripted_aws(lambda before, line: f"{head}\r\n\r\nhalf") as (settings, _),
        serve(create_app([AWSMCPServer], Settings(), [settings])) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/mcp/aws/s3/bucket/key")


@pytest.mark.parametrize("written", ["caf\u00e9 \u65e5\u672c", "=?UTF-8?B?5pel?="])
async def test_headers_of_an_object_come_as_s3_sends_them(written: str) -> None:
    """Others write metadata, too, and not every store keeps it ASCII."""
    about = f"etag: x\r\ncontent-type: a/{written}\r\nx-amz-meta-name: {written}"
    about = f"content-length: 4\r\nlast-modified: Sun, 22 Nov 2026 14:22:49 GMT\r\n{about}"
    answer = f"HTTP/1.1 200 OK\r\nconnection: close\r\n{about}\r\n\r\n"

    async with (
        scripted_aws(lambda before, line: answer + ("" if line.startswith("HEAD") else "here")) as (settings, _),
        serve(create_app([AWSMCPServer], Settings(), [settings])) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        for method in ("GET", "HEAD"):
            streamed = await http.request(method, "/mcp/aws/s3/bucket/key")
            sent = dict(streamed.headers.raw)
            assert (streamed.status_code, sent[b"x-amz-meta-name"]) == (200, written.encode())
            assert sent[b"content-type"] == f"a/{written}".encode()
        read = (await http.post("/mcp/aws/tools/s3_download_file", json={"bucket": "bucket", "key": "key"})).json()
        assert (read["metadata"], read["content_type"]) == ({"name": written}, f"a/{written}")


async def test_what_forms_and_repeated_headers_say_is_taken_as_s3_does(http: httpx.AsyncClient, bucket: str) -> None:
    headers = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("x-amz-meta-agent", "kim"),
        ("X-Amz-Meta-Agent", "lee"),
    ]
    await http.post(f"/mcp/aws/s3/{bucket}/notes.csv", content=b"a,b", headers=headers)
    read = await http.get(f"/mcp/aws/s3/{bucket}/notes.csv")
    assert (read.headers["content-type"], read.headers["x-amz-meta-agent"]) == ("text/csv", "kim,lee")


async def test_a_stream_to_a_missing_bucket_is_404_and_names_those_that_there_are(http: httpx.AsyncClient) -> None:
    for answer in [
        await http.post("/mcp/aws/s3/switchboard-demos/k", content=b"x"),
        await http.get("/mcp/aws/s3/switchboard-demos/k"),
    ]:
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert "'switchboard-demos'. Those that may be used: switchboard-demo" in answer.json()["detail"]


@pytest.mark.parametrize("key", ["two\nlines", "end\n", "\r\n", "tab\tand\x01", "\u2028"])
async def test_a_key_is_one_key_on_every_face(call: Call, gateway: Served, bucket: str, key: str) -> None:
    await call("aws", "s3_upload_file", {"bucket": bucket, "key": key, "content": "here"})
    path = f"/mcp/aws/s3/{bucket}/{quote(key, safe='')}"

    listed = await call("aws", "s3_list_objects", {"bucket": bucket, "prefix": key})
    address = await call("aws", "s3_presign_url", {"bucket": bucket, "key": key})
    streamed = await send_raw(gateway, "GET", path.encode())
    overwritten = await send_raw(gateway, "POST", path.encode(), b"there")
    read = await call("aws", "s3_download_file", {"bucket": bucket, "key": key})
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as anybody:
        presigned = await anybody.get(address["url"])
        uri = f"aws://s3/buckets/{bucket}?prefix={quote(key, safe='')}"
        resource = (await anybody.get("/mcp/aws/resources/read", params={"uri": uri})).json()

    assert [found["key"] for found in listed["objects"]] == [key]
    assert [found["key"] for found in resource["objects"]] == [key]
    assert streamed.endswith(b"\r\n\r\nhere")
    assert overwritten.startswith(b"HTTP/1.1 200")
    assert (read["key"], read["content"], presigned.text) == (key, "there", "there")


# Streams that stall


async def test_stalled_uploads_cost_no_tool_and_no_connection(aws_stack: LocalAws, bucket: str) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(served_with(stack=aws_stack, max_connections=1))
        places = served.app.state.gateway.streams("aws")
        head = f"POST /mcp/aws/s3/{bucket}/k HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\nx"
        for _ in range(256):
            await stack.enter_async_context(raw_request(served, head))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=served.url, timeout=20))
        async with asyncio.timeout(20):
            while len(places) < 128:
                await http.get("/health")
        answer = await http.post("/mcp/aws/tools/s3_list_objects", json={"bucket": bucket})
        assert (answer.status_code, answer.json()["objects"]) == (200, [])


async def test_readers_that_stop_reading_cost_no_tool_and_no_connection(
    aws_stack: LocalAws, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await behind.s3.put_object(Bucket=bucket, Key="k", Body=bytes(8 * 1024 * 1024))
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(served_with(stack=aws_stack, max_connections=1))
        places = served.app.state.gateway.streams("aws")
        head = f"GET /mcp/aws/s3/{bucket}/k HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        for _ in range(50):
            await stack.enter_async_context(raw_request(served, head))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=served.url, timeout=20))
        async with asyncio.timeout(60):
            while sum(stream.waiting_since is not None for stream in places) < 50:
                await http.get("/health")
        answers = [
            await http.post("/mcp/aws/tools/s3_list_objects", json={"bucket": bucket}),
            await http.post(
                "/mcp/aws/tools/s3_download_file", json={"bucket": bucket, "key": "k", "range": "bytes=0-1"}
            ),
            await http.get(f"/mcp/aws/s3/{bucket}/k", headers={"range": "bytes=0-1"}),
            await http.post(f"/mcp/aws/s3/{bucket}/other", content=b"x"),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 206, 200]


async def test_connections_to_aws_are_kept_alive(aws_connection: Connection) -> None:
    clients = await aws_connection.clients()
    for client in (clients.s3, clients.streams, clients.functions, clients.parameters):
        make: Any = client.meta.config.connector_args["socket_factory"]  # type: ignore[attr-defined]
        with make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_a_download_whose_caller_goes_is_logged_as_a_broken_upload_is(
    gateway: Served, http: httpx.AsyncClient, behind: AwsBehindTheGateway, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await behind.s3.put_object(Bucket=bucket, Key="k", Body=bytes(8 * 1024 * 1024))
    async with raw_request(gateway, f"GET /mcp/aws/s3/{bucket}/k HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as reader:
        await reader.readuntil(b"\r\n\r\n")
    async with raw_request(
        gateway, f"POST /mcp/aws/s3/{bucket}/k HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\nx"
    ):
        pass

    async with asyncio.timeout(20):
        while not all(name in caplog.text for name in ("s3_download_stream", "s3_upload_stream")):
            await http.get("/health")
    ends = [line.partition("outcome=")[2].split()[0] for line in caplog.text.splitlines() if "_stream " in line]
    assert ends == ["caller_gone", "caller_gone"]


async def test_a_stream_overwrites_nothing_if_told_so(
    http: httpx.AsyncClient, behind: AwsBehindTheGateway, bucket: str
) -> None:
    first = await http.post(f"/mcp/aws/s3/{bucket}/k", content=b"1", headers={"if-none-match": "*"})
    second = await http.post(f"/mcp/aws/s3/{bucket}/k", content=b"2", headers={"if-none-match": "*"})
    odd = await http.post(f"/mcp/aws/s3/{bucket}/k", content=b"3", headers={"if-none-match": '"etag"'})
    packed = await http.post(f"/mcp/aws/s3/{bucket}/k", content=b"4", headers={"content-encoding": "gzip"})

    assert [answer.status_code for answer in (first, second, odd, packed)] == [200, 409, 422, 415]
    assert await behind.body(bucket, "k") == b"1"


# Policy and configuration


async def test_the_allowlists_hold_for_tools_resources_and_streams(
    aws_stack: LocalAws, behind: AwsBehindTheGateway, bucket: str
) -> None:
    async with (
        served_with(
            stack=aws_stack,
            allowed_buckets=[f"{bucket}/public/"],
            allowed_functions=["other"],
            allowed_parameter_paths=["/other"],
        ) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as http,
    ):
        tools = "/mcp/aws/tools"
        object_at = {"bucket": bucket, "key": "secret"}
        answers = {
            "AWS_ALLOWED_BUCKETS": [
                await http.post(f"{tools}/s3_upload_file", json={**object_at, "content": "x"}),
                await http.post(f"{tools}/s3_download_file", json=object_at),
                await http.post(f"{tools}/s3_delete_object", json=object_at),
                await http.post(f"{tools}/s3_presign_url", json=object_at),
                await http.post(f"{tools}/s3_list_objects", json={"bucket": bucket}),
                await http.post(f"/mcp/aws/s3/{bucket}/secret", content=b"x"),
                await http.get(f"/mcp/aws/s3/{bucket}/secret"),
                await http.get(f"/mcp/aws/s3/{bucket}/public/%2E%2E/secret"),
                await http.get("/mcp/aws/resources/read", params={"uri": f"aws://s3/buckets/{bucket}"}),
            ],
            "AWS_ALLOWED_FUNCTIONS": [
                await http.post(f"{tools}/lambda_invoke", json={"function_name": DEMO_FUNCTION}),
                await http.get("/mcp/aws/resources/read", params={"uri": f"aws://lambda/functions/{DEMO_FUNCTION}"}),
            ],
            "AWS_ALLOWED_PARAMETER_PATHS": [
                await http.post(f"{tools}/get_parameter_store_value", json={"name": SECRET_PARAMETER}),
                await http.post(f"{tools}/get_parameters_by_path", json={"path": "/"}),
            ],
        }
        allowed = await http.post(f"/mcp/aws/s3/{bucket}/public/a", content=b"x")

    for setting, refused in answers.items():
        for answer in refused:
            assert answer.status_code == 403
            assert setting in answer.json()["detail"]
    assert allowed.status_code == 200
    assert await behind.keys(bucket) == ["public/a"]


async def test_without_credentials_the_server_is_listed_and_answers_503(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    async with served_with(region="eu-central-1") as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        tools = (await http.get("/mcp/aws/tools")).json()
        tool = await http.post("/mcp/aws/tools/s3_list_objects", json={"bucket": "bucket"})
        stream = await http.get("/mcp/aws/s3/bucket/key")

    assert "s3_list_objects" in str(tools)
    for answer in (tool, stream):
        assert answer.status_code == 503
        assert answer.json()["code"] == "backend_not_configured"
        assert "AWS_ACCESS_KEY_ID" in answer.json()["detail"]


async def test_no_secret_is_logged(gateway: Served, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    shown = await http.post(
        "/mcp/aws/tools/get_parameter_store_value", json={"name": SECRET_PARAMETER, "with_decryption": True}
    )

    assert shown.json()["value"] == SECRET
    assert SECRET not in caplog.text
    assert "local-secret" not in caplog.text


def test_the_server_has_the_names_that_callers_use() -> None:
    assert (AWSMCPServer.server_id, AWSMCPServer.name) == ("aws", "AWS MCP Server")
    assert set(AWSMCPServer.tools) == {
        "s3_upload_file",
        "s3_download_file",
        "s3_list_objects",
        "s3_delete_object",
        "s3_presign_url",
        "lambda_invoke",
        "get_parameter_store_value",
        "get_parameters_by_path",
    }
