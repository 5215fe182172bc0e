"""What is one request, and what is not: upgrades, trailers, pipelines and heads."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import OP_TEXT, Frame

from app.local.process import accepts_connections, child_process, free_port
from app.serving.http import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PIPELINED
from tests.faces.raw import STARTS_WITHIN, WITHIN, request
from tests.fixtures.debian import PROGRAMS
from tests.fixtures.gateway import Served
from tests.serving.callers import HOST, JSON, Raw, SlowMCPServer, caller, post, protocols, until

ZONE = b'{"zone":"CET"}'
SECRET = b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + b"content-length: 0\r\n\r\n"
"""A request that nobody made: it stands in bodies."""

UPGRADES = [
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    b"upgrade: h2c\r\nconnection: keep-alive, upgrade\r\n",
    b"connection: upgrade\r\nconnection: keep-alive\r\nupgrade: websocket\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
    b"connection: Upgrade\r\nupgrade: TLS/1.0, HTTP/2.0\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\nupgrade: websocket\r\n",
    b"connection: upgrade\r\nupgrade: \r\nupgrade: x\r\n",
]


def chunked(*pieces: bytes, trailers: bytes = b"", tool: str = "get_time", fields: bytes = b"") -> bytes:
    """Return a call whose body comes in chunks."""
    head = b"POST /mcp/slow/tools/" + tool.encode() + b" HTTP/1.1\r\n" + HOST + JSON + fields
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


# Upgrades


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_that_is_not_ours_is_answered_as_if_it_were_not_there(raw: Raw, upgrade: bytes) -> None:
    for requests in (
        post("get_time", ZONE, upgrade),
        chunked(ZONE[:5], ZONE[5:], fields=upgrade),
        post("get_time", ZONE, upgrade) + chunked(ZONE, fields=upgrade) + post("get_time", ZONE),
    ):
        raw.send(requests)
        for _ in range(requests.count(b"HTTP/1.1\r\n")):
            answer = await raw.answer()
            assert (answer.status, answer.json()["zone"]) == (200, "CET")


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_no_byte_of_a_body_is_taken_for_a_request(slow: SlowMCPServer, raw: Raw, upgrade: bytes) -> None:
    raw.send(post("get_time", SECRET, upgrade), chunked(SECRET, SECRET, fields=upgrade), post("get_time", ZONE))
    assert [(await raw.answer()).status for _ in range(3)] == [400, 400, 200]
    assert not slow.started.is_set()


class Recorder(asyncio.Transport):
    """A socket that keeps what is written, so that a test says where one read ends and the next begins."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.answers = asyncio.Queue[None]()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.answers.put_nowait(None)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    async def zones(self, number: int) -> list[str]:
        """Return the zones of so many answers."""
        async with asyncio.timeout(WITHIN):
            while self.written.count(b'"ticks":0}') < number:
                await self.answers.get()
        bodies = [part.partition(b"\r\n\r\n")[2] for part in bytes(self.written).split(b"HTTP/1.1 200 OK\r\n")[1:]]
        return [json.loads(body)["zone"] for body in bodies]


@pytest.mark.parametrize(
    "request_",
    [
        post("get_time", ZONE, UPGRADES[0]) + post("get_time", b'{"zone":"EET"}', UPGRADES[3]),
        chunked(ZONE[:4], ZONE[4:], trailers=b"a: b\r\n", fields=UPGRADES[0]) + post("get_time", b'{"zone":"EET"}'),
    ],
    ids=["content-length", "chunked"],
)
async def test_a_request_means_the_same_wherever_it_is_split(gateway: Served, request_: bytes) -> None:
    config = gateway.server.config
    for cut in range(1, len(request_)):
        transport = Recorder()
        protocol_class: Any = config.http_protocol_class
        protocol = protocol_class(config=config, server_state=gateway.server.server_state, app_state={})
        protocol.connection_made(transport)
        protocol.data_received(request_[:cut])
        protocol.data_received(request_[cut:])
        assert await transport.zones(2) == ["CET", "EET"], cut
        protocol.connection_lost(None)


