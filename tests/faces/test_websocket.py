"""MCP over WebSocket: one JSON-RPC message a text frame, many calls in flight."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from app.main import create_app
from app.servers.calls import JsonObject
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, WITHIN, Messages, initialize, request, websocket
from tests.fixtures.gateway import Served, mcp_client, serve

LARGEST = 2048


@pytest.fixture(scope="module")
async def clock() -> ClockMCPServer:
    return ClockMCPServer()


@pytest.fixture(scope="module")
async def gateway(clock: ClockMCPServer) -> AsyncGenerator[Served]:
    app = create_app([clock], Settings(max_request_bytes=LARGEST), root_server="clock")
    async with serve(app) as served:
        yield served


@pytest.mark.parametrize("path", ["/mcp/clock/ws", "/mcp/mcp_clock/ws", "/mcp/ws", "/"])
@pytest.mark.parametrize("era", ERAS)
async def test_every_address_serves_both_eras(gateway: Served, path: str, era: str) -> None:
    async with websocket(gateway, era, path) as messages:
        assert messages.socket.subprotocol == "mcp"
        answer = await messages.ask(request(era, "tools/call", {"name": "get_time", "arguments": {"zone": "CET"}}))
    assert answer["result"]["structuredContent"]["zone"] == "CET"


@pytest.mark.parametrize("compression", [False, True])
async def test_messages_are_compressed_where_the_operator_wants_it(compression: bool) -> None:
    settings = Settings() if not compression else Settings(websocket_compression=True)
    async with serve(create_app([ClockMCPServer()], settings)) as served, websocket(served, "2026-07-28") as messages:
        assert bool(messages.socket.protocol.extensions) is compression


async def test_a_server_that_is_not_there_is_refused_before_the_socket_opens(gateway: Served) -> None:
    with pytest.raises(InvalidStatus):
        async with websocket(gateway, "2026-07-28", "/mcp/nope/ws"):
            pass


@pytest.mark.parametrize("era", ERAS)
async def test_a_slow_call_does_not_hold_up_a_quick_one(gateway: Served, clock: ClockMCPServer, era: str) -> None:
    clock.started.clear()
    async with websocket(gateway, era) as messages:
        await messages.send(request(era, "tools/call", {"name": "wait_for_cancellation", "arguments": {}}, number=1))
        async with asyncio.timeout(WITHIN):
            await clock.started.wait()
        numbers = list(range(2, 12))
        for number in numbers:
            await messages.send(request(era, "tools/call", {"name": "get_time", "arguments": {}}, number=number))
        assert {(await messages.receive())["id"] for _ in numbers} == set(numbers)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{nope", -32700),
        ("", -32700),
        ("[]", -32600),
        ('[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]', -32600),
        ('{"jsonrpc":"1.0","id":1,"method":"tools/list"}', -32600),
    ],
)
async def test_a_frame_that_is_no_message_is_answered_and_the_socket_lives_on(
    gateway: Served, era: str, text: str, code: int
) -> None:
    async with websocket(gateway, era) as messages:
        await messages.socket.send(text)
        refused = await messages.receive()
        assert (refused["id"], refused["error"]["code"]) == (None, code)
        assert "result" in await messages.ask(request(era, "tools/list"))


@pytest.mark.parametrize(("frame", "code"), [(b"{}", 1003), ("é" * (LARGEST // 2) + "x", 1009), ("x" * 9999, 1009)])
async def test_a_frame_that_may_not_be_closes_the_socket(gateway: Served, frame: str | bytes, code: int) -> None:
    async with websocket(gateway, "2026-07-28") as messages:
        await messages.socket.send(frame)
        with pytest.raises(ConnectionClosed):
            await messages.receive()
        assert messages.socket.close_code == code


@pytest.mark.parametrize("pieces", [[b"{\xff}"], [b'"\xc3', b'"']])
async def test_a_text_that_is_none_closes_the_socket_and_is_no_error_of_ours(
    gateway: Served, pieces: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with websocket(gateway, "2026-07-28") as messages:
        await messages.socket.send(pieces, text=True)
        with pytest.raises(ConnectionClosed):
            await messages.receive()
        assert messages.socket.close_code == 1007
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize("era", ERAS)
async def test_progress_reaches_a_caller_who_asks(gateway: Served, era: str) -> None:
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with mcp_client(gateway, f"websocket-{era}", "clock") as client:
        await client.call_tool("tick", {"ticks": 3}, progress_callback=note)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("era", "code"), [("2025-11-25", -32002), ("2026-07-28", -32602)])
async def test_errors_of_the_protocol_are_those_of_the_era(gateway: Served, era: str, code: int) -> None:
    async with websocket(gateway, era) as messages:
        unknown = await messages.ask(request(era, "tools/call", {"name": "nope", "arguments": {}}))
        assert unknown["error"]["code"] == -32602
        missing = await messages.ask(request(era, "resources/read", {"uri": "clock://nothing/here"}, number=2))
        assert missing["error"]["code"] == code
        assert (await messages.ask(request(era, "tools/invent", number=3)))["error"]["code"] == -32601


async def test_the_other_era_is_refused_on_an_open_socket(gateway: Served) -> None:
    async with websocket(gateway, "2025-11-25") as messages:
        assert (await messages.ask(request("2026-07-28", "tools/list")))["error"]["code"] == -32600
    async with websocket(gateway, "2026-07-28") as messages:
        assert "result" in await messages.ask(request("2026-07-28", "tools/list"))
        assert "error" in await messages.ask(request("2025-11-25", "initialize", number=2))


async def test_a_request_before_the_handshake_is_told_so(gateway: Served) -> None:
    async with connect(f"{gateway.websocket_url}/mcp/clock/ws", subprotocols=[Subprotocol("mcp")]) as socket:
        messages = Messages(socket)
        for number, method in enumerate(("tools/list", "tools/call", "resources/list"), start=1):
            params: JsonObject = {"name": "get_time"} if method == "tools/call" else {}
            answer = await messages.ask(request("2025-11-25", method, params, number=number))
            assert answer["error"]["code"] == -32600
            assert "initialize" in answer["error"]["message"]
        assert "result" in await messages.ask(request("2025-11-25", "ping", number=8))
        assert (await messages.ask(request("2025-11-25", "tools/invent", number=9)))["error"]["code"] == -32601
        await initialize(messages, "2025-11-25")
        assert "result" in await messages.ask(request("2025-11-25", "tools/list", number=10))
        malformed = await messages.ask(request("2025-11-25", "tools/call", {}, number=11))
        assert "params.name" in malformed["error"]["message"]


async def test_a_revision_that_nobody_knows_is_refused(gateway: Served) -> None:
    async with websocket(gateway, "2026-07-28") as messages:
        unknown = request("2026-07-28", "tools/list")
        unknown["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"  # type: ignore[index,call-overload]
        error = (await messages.ask(unknown))["error"]
        assert (error["code"], error["data"]["requested"]) == (-32022, "2031-01-01")


async def test_names_of_the_caller_are_fit_for_the_log(gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with websocket(gateway, "2026-07-28") as messages:
        message = request("2026-07-28", "tools/call", {"name": "get_time", "arguments": {}})
        message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = {  # type: ignore[index,call-overload]
            "name": "evil\nserver=clock outcome=ok" + "x" * 100,
            "version": "1",
        }
        await messages.ask(message)
    [line] = [r.getMessage() for r in caplog.records if "operation=get_time" in r.getMessage()]
    assert "client=evil_server=clock_outcome=ok" in line
    assert "\n" not in line
