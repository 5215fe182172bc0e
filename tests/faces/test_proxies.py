"""Behind proxies: what they say of a request is believed from those alone that operators name."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import Scope

from app.faces.proxies import Proxies
from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.raw import ERAS, client_of, headers, request, websocket
from tests.fixtures.gateway import Served, serve

TIME = "/mcp/clock/tools/get_time"
PUBLIC = "support.example"
FORWARDED = {
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-host": PUBLIC,
    "x-forwarded-proto": "https",
    "x-forwarded-prefix": "/gw",
}


@asynccontextmanager
async def _gateway(**settings: object) -> AsyncGenerator[tuple[Served, httpx.AsyncClient]]:
    given = Settings(allowed_hosts=[PUBLIC, "127.0.0.1:*"], allowed_origins=[], **settings)  # type: ignore[arg-type]
    async with serve(create_app([ClockMCPServer()], given)) as served, client_of(served) as http:
        yield served, http


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    async with _gateway(trusted_proxies=["127.0.0.0/8"]) as (served, _):
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(gateway) as client:
        yield client


async def _addresses(http: httpx.AsyncClient, *prefixes: str) -> None:
    """See that all that names our own paths names them below a prefix."""
    [prefix] = prefixes
    [listed] = (await http.get("/mcp")).json()["servers"]
    assert listed == {name: value for name, value in (await http.get("/mcp/clock")).json().items() if name != "success"}
    assert (listed["mcp"], listed["websocket"], listed["rest"]) == (
        f"{prefix}/mcp/clock",
        f"{prefix}/mcp/clock/ws",
        f"{prefix}/mcp/clock/tools/{{tool}}",
    )
    page = (await http.get("/docs")).text  # its script asks for openapi.json below the root
    assert f'data-root="{prefix}"' in page
    assert f'src="{prefix}/console/docs.js"' in page
    assert (await http.get("/console/docs.js")).status_code == 200
    assert (await http.get("/openapi.json")).json().get("servers", [{"url": ""}]) == [{"url": prefix}]
    assert f"{prefix}/docs" in (await http.get("/nowhere")).json()["detail"]
    for path in ("/mcp/clock/tools", "/health", "/mcp/clock/chimes/2"):
        assert (await http.get(path)).status_code == 200
    assert (await http.post(TIME)).status_code == 200
    assert (await http.post("/mcp/mcp_clock/tools/get_time/")).status_code == 200


@pytest.mark.parametrize("prefix", ["/gw", "/a/b-c/d.e", "/mcp", "/mcp/clock"])
async def test_what_is_shown_names_paths_as_callers_reach_them(prefix: str) -> None:
    async with _gateway(root_path=f"{prefix}/") as (served, http):
        await _addresses(http, prefix)
        for era in ERAS:
            async with websocket(served, era, "/mcp/clock/ws") as messages:
                assert "result" in await messages.ask(request(era, "tools/list"))


async def test_a_path_with_the_prefix_twice_is_nobodys(http: httpx.AsyncClient) -> None:
    """Or a rule of the proxy on `/gw/mcp/clock` would not be meant by `/gw/gw/mcp/clock`."""
    async with _gateway(root_path="/gw") as (_, direct):
        assert (await direct.post(f"/gw{TIME}")).status_code == 404
    assert (await http.post(f"/gw{TIME}", headers=FORWARDED)).status_code == 404


async def test_a_proxy_that_we_trust_names_the_prefix(http: httpx.AsyncClient) -> None:
    await _addresses(http, "")
    http.headers.update({"x-forwarded-prefix": "/gw/"})
    await _addresses(http, "/gw")


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a/../b", "https://evil.example", "/a b", "a", "/", '/"><script>']
)
async def test_a_prefix_that_is_none_is_not_believed(http: httpx.AsyncClient, prefix: str) -> None:
    http.headers.update({"x-forwarded-prefix": prefix})
    await _addresses(http, "")


async def test_prefixes_that_proxies_took_off_one_after_the_other_belong_together(http: httpx.AsyncClient) -> None:
    answer = await http.get("/mcp/clock", headers=[("x-forwarded-prefix", "/a"), ("x-forwarded-prefix", "/b")])
    assert answer.json()["mcp"] == "/a/b/mcp/clock"


@pytest.mark.parametrize(("host", "status"), [(PUBLIC, 200), (f"{PUBLIC}, {PUBLIC}", 200), ("evil.example", 421)])
async def test_the_host_that_was_asked_for_is_the_one_that_counts(
    http: httpx.AsyncClient, host: str, status: int
) -> None:
    assert (await http.post(TIME, headers={"x-forwarded-host": host, "host": "internal:8000"})).status_code == status
    assert (await http.post(TIME, headers={"host": "internal:8000"})).status_code == 421


async def test_a_page_of_the_public_host_is_one_of_ours(http: httpx.AsyncClient) -> None:
    page = {"origin": f"https://{PUBLIC}"}
    assert (await http.post(TIME, headers=page)).status_code == 403
    assert (await http.post(TIME, headers={**page, "x-forwarded-host": PUBLIC})).status_code == 200


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8", "::1"]])
async def test_nobody_else_is_believed(trusted: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with _gateway(trusted_proxies=trusted) as (_, http):
        http.headers.update(FORWARDED)
        await _addresses(http, "")
        assert (await http.get("/mcp", headers={"host": "internal"})).status_code == 421
    assert "203.0.113.9" not in caplog.text
    assert "address=127.0.0.1" in caplog.text


async def test_the_callers_address_is_in_the_line_of_each_call(
    gateway: Served, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    forwarded = {"x-forwarded-for": "203.0.113.9"}
    message = request("2026-07-28", "tools/call", {"name": "get_time"})
    await http.post(TIME, headers=forwarded)
    await http.post("/mcp/clock/tools/nope", headers=forwarded)
    await http.post("/mcp/clock", json=message, headers=headers("2026-07-28", message) | forwarded)
    slow = request("2026-07-28", "tools/call", {"name": "tick", "arguments": {"ticks": 1}}, progressToken=1)
    await http.post("/mcp/clock", json=slow, headers=headers("2026-07-28", slow) | forwarded)
    await http.post("/mcp/batch", json={"calls": [{"server": "clock", "tool": "get_time"}]}, headers=forwarded)
    await http.get("/mcp/clock/resources/read?uri=clock://zones", headers=forwarded)
    await http.get("/mcp/clock/chimes/1", headers=forwarded)
    async with websocket(gateway, "2026-07-28", additional_headers=forwarded) as messages:
        await messages.ask(request("2026-07-28", "tools/call", {"name": "get_time"}))
    lines = [record.getMessage() for record in caplog.records if "operation=" in record.getMessage()]
    assert len(lines) == 8
    assert [line for line in lines if "address=203.0.113.9 " not in line] == []


TRUSTED = ["10.0.0.0/8", "192.168.1.5", "2001:db8::/32"]


def _restored(client: str | None, trusted: list[str] = TRUSTED, kind: str = "http", **fields: str) -> Scope:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    scope: Scope = {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "client": (client, 1) if client else None,
        "headers": given,
    }
    Proxies(trusted, "").restore(scope, dict(given))
    return scope


@pytest.mark.parametrize(
    ("client", "forwarded", "found"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.9.9.9, 192.168.1.5", "203.0.113.9"),
        ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", "203.0.113.9:51234", "203.0.113.9"),
        ("10.0.0.1", "[2001:ddd::7]:443", "2001:ddd::7"),
        ("10.0.0.1", "2001:ddd::7", "2001:ddd::7"),
        ("10.0.0.1", "2001:ddd::7, 2001:db8::1", "2001:ddd::7"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", "fe80::1% outcome=ok", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",".join(["10.0.0.9"] * 10_000), "10.0.0.9"),
        ("192.168.1.6", "203.0.113.9", "192.168.1.6"),
        ("203.0.113.1", "10.0.0.1", "203.0.113.1"),
    ],
)
def test_the_caller_is_the_last_who_is_no_proxy_of_ours(client: str, forwarded: str, found: str) -> None:
    assert _restored(client, x_forwarded_for=forwarded)["client"][0] == found


def test_everybody_may_be_trusted_by_name_alone() -> None:
    assert _restored("203.0.113.1", ["*"], x_forwarded_for="1.1.1.1, 2.2.2.2")["client"][0] == "1.1.1.1"
    assert _restored(None, ["*"], x_forwarded_for="1.1.1.1")["client"][0] == "1.1.1.1"
    assert _restored(None, x_forwarded_for="1.1.1.1")["client"] is None


@pytest.mark.parametrize(
    ("kind", "said", "scheme"),
    [
        ("http", "https", "https"),
        ("http", "HTTPS", "https"),
        ("http", "http, https", "https"),
        ("http", "wss", "https"),
        ("http", "gopher", "http"),
        ("websocket", "https", "wss"),
        ("websocket", "http", "ws"),
    ],
)
def test_the_scheme_is_the_one_that_was_asked_by(kind: str, said: str, scheme: str) -> None:
    assert _restored("10.0.0.1", kind=kind, x_forwarded_proto=said)["scheme"] == scheme
    assert _restored("203.0.113.1", kind=kind, x_forwarded_proto="https")["scheme"] == {"http": "http"}.get(kind, "ws")


@pytest.mark.parametrize(
    "wrong",
    [
        {"TRUSTED_PROXIES": "10.0.0.0/33"},
        {"TRUSTED_PROXIES": "proxy.example"},
        {"ROOT_PATH": "gw"},
        {"ROOT_PATH": "//gw"},
        {"ROOT_PATH": "/a/../b"},
    ],
    ids=str,
)
def test_a_setting_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    [(name, value)] = wrong.items()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"][0] == name.lower()


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, ::1")
    monkeypatch.setenv("ROOT_PATH", "/gw/")
    assert (Settings().trusted_proxies, Settings().root_path) == (["10.0.0.0/8", "::1"], "/gw")