async def test_a_request_may_come_byte_by_byte(gateway: Served) -> None:
    config = gateway.server.config
    transport = Recorder()
    protocol: Any = config.http_protocol_class(config=config, server_state=gateway.server.server_state, app_state={})  # type: ignore[call-arg]
    protocol.connection_made(transport)
    for byte in chunked(ZONE, fields=UPGRADES[0]) + post("get_time", ZONE, UPGRADES[1]):
        protocol.data_received(bytes([byte]))
    assert await transport.zones(2) == ["CET", "CET"]
    protocol.connection_lost(None)


async def test_javas_own_client_is_answered(gateway: Served) -> None:
    program = Path(__file__).parent / "HttpClientCalls.java"
    java = await asyncio.create_subprocess_exec(
        "java", str(program), f"{gateway.url}/mcp/slow/tools/get_time", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(STARTS_WITHIN):
        printed, _ = await java.communicate()
    lines = printed.decode().splitlines()
    assert [line.split(" ", 2)[:2] for line in lines] == [["HTTP_1_1", "200"]] * 2
    assert [json.loads(line.split(" ", 2)[2])["zone"] for line in lines] == ["CET", "EET"]


HANDSHAKE = (
    b"GET /mcp/slow/ws HTTP/1.1\r\n" + HOST + b"sec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nupgrade: websocket\r\n"
)


@pytest.mark.parametrize(
    "fields",
    [
        b"connection: upgrade\r\n",
        b"connection: upgrade\r\nconnection: keep-alive\r\n",
        b"connection: keep-alive\r\nconnection: Upgrade\r\n",
        b"connection: upgrade\r\ncontent-length: 0\r\n",
    ],
)
async def test_a_websocket_opens_however_its_connection_field_is_written(raw: Raw, fields: bytes) -> None:
    raw.send(post("get_time", ZONE))
    assert (await raw.answer()).status == 200
    raw.send(HANDSHAKE, fields, b"\r\n")
    assert (await raw.line()).startswith(b"HTTP/1.1 101 ")


async def test_what_comes_with_the_handshake_is_not_lost(raw: Raw) -> None:
    message = json.dumps(request("2026-07-28", "tools/list", number=77)).encode()
    frame = Frame(OP_TEXT, message).serialize(mask=True)
    raw.send(HANDSHAKE, b"connection: upgrade\r\n\r\n", frame)
    received = b""
    while b'"id":77' not in received:
        received += await raw.some()
    assert received.startswith(b"HTTP/1.1 101 ")


async def test_however_much_comes_with_the_handshake_is_the_websockets(raw: Raw) -> None:
    message = json.dumps(request("2026-07-28", "tools/list", number=77)).encode()
    frames = [Frame(OP_TEXT, text).serialize(mask=True) for text in (b" " * 70_000 + message, message)]
    raw.send(HANDSHAKE, b"connection: upgrade\r\n\r\n", *frames)
    received = b""
    while received.count(b'"id":77') < 2:
        received += await raw.some()
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", [b"/mcp/slow/ws", b"/nowhere"])
async def test_what_follows_a_handshake_is_never_taken_for_a_request(
    slow: SlowMCPServer, gateway: Served, raw: Raw, path: bytes
) -> None:
    raw.send(HANDSHAKE.replace(b"/mcp/slow/ws", path), b"connection: upgrade\r\n\r\n", SECRET * 3)
    received = await raw.ended()
    assert received.count(b"HTTP/1.1") == 1
    assert not slow.started.is_set()


async def test_a_websocket_does_not_begin_before_the_answers_that_are_due(slow: SlowMCPServer, raw: Raw) -> None:
    raw.send(post("wait"), HANDSHAKE, b"connection: upgrade\r\n\r\n")
    async with asyncio.timeout(WITHIN):
        await slow.started.wait()
    slow.release.set()
    assert (await raw.answer()).json()["zone"] == "late"
    assert (await raw.answer()).status == 404


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        (b"sec-websocket-version: 13", b"sec-websocket-version: 8"),
        (b"sec-websocket-version: 13", b"sec-websocket-version: 13\r\nsec-websocket-version: 8"),
        (b"sec-websocket-version: 13\r\n", b""),
        (b"sec-websocket-key: ", b"sec-websocket-key: x"),
        (b"sec-websocket-key: ", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-key: "),
        (b"sec-websocket-key: ", b"x: "),
        (HOST, HOST + b"origin: http://127.0.0.1\r\norigin: http://127.0.0.1\r\n"),
    ],
)
async def test_a_handshake_that_opens_nothing_is_refused_as_all_else_is(
    raw: Raw, given: bytes, instead: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    raw.send(HANDSHAKE.replace(given, instead, 1), b"connection: upgrade\r\n\r\n")
    answer = await raw.answer()
    assert (answer.status, answer.json()["code"]) == (400, "malformed_request")
    assert answer.json()["request_id"] in caplog.text


async def test_a_websockets_head_that_its_library_would_not_read_is_refused(raw: Raw) -> None:
    raw.send(HANDSHAKE, b"connection: upgrade\r\ncookie: ", b"x" * 10_000, b"\r\n\r\n")
    assert (await raw.answer()).status == 431


@pytest.mark.parametrize("upgrade", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"])
@pytest.mark.parametrize("site", [b"http://127.0.0.1", b"HTTPS://127.0.0.1"])
async def test_an_address_that_is_given_whole_is_read_as_its_path(raw: Raw, site: bytes, upgrade: bytes) -> None:
    for query in (b"", b"?a=http://b/c"):
        target = site + b"/mcp/slow/tools/get_time" + query
        raw.send(post("get_time", ZONE, upgrade).replace(b"/mcp/slow/tools/get_time", target, 1))
        answer = await raw.answer()
        assert (answer.status, answer.json()["zone"]) == (200, "CET")
    for nothing in (b"", b"?a=b"):
        raw.send(b"GET ", site, nothing, b" HTTP/1.1\r\n", HOST, upgrade, b"\r\n")
        assert (await raw.answer()).status != 400


async def test_a_websocket_opens_at_an_address_that_is_given_whole(raw: Raw) -> None:
    raw.send(HANDSHAKE.replace(b"GET /mcp", b"GET http://127.0.0.1/mcp", 1), b"connection: upgrade\r\n\r\n")
    assert (await raw.line()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"GET http://elsewhere.example/health HTTP/1.1", "the target's"),
        (b"GET http://user@127.0.0.1/health HTTP/1.1", "the target's"),
        (b"GET http://127.0.0.1:81/health HTTP/1.1", "the target's"),
        (b"GET ftp://127.0.0.1/health HTTP/1.1", "begins with a slash"),
        (b"GET * HTTP/1.1", "begins with a slash"),
        (b"GET /health#/docs HTTP/1.1", "no fragment"),
        (b"GET /health?a#b HTTP/1.1", "no fragment"),
        (b"GET /health HTTP/2.0", "HTTP/2.0 is not spoken"),
        (b"GET /health HTTP/0.9", "HTTP/0.9 is not spoken"),
    ],
)
@pytest.mark.parametrize("upgrade", [b"", b"connection: upgrade\r\nupgrade: websocket\r\n"])
async def test_a_request_that_can_be_read_in_two_ways_is_refused(
    raw: Raw, line: bytes, why: str, upgrade: bytes
) -> None:
    raw.send(line, b"\r\n", HOST, upgrade, b"\r\n")
    answer = await raw.answer()
    assert (answer.status, answer.json()["code"]) == (400, "malformed_request")
    assert why in answer.json()["detail"]


