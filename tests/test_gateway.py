"""The one way in: what it accepts, opens, logs and refuses at start; and what a server may declare."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.admission import StreamAdmission
from app.catalogue import Catalogue
from app.errors import GatewayError, InternalError, NotFound, TooManyRequests, UnknownResource, UnknownServer
from app.faces.listing import describe_server
from app.gateway import Gateway, Respond
from app.main import create_app
from app.results import ProtocolResult, Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, route, tool, watch
from app.servers.dynamic import DynamicTool
from app.servers.methods import MethodTool
from app.servers.resources import Resource
from app.settings import Settings
from tests.clock import ClockMCPServer, ClockTime
from tests.fixtures.gateway import FACES, Served, caller, mcp_client, serve

CONTEXT = CallContext(request_id="r-1", face="internal", client="tests")


def server(server_id: str, tools: tuple[str, ...] = (), resources: tuple[str, ...] = ()) -> BaseMCPServer:
    return BaseMCPServer(
        server_id=server_id,
        name=f"{server_id} MCP Server",
        tools=[DynamicTool.of(name) for name in tools],
        resources=[Resource(uri, "r", "R", "") for uri in resources],
    )


# What is claimed twice


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (server("a"), server("a")),
        (server("a", ("turn",)), server("b", ("turn",))),
        (server("a", (), ("x://one",)), server("b", (), ("x://two",))),
    ],
)
def test_a_name_that_two_servers_claim_is_refused_at_start(one: BaseMCPServer, other: BaseMCPServer) -> None:
    with pytest.raises(ValueError, match="both claim"):
        Gateway([one, other], Settings())


@pytest.mark.parametrize("name", ["batch", "ws", "tools", "resources", "A", "1a", "a-b", "a/b", ""])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="server name"):
        BaseMCPServer(server_id=name)


def test_a_server_is_named_after_its_class() -> None:
    class BigClockMCPServer(BaseMCPServer):
        """Big."""

    assert (BigClockMCPServer.server_id, BigClockMCPServer.name) == ("big_clock", "Big Clock MCP Server")


# What a server may declare


def test_a_tool_without_a_docstring_is_refused() -> None:
    async def turn(self: Any) -> ClockTime: ...

    with pytest.raises(TypeError, match="turn: a tool needs a docstring"):
        tool()(turn)


@pytest.mark.parametrize("annotation", [dict, str, None, BaseModel, list[ClockTime]])
def test_a_tool_that_returns_no_result_model_is_refused(annotation: Any) -> None:
    async def turn(self: Any) -> Any:
        """Turn."""

    turn.__annotations__["return"] = annotation
    with pytest.raises(TypeError, match="turn: the return type must be a Result model"):
        tool()(turn)


def test_a_parameter_without_a_type_is_refused() -> None:
    async def turn(self, hands) -> ClockTime:  # type: ignore[no-untyped-def]
        """Turn."""

    with pytest.raises(TypeError, match="turn: parameter 'hands' has no type"):
        tool()(turn)


def test_an_arguments_model_that_allows_more_is_refused() -> None:
    class Open(BaseModel):
        hands: int

    async def turn(self: Any, arguments: Open) -> ClockTime:
        """Turn."""
        raise AssertionError

    with pytest.raises(TypeError, match="Open must forbid unknown arguments"):
        tool()(turn)


def test_a_model_that_is_the_only_parameter_is_the_arguments_object() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        hands: int

    async def turn(self: Any, arguments: Closed) -> ClockTime:
        """Turn."""
        raise AssertionError

    declared = MethodTool.declared(turn)
    assert declared.input_schema["properties"] == {"hands": {"type": "integer"}}
    assert declared.input_schema["additionalProperties"] is False
    assert "anyOf" not in declared.input_schema


def test_a_template_and_its_method_must_agree() -> None:
    async def read(self: Any, other: str) -> ClockTime:
        """Read."""
        raise AssertionError

    with pytest.raises(TypeError, match="the variables of"):
        resource("x://{name}")(read)


def test_only_a_resource_can_be_watched() -> None:
    with pytest.raises(TypeError, match="names no resource"):

        class BlindMCPServer(BaseMCPServer):
            """Blind."""

            @watch("x://nothing")
            @asynccontextmanager
            async def look(self) -> AsyncGenerator[Any]:
                yield


def test_a_stream_acts_as_a_tool_of_its_server() -> None:
    with pytest.raises(TypeError, match="acts_as"):
        route("/sound", methods=["GET"])  # type: ignore[call-arg]

    for path, acts_as, refused in (
        ("/sound", "nothing", "play: acts_as='nothing' names no tool of this server"),
        ("/{sound}/{volume:int}", "listen", "play: listen has no arguments volume"),
    ):
        with pytest.raises(TypeError, match=refused):

            class RadioMCPServer(BaseMCPServer):
                """Plays."""

                @tool(read_only=True)
                async def listen(self, sound: str) -> ClockTime:
                    """Listen."""
                    return ClockTime(zone=sound)

                @route(path, methods=["GET"], acts_as=acts_as)
                async def play(self, request: Request, context: CallContext) -> Response:
                    """Play."""
                    return Response()


# Opening and closing


async def test_servers_open_in_order_and_close_in_reverse() -> None:
    events: list[str] = []

    def recording(server_id: str, *, fails: bool = False) -> type[BaseMCPServer]:
        @asynccontextmanager
        async def opened(self: BaseMCPServer) -> AsyncGenerator[None]:
            if fails:
                raise OSError("no")
            events.append(f"+{server_id}")
            yield
            events.append(f"-{server_id}")

        return type("RecordingMCPServer", (BaseMCPServer,), {"server_id": server_id, "opened": opened})

    gateway = Gateway([recording("a"), recording("b")], Settings())
    async with gateway.open():
        assert list(gateway.servers) == ["a", "b"]
        assert not gateway.closing.is_set()
    assert events == ["+a", "+b", "-b", "-a"]
    assert gateway.closing.is_set()
    assert not gateway.servers


# Calls


class Paint(BaseSettings):
    paint: str = "white"


class Ground(BaseSettings):
    ground: str = "stone"


class WallMCPServer(BaseMCPServer):
    """Takes settings of two classes."""

    settings_class = Ground
    further_settings: ClassVar = {"paint": Paint}

    def __init__(self, *, settings: Ground, paint: Paint) -> None:
        super().__init__(settings=settings)
        self.paint = paint


async def test_a_server_is_given_settings_of_each_class_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUND", "sand")
    gateway = Gateway([WallMCPServer], Settings())
    async with gateway.open([Paint(paint="red")]):
        wall = gateway.servers["wall"]
        assert isinstance(wall, WallMCPServer)
        assert (wall.settings.ground, wall.paint.paint) == ("sand", "red")


async def test_a_call_is_logged_once_and_says_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gateway = Gateway([ClockMCPServer()], Settings())
    async with gateway.open():
        await gateway.call("clock", "get_time", b'{"zone":"hunter2"}', CONTEXT)
        with pytest.raises(NotFound):
            await gateway.call("mcp_clock", "get_time", b'{"zone":"Atlantis"}', CONTEXT)
        await gateway.read(None, "clock://zones", CONTEXT)
        async with gateway.watch("clock", "clock://zones/UTC", CONTEXT, object()):
            pass
    records = [r for r in caplog.records if r.name == "MCP.Clock MCP Server"]
    lines = [r.getMessage() for r in records]
    operations = ["get_time", "get_time", "clock://zones{?limit}", "watch clock://zones/{zone}"]
    outcomes = ["ok", "not_found", "ok", "ok"]
    assert len(lines) == 4
    for line, operation, outcome in zip(lines, operations, outcomes, strict=True):
        who = "face=internal principal=anonymous client=tests address=-"
        assert f"server=clock operation={operation} {who} outcome={outcome} ms=" in line
        assert "request_id=r-1" in line
    assert "hunter2" not in caplog.text


async def test_what_nobody_offers_is_logged_without_what_it_may_say_of_customers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    gateway = Gateway([ClockMCPServer()], Settings())
    async with gateway.open():
        for wanted in (
            lambda: gateway.read(None, "crm://people/hunter2", CONTEXT),
            lambda: gateway.read("clock", "clock://people/hunter2", CONTEXT),
            lambda: gateway.show("nope", "tools/list", CONTEXT, Catalogue.tools),
        ):
            with pytest.raises(NotFound):
                await wanted()
    lines = [r.getMessage() for r in caplog.records if r.name == "MCP"]
    assert [line.partition(" face=")[0] for line in lines] == [
        "server=all operation='crm://'",
        "server='clock' operation='clock://'",
        "server='nope' operation='tools/list'",
    ]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("face", FACES)
async def test_a_call_of_what_nobody_offers_is_logged(face: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(create_app([ClockMCPServer()], Settings())) as served, caller(served, face) as call:
        assert (await call("clock", "nope"))["code"] == "unknown_tool"
    [line] = [r.getMessage() for r in caplog.records if r.name == "MCP"]
    assert "operation='nope'" in line
    assert "outcome=unknown_tool" in line


async def test_one_logger_governs_all_servers(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway([ClockMCPServer()], Settings())
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, logger="MCP")
    async with gateway.open():
        await gateway.call("clock", "get_time", b"", CONTEXT)
    assert not caplog.records


async def test_names_that_nobody_has_are_refused_with_those_that_exist() -> None:
    gateway = Gateway([ClockMCPServer()], Settings())
    async with gateway.open():
        with pytest.raises(UnknownServer, match="Servers: clock"):
            await gateway.call("nope", "get_time", b"", CONTEXT)
        with pytest.raises(UnknownResource, match="clock://zones"):
            await gateway.read(None, "nope://x", CONTEXT)


async def test_whatever_is_wanted_takes_a_place_before_anything_is_said_of_its_arguments() -> None:
    clock = ClockMCPServer()
    gateway = Gateway([clock], Settings(max_calls_in_flight=1))

    async def watched() -> None:
        async with gateway.watch("clock", "clock://zones?limit=many", CONTEXT, object()):
            pass

    async with gateway.open():
        waiting = asyncio.create_task(gateway.call("clock", "wait_for_cancellation", b"", CONTEXT))
        await clock.started.wait()
        for wanted in (
            lambda: gateway.call("clock", "get_time", b'{"time_zone":1}', CONTEXT),
            lambda: gateway.read("clock", "clock://zones?limit=many", CONTEXT),
            lambda: gateway.show("clock", "tools/list", CONTEXT, Catalogue.tools),
            lambda: gateway.handle("clock", "prompts/get", ("prompt", "p"), CONTEXT, prompt),
            watched,
        ):
            with pytest.raises(TooManyRequests):
                await wanted()
        waiting.cancel()
        await asyncio.wait([waiting])
        await gateway.call("clock", "get_time", b"", CONTEXT)


async def prompt() -> ProtocolResult:
    return ProtocolResult("Ask.")


class SlowMCPServer(BaseMCPServer):
    """Has a slow tool and a quick one."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = asyncio.Event()

    @tool(max_in_flight=3)
    async def crawl(self) -> ClockTime:
        """Take long."""
        await self.goes_on.wait()
        return ClockTime(zone="UTC")

    @tool()
    async def run(self) -> ClockTime:
        """Take no time."""
        return ClockTime(zone="UTC")


