"""Results that are answered from memory: for whom, for how long, how many, and what is never answered so."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.catalogue import Catalogue
from app.errors import BackendUnavailable, GatewayError, InsufficientScope
from app.gateway import Gateway
from app.guard.guard import Guard
from app.guard.policy import Policy
from app.guard.principal import Principal
from app.guard.vocabulary import vocabulary_of
from app.main import create_app
from app.results import RawResult, RememberedJson, Result
from app.servers.base import BaseMCPServer
from app.servers.caching import LARGEST_REMEMBERED, MOST_REMEMBERED, MOST_REMEMBERED_BYTES, ResultCache, key_of
from app.servers.calls import CallContext, JsonObject
from app.servers.declaring import resource, tool, watch
from app.settings import Settings
from tests.faces.raw import client_of
from tests.fixtures.gateway import FACES, caller, serve

BOUND = 30.0
POLICY = """
[auth]
[role.reader]
allow = ["weather:read"]
[role.bound]
bound = "customer"
allow = ["weather:read"]
"""


class Weather(Result):
    place: str
    look: int
    seen_by: str = ""


class Spot(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "here"
    note: str = Field("", exclude=True)


class WeatherMCPServer(BaseMCPServer):
    """Looks out of the window, which is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.window = asyncio.Event()
        self.window.set()
        self.looking = asyncio.Event()
        self.now = 0.0
        self.remembered = ResultCache(lambda: self.now)

    async def look(self) -> int:
        self.looks = look = self.looks + 1
        self.looking.set()
        await self.window.wait()
        return look

    @tool(read_only=True, public=True, cache_seconds=30)
    async def get_weather(self, principal: Principal, place: str = "here", days: int = 1) -> Weather:
        """Return the weather, which may be 30 seconds old."""
        if place == "Atlantis":
            raise BackendUnavailable(f"Nobody has seen it, for the {await self.look()}. time.")
        return Weather(place=place, look=await self.look(), seen_by=str(principal.customer or principal.id))

    @tool(read_only=True, cache_seconds=30)
    async def get_pictures(self, size: int) -> RawResult[Weather]:
        """Return much."""
        return RawResult(Weather(place="x" * size, look=await self.look()).model_dump_json().encode())

    @tool(read_only=True, cache_seconds=30)
    async def get_locked_weather(self, code: SecretStr) -> Weather:
        """Return what only who knows a code is told."""
        return Weather(place=code.get_secret_value(), look=await self.look())

    @tool(read_only=True, cache_seconds=30)
    async def get_spots(self, spots: list[Spot]) -> Weather:
        """Return what is noted of some places."""
        return Weather(place=" ".join(spot.note for spot in spots), look=await self.look())

    @tool(read_only=True, cache_seconds=30)
    async def get_spot(self, spot: Spot) -> Weather:
        """Return what was said of a place."""
        return Weather(place=" ".join(sorted(spot.model_fields_set)), look=await self.look())

    @tool(read_only=True)
    async def get_fresh_weather(self) -> Weather:
        """Return the weather as it is now."""
        return Weather(place="here", look=await self.look())

    @resource("weather://places{?limit}", cache_seconds=5)
    async def places(self, limit: int = 3) -> Weather:
        """The places."""
        return Weather(place=f"all {limit}", look=await self.look())


@pytest.fixture
def weather() -> WeatherMCPServer:
    return WeatherMCPServer()


@pytest.fixture
async def gateway(weather: WeatherMCPServer) -> AsyncGenerator[Gateway]:
    gateway = Gateway([weather], Settings())
    async with gateway.open():
        yield gateway


class Moody:
    """Nothing that could be written down."""

    def __init__(self, mood: str) -> None:
        self.mood = mood
        self.changes = (mood for _ in range(2))


ADA, BOB = Principal("ada", frozenset({"reader"})), Principal("bob", frozenset({"reader"}))


async def call(gateway: Gateway, name: str, arguments: str = "{}", principal: Principal = ADA) -> Any:
    context = CallContext("r", "internal", principal)
    return json.loads(await gateway.call("weather", name, arguments.encode(), context))


async def test_identical_calls_are_answered_from_memory_for_their_time(gateway: Gateway, weather: WeatherMCPServer):
    first = await call(gateway, "get_weather", '{"place": "here"}')
    weather.now = 29.9
    for spelling in ("{}", '{"days": 1}', '{"days": "1", "place": "here"}', '{"days": 1.0}'):
        assert await call(gateway, "get_weather", spelling) == first
    assert weather.looks == 1
    weather.now = 30.0
    assert (await call(gateway, "get_weather"))["look"] == 2