async def test_this_is_no_proxy(raw: Raw) -> None:
    raw.send(b"CONNECT internal.example:22 HTTP/1.1\r\n", HOST, b"\r\nSSH-2.0-OpenSSH\r\n")
    refused = await raw.answer()
    assert (refused.status, refused.json()["code"]) == (405, "method_not_allowed")
    assert await raw.ended() == b""


# Trailers


async def test_trailers_are_no_headers(raw: Raw) -> None:
    head = b"POST /mcp/slow/fields HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    raw.send(head, b"2\r\nab\r\n0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
    answer = await raw.answer()
    assert answer.json() == {"fields": ["host", "transfer-encoding"], "size": 2}


@pytest.mark.parametrize(
    "endless", [b"0\r\na: " + b"x" * 80_000, b"0\r\n" + b"a: b\r\n" * 20_000, b"1;" + b"x" * 80_000]
)
async def test_trailers_and_extensions_are_bounded(gateway: Served, raw: Raw, endless: bytes) -> None:
    head = b"POST /mcp/slow/tools/get_time HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n"
    raw.send(head, b"2\r\n{}\r\n", endless)
    refused = await raw.answer()
    assert (refused.status, refused.json()["code"]) == (431, "head_too_large")
    await raw.ended()


# Heads


async def test_a_head_has_a_size(raw: Raw) -> None:
    start = b"GET /mcp/slow/fields HTTP/1.1\r\n" + HOST
    fits = MAX_HEAD_BYTES - len(start) - len(b"a: \r\n\r\n")
    raw.send(start, b"a: ", b"x" * fits, b"\r\n\r\n")
    assert (await raw.answer()).status == 200
    raw.send(start, b"a: ", b"x" * (fits + 1), b"\r\n\r\n")
    refused = await raw.answer()
    assert (refused.status, refused.json()["code"]) == (431, "head_too_large")
    assert refused.fields["connection"] == "close"
    assert refused.fields["x-request-id"] == refused.json()["request_id"]
    assert await raw.ended() == b""