@pytest.mark.parametrize(("places", "crawling"), [(256, 3), (4, 2), (1, 1)])
async def test_a_slow_tool_leaves_places_to_the_others(places: int, crawling: int) -> None:
    slow = SlowMCPServer()
    gateway = Gateway([slow], Settings(max_calls_in_flight=places))
    async with gateway.open():
        calls = [asyncio.create_task(gateway.call("slow", "crawl", b"", CONTEXT)) for _ in range(300)]
        refused, _ = await asyncio.wait(calls[crawling:])
        assert {type(call.exception()) for call in refused} == {TooManyRequests}
        assert not any(call.done() for call in calls[:crawling])
        if places > 1:
            await gateway.call(None, "run", b"", CONTEXT)
        calls[0].cancel()
        slow.goes_on.set()
        await asyncio.wait(calls)
        for _ in range(2):
            await gateway.call("mcp_slow", "crawl", b"", CONTEXT)


async def test_a_stream_takes_a_place_among_the_streams() -> None:
    gateway = Gateway([ClockMCPServer()], Settings(max_calls_in_flight=1, max_streams=1))
    [(_, chimes)] = gateway.catalogue.routes()
    carried: list[str] = []

    async def carry(stream: StreamAdmission, respond: Respond) -> None:
        await gateway.call("clock", "get_time", b"", CONTEXT)
        with pytest.raises(TooManyRequests):
            await gateway.stream("clock", chimes, "/chimes/1", CONTEXT, carry)
        carried.append("once")

    async with gateway.open():
        for _ in range(2):
            await gateway.stream("clock", chimes, "/chimes/1", CONTEXT, carry)
    assert carried == ["once", "once"]