async def test_what_nobody_has_asked_for_is_not_remembered(gateway: Gateway, weather: WeatherMCPServer):
    assert [(await call(gateway, "get_fresh_weather"))["look"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("other", ['{"place": "there"}', '{"days": 2}', '{"place": ""}'])
async def test_other_arguments_are_another_call(gateway: Gateway, weather: WeatherMCPServer, other: str):
    await call(gateway, "get_weather")
    await call(gateway, "get_weather", other)
    assert weather.looks == 2


@pytest.mark.parametrize(
    ("name", "one", "other", "told"),
    [
        ("get_locked_weather", {"code": "a"}, {"code": "b"}, "b"),
        ("get_spots", {"spots": [{"note": "a"}]}, {"spots": [{"note": "b"}]}, "b"),
        ("get_spot", {}, {"name": "here"}, "name"),
        ("get_spot", {"note": "a"}, {"note": "b"}, "note"),
    ],
)
async def test_what_a_method_sees_is_compared_and_not_what_json_says_of_it(
    gateway: Gateway, weather: WeatherMCPServer, name: str, one: JsonObject, other: JsonObject, told: str
):
    for _ in range(2):
        await call(gateway, name, json.dumps(one))
        assert (await call(gateway, name, json.dumps(other)))["place"] == told
    assert weather.looks == 2


async def test_what_nobody_can_compare_is_not_remembered(weather: WeatherMCPServer):
    key = key_of("get_mood", ADA, {"of": Moody("bad")})
    assert key is None
    for number in range(1, 3):

        async def make() -> bytes:
            return b"%d" % await weather.look()

        assert (await weather.remembered.result(key, 30, make)).json == b"%d" % number
    assert len(weather.remembered) == 0


@pytest.mark.parametrize(
    "other",
    [
        BOB,
        Principal("ada", frozenset({"reader", "other"})),
        Principal("ada", ADA.roles, tenant="t"),
        Principal("ada", ADA.roles, customer="c"),
    ],
)
async def test_each_identity_has_its_own(gateway: Gateway, weather: WeatherMCPServer, other: Principal):
    await call(gateway, "get_weather")
    assert (await call(gateway, "get_weather", principal=other))["seen_by"] == str(other.customer or other.id)
    assert weather.looks == 2
    # Not by the credential: two of one identity see the same.
    await call(gateway, "get_weather", principal=Principal("ada", ADA.roles, expires_at=5.0))
    assert weather.looks == 2


async def test_identical_calls_at_once_are_one_and_whoever_goes_takes_nothing_from_the_others(
    gateway: Gateway, weather: WeatherMCPServer
):
    weather.window.clear()
    tasks = [asyncio.ensure_future(call(gateway, "get_weather")) for _ in range(5)]
    await asyncio.wait_for(weather.looking.wait(), BOUND)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    weather.window.set()
    async with asyncio.timeout(BOUND):
        assert {each["look"] for each in await asyncio.gather(*tasks[1:])} == {1}
    assert not weather.remembered._flights._by_name


async def test_a_call_that_hangs_is_joined_by_nobody_after_its_own_caller_has_gone(
    gateway: Gateway, weather: WeatherMCPServer
):
    weather.window.clear()
    first, second = (asyncio.ensure_future(call(gateway, "get_weather")) for _ in range(2))
    await asyncio.wait_for(weather.looking.wait(), BOUND)
    first.cancel()
    await asyncio.wait([first])
    weather.now, hanging, weather.window = 1.0, weather.window, asyncio.Event()
    weather.window.set()
    assert (await asyncio.wait_for(call(gateway, "get_weather"), BOUND))["look"] == 2
    hanging.set()
    assert (await second)["look"] == 1
    assert (await call(gateway, "get_weather"))["look"] == 2  # what the hanging call found is older
    assert not weather.remembered._flights._by_name
    assert not weather.remembered._joined


async def test_who_joins_a_call_gets_nothing_that_is_older_than_results_may_be(
    gateway: Gateway, weather: WeatherMCPServer
):
    weather.window.clear()
    slow = asyncio.ensure_future(call(gateway, "get_weather"))
    await asyncio.wait_for(weather.looking.wait(), BOUND)
    weather.now = 30.0
    weather.window, hanging = asyncio.Event(), weather.window
    weather.window.set()
    assert (await asyncio.wait_for(call(gateway, "get_weather"), BOUND))["look"] == 2
    hanging.set()
    await slow
    assert not weather.remembered._joined


async def test_work_for_nobody_ends_and_leaves_nothing(gateway: Gateway, weather: WeatherMCPServer):
    weather.window.clear()
    tasks = [asyncio.ensure_future(call(gateway, "get_weather")) for _ in range(3)]
    await asyncio.wait_for(weather.looking.wait(), BOUND)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not weather.remembered._flights._by_name
    weather.window.set()
    assert (await call(gateway, "get_weather"))["look"] == 2


async def test_work_that_is_cancelled_before_it_begins_leaves_nothing(weather: WeatherMCPServer):
    async def make() -> bytes:
        raise AssertionError

    task = asyncio.ensure_future(weather.remembered.result(b"a", 30, make))
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()
    assert not weather.remembered._flights._by_name


async def test_failures_are_not_remembered(gateway: Gateway, weather: WeatherMCPServer):
    for time in ("1. time", "2. time"):
        with pytest.raises(BackendUnavailable, match=time):
            await call(gateway, "get_weather", '{"place": "Atlantis"}')


async def test_what_took_longer_than_it_holds_is_not_remembered(gateway: Gateway, weather: WeatherMCPServer):
    weather.window.clear()
    task = asyncio.ensure_future(call(gateway, "get_weather"))
    await asyncio.wait_for(weather.looking.wait(), BOUND)
    weather.now = 31.0
    weather.window.set()
    await task
    assert len(weather.remembered) == 0


async def test_memory_is_bounded_in_entries_and_in_bytes(gateway: Gateway, weather: WeatherMCPServer):
    cache = weather.remembered
    for number in range(MOST_REMEMBERED + 20):
        await call(gateway, "get_weather", json.dumps({"place": str(number)}))
    assert len(cache) == MOST_REMEMBERED
    await call(gateway, "get_weather", '{"place": "0"}')
    assert weather.looks == MOST_REMEMBERED + 21
    large = LARGEST_REMEMBERED - 1000
    for number in range(20):
        await call(gateway, "get_pictures", json.dumps({"size": large + number}))
        assert cache.size <= MOST_REMEMBERED_BYTES
    assert len(cache) == MOST_REMEMBERED_BYTES // large
    assert cache.size == sum(each.size for each in cache._kept.values())
    looks = weather.looks
    for _ in range(2):
        await call(gateway, "get_pictures", json.dumps({"size": LARGEST_REMEMBERED}))
    assert weather.looks == looks + 2


async def test_memory_answers_nobody_whom_the_pipeline_refuses(tmp_path: Path, weather: WeatherMCPServer):
    file = tmp_path / "switchboard.toml"
    file.write_text(POLICY)
    guard = Guard(Policy.load(file, vocabulary_of(Catalogue([weather]))))
    gateway = Gateway([weather], Settings(), guard=guard)
    async with gateway.open():
        assert (await call(gateway, "get_weather"))["look"] == 1
        with pytest.raises(InsufficientScope):
            await call(gateway, "get_weather", principal=Principal("ada", frozenset({"nobody"})))
        for customer in ("c1", "c2", "c1"):
            bound = Principal("session", frozenset({"bound"}), customer=customer)
            assert (await call(gateway, "get_weather", principal=bound))["seen_by"] == customer
            with pytest.raises(GatewayError):
                await call(gateway, "get_pictures", '{"size": 1}', bound)


async def test_rest_says_how_old_an_answer_is(weather: WeatherMCPServer):
    async with serve(create_app([weather])) as served, client_of(served) as http:
        path = "/mcp/weather/tools/get_weather"
        first = await http.post(path, json={})
        weather.now = 12.7
        second = await http.post(path, json={"days": 1})
        assert "age" not in first.headers
        assert (second.headers["age"], second.content) == ("12", first.content)
        fresh = await http.post("/mcp/weather/tools/get_fresh_weather", json={})
        assert "age" not in fresh.headers
        read = {"uri": "weather://places?limit=2"}
        place = await http.get("/mcp/weather/resources/read", params=read)
        weather.now += 3
        again = await http.get("/mcp/weather/resources/read", params=read)
        assert "age" not in place.headers
        assert (again.headers["age"], again.content) == ("3", place.content)
        other = await http.get("/mcp/weather/resources/read", params={"uri": "weather://places"})
        assert other.json()["place"] == "all 3"
        large = {"size": 200_000}
        picture = await http.post("/mcp/weather/tools/get_pictures", json=large)
        again = await http.post("/mcp/weather/tools/get_pictures", json=large)
        assert (again.headers["age"], again.content) == ("0", picture.content)


@pytest.mark.parametrize("face", FACES)
async def test_every_face_answers_from_memory_with_the_same(weather: WeatherMCPServer, face: str):
    async with serve(create_app([weather])) as served, caller(served, face) as ask:
        first = await ask("weather", "get_weather")
        assert await ask("weather", "get_weather", {"days": 1}) == first
    assert weather.looks == 1


def test_a_remembered_result_is_its_json():
    assert RememberedJson(b"{}", 1.5) == b"{}"
    assert RememberedJson(b"{}", 1.5).age == 1.5


def test_what_could_not_be_right_is_refused_at_import():
    with pytest.raises(TypeError, match="read_only=True"):

        @tool(cache_seconds=5)
        async def write(self: Any) -> Weather:
            """Write."""
            raise AssertionError

    with pytest.raises(TypeError, match="CallContext"):

        @tool(read_only=True, cache_seconds=5)
        async def read(self: Any, context: CallContext) -> Weather:
            """Read."""
            raise AssertionError

    for seconds in (0, -1, 3601, float("nan")):
        with pytest.raises(TypeError, match="above 0 and at most 3600"):
            tool(read_only=True, cache_seconds=seconds)(WeatherMCPServer.get_fresh_weather)
    with pytest.raises(TypeError, match="CallContext"):

        @resource("weather://told", cache_seconds=5)
        async def told(self: Any, context: CallContext) -> Weather:
            """Told."""
            raise AssertionError

    with pytest.raises(TypeError, match="@watch"):

        class Watched(BaseMCPServer):
            @resource("weather://watched", cache_seconds=5)
            async def watched(self) -> Weather:
                """Watched."""
                raise AssertionError

            @watch("weather://watched")
            async def changes(self) -> Any:
                raise AssertionError