async def test_a_head_has_so_many_fields(raw: Raw) -> None:
    start = b"GET /mcp/slow/fields HTTP/1.1\r\n" + HOST
    raw.send(start, b"a: \r\n" * (MAX_FIELDS - 1), b"\r\n")
    assert len((await raw.answer()).json()["fields"]) == MAX_FIELDS
    raw.send(start, b"a: \r\n" * MAX_FIELDS, b"\r\n")
    refused = await raw.answer()
    assert (refused.status, refused.json()["code"]) == (431, "head_too_large")
    assert await raw.ended() == b""


@pytest.mark.parametrize(
    "rest", [b"x" * 100_000, b" HTTP/1.1\r\na: " + b"x" * 100_000, b" HTTP/1.1\r\n" + b"a: b\r\n" * 20_000]
)
async def test_a_head_that_does_not_end_is_refused(raw: Raw, rest: bytes) -> None:
    raw.send(b"GET /", rest)
    assert (await raw.answer()).status == 431


async def test_what_is_no_request_is_answered_in_its_turn(slow: SlowMCPServer, raw: Raw) -> None:
    raw.send(post("wait"), b"NONSENSE\r\n\r\n")
    async with asyncio.timeout(WITHIN):
        await slow.started.wait()
    slow.release.set()
    assert (await raw.answer()).json()["zone"] == "late"
    refused = await raw.answer()
    assert (refused.status, refused.json()["code"]) == (400, "malformed_request")
    assert refused.fields["content-type"] == "application/problem+json"
    assert await raw.ended() == b""


async def test_a_body_that_breaks_off_in_nonsense_is_refused_and_never_run(slow: SlowMCPServer, raw: Raw) -> None:
    head = b"POST /mcp/slow/tools/wait HTTP/1.1\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n"
    raw.send(head, b"2\r\n{}\r\nnonsense\r\n")
    assert (await raw.answer()).status == 400
    assert not slow.started.is_set()


# Pipelines