async def test_a_resource_that_cannot_be_written_down_is_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    class OddMCPServer(BaseMCPServer):
        """Odd."""

        async def get_resource(self, uri: str, context: CallContext) -> Any:
            return object()

    gateway = Gateway([OddMCPServer(resources=[Resource("odd://thing", "thing", "Thing", "")])], Settings())
    async with gateway.open():
        with pytest.raises(InternalError):
            await gateway.read(None, "odd://thing", CONTEXT)


# Servers whose tools are known only at run time


class Greeting(Result):
    text: str


class DialMCPServer(BaseMCPServer):
    """Answers what it was told to."""

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> Any:
        match name:
            case "greet":
                return {"text": f"Hello, {arguments['who']}"}
            case "greet_model":
                return Greeting(text="Hello")
            case _:
                raise NotFound("Nobody is here.")

    async def get_resource(self, uri: str, context: CallContext) -> Any:
        return {"uri": uri}


@pytest.fixture(scope="module")
async def dial() -> AsyncGenerator[Served]:
    who: JsonObject = {
        "type": "object",
        "properties": {"who": {"type": "string", "maxLength": 5}},
        "required": ["who"],
        "additionalProperties": False,
    }
    dynamic = DialMCPServer(
        server_id="dial",
        name="Dial MCP Server",
        capabilities=["greeting"],
        tools=[
            DynamicTool.of("greet", "Greet somebody.", who, {"type": "object"}),
            DynamicTool.of("greet_model"),
            DynamicTool.of("miss"),
        ],
        resources=[Resource("dial://{number}", "number", "Number", "A number.")],
    )
    async with serve(create_app([dynamic], Settings())) as served:
        yield served


@pytest.mark.parametrize("face", FACES)
async def test_a_dynamic_server_works_on_every_face(dial: Served, face: str) -> None:
    async with caller(dial, face) as call:
        assert await call("dial", "greet", {"who": "Ada"}) == {"success": True, "text": "Hello, Ada"}
        assert await call("dial", "greet_model", {"any": "thing"}) == {"success": True, "text": "Hello"}
        assert (await call("dial", "miss"))["code"] == "not_found"
        for arguments, field in (({}, "who"), ({"who": 5}, "who"), ({"who": "too long"}, "who"), ({"x": 1}, "who")):
            problem = await call("dial", "greet", arguments)
            assert problem["code"] == "invalid_arguments"
            assert field in [error["field"] for error in problem["errors"]]
            assert "too long" not in str(problem)


@pytest.mark.parametrize("face", [face for face in FACES if face != "rest"])
async def test_a_dynamic_resource_is_read(dial: Served, face: str) -> None:
    async with mcp_client(dial, face, "dial") as client:
        [content] = (await client.read_resource("dial://7")).contents
    assert '"uri":"dial://7"' in content.text  # type: ignore[union-attr]


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(Exception, match="is not valid"):
        DynamicTool.of("broken", "", {"type": "nonsense"})


def errors_below(kind: type[GatewayError], depth: int = 0) -> list[tuple[int, str, int, str]]:
    """Return the kinds of failures with their depth in the tree, their status and their code."""
    children = sorted((c for c in kind.__subclasses__() if c.__module__ == kind.__module__), key=lambda c: c.__name__)
    below = [row for child in children for row in errors_below(child, depth + 1)]
    return [(depth, kind.__name__, kind.status, kind.code), *below]


def test_every_error_is_documented_where_the_errors_are() -> None:
    rows = re.findall(r"^    ([│├└─ ]+)(\w+) +(\d{3}) +(\w+)$", errors.__doc__ or "", re.MULTILINE)
    documented = [(len(indent) // 4, name, int(status), code) for indent, name, status, code in rows]
    assert sorted(documented) == sorted(errors_below(GatewayError)[1:])
    for position, (depth, name, *_) in enumerate(documented):
        above = (parent for level, parent, *_ in reversed(documented[:position]) if level < depth)
        assert getattr(errors, name).__base__.__name__ == next(above, GatewayError.__name__)


def test_a_code_names_one_kind_of_failure() -> None:
    # What inherits its code is, for callers, of its parent's kind.
    codes = [code for _, name, _, code in errors_below(GatewayError)[1:] if "code" in vars(getattr(errors, name))]
    assert len(codes) == len(set(codes))


def test_a_server_without_a_docstring_shows_nobody_elses() -> None:
    class QuietMCPServer(BaseMCPServer):
        pass

    class TalkativeMCPServer(BaseMCPServer):
        """Says much.

        And more.
        """

    class HeirMCPServer(TalkativeMCPServer):
        pass

    described = [
        describe_server(Catalogue([kind]), kind.server_id)["description"]
        for kind in (QuietMCPServer, TalkativeMCPServer, HeirMCPServer)
    ]
    assert described == ["", *["Says much.\n\nAnd more."] * 2]