async def test_a_pipeline_is_answered_in_order(raw: Raw) -> None:
    numbers = [str(number) for number in range(500)]
    raw.send(*(post("get_time", json.dumps({"zone": number}).encode()) for number in numbers))
    assert [(await raw.answer()).json()["zone"] for _ in numbers] == numbers


async def test_few_requests_wait_and_the_rest_is_not_read(gateway: Served, slow: SlowMCPServer, raw: Raw) -> None:
    number = 20_000
    raw.send(post("wait"))
    async with asyncio.timeout(WITHIN):
        await slow.started.wait()
        raw.send(b"GET / HTTP/1.1\r\n\r\n" * number)
        [protocol] = protocols(gateway)
        await until(lambda: protocol.flow.read_paused)
    assert len(protocol.pipeline) == MAX_PIPELINED
    # One read of the socket is 256 kB at most.
    assert gateway.app.state.gateway.unfinished.held < 300_000
    slow.release.set()
    assert (await raw.answer()).json()["zone"] == "late"
    for _ in range(number):
        assert (await raw.answer()).status == 421
        assert len(protocol.pipeline) <= MAX_PIPELINED
    assert gateway.app.state.gateway.unfinished.held == 0


async def test_a_caller_who_leaves_a_pipeline_cancels_the_call_that_runs(slow: SlowMCPServer, raw: Raw) -> None:
    raw.send(post("wait"), post("get_time", ZONE), post("get_time", ZONE))
    async with asyncio.timeout(WITHIN):
        await slow.started.wait()
        raw.close()
        await slow.cancelled.wait()


async def test_large_bodies_wait_for_their_turn(gateway: Served, slow: SlowMCPServer, raw: Raw) -> None:
    body = json.dumps({"zone": "x" * 1_000_000}).encode()
    raw.send(post("wait"), post("get_time", body), post("get_time", body))
    async with asyncio.timeout(WITHIN):
        await slow.started.wait()
        [protocol] = protocols(gateway)
        await until(lambda: protocol.flow.read_paused)
    assert gateway.app.state.gateway.unfinished.held < 500_000
    slow.release.set()
    assert (await raw.answer()).json()["zone"] == "late"
    assert len((await raw.answer()).json()["zone"]) == 1_000_000
    assert len((await raw.answer()).json()["zone"]) == 1_000_000


# Behind a proxy


NGINX = """
daemon off; pid {directory}/pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream gateway {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        location = /mcp/slow/tools/wait {{ return 403; }}
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
    }}
}}
"""


@pytest.mark.debian("nginx")
async def test_what_nginx_forbids_can_not_be_smuggled_past_it(
    gateway: Served, slow: SlowMCPServer, tmp_path: Path
) -> None:
    port, config = free_port(), tmp_path / "nginx.conf"
    text = NGINX.format(directory=tmp_path, upstream=gateway.port, port=port)
    await asyncio.to_thread(config.write_text, text)
    command = [PROGRAMS["nginx"], "-e", str(tmp_path / "error.log"), "-c", str(config)]
    async with child_process(command, log=tmp_path / "log", is_ready=partial(accepts_connections, port)):
        behind = Served(gateway.app, port, gateway.server)
        async with caller(behind) as raw:
            raw.send(SECRET)
            assert (await raw.answer()).status == 403, "the rule holds"
        for upgrade in UPGRADES:
            # Padded with what JSON allows, so that the body is one, whoever reads it.
            for body in (ZONE, b" " * 7 + SECRET, ZONE + SECRET):
                async with caller(behind) as raw:
                    raw.send(post("get_time", body, upgrade), post("get_time", ZONE))
                    first = await raw.answer()
                    assert first.status == (200 if body == ZONE else 400)
                    assert "late" not in first.body.decode()
                async with caller(behind) as other:  # of whom nginx may use the same connection to us
                    other.send(post("get_time", ZONE))
                    assert (await other.answer()).json()["zone"] == "CET"
        assert not slow.started.is_set()
