"""Who may look at the console, by what, and what pages of others can't make a browser do."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.guard.keys import mint
from app.guard.limits import Rate
from app.guard.principal import EVERYBODY
from app.guard.secret import Secret, SecretSettings
from app.guard.sessions import LASTS, Sessions
from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.faces.console.desk import MARK, Desk, cookie, looking, opened
from tests.faces.raw import WITHIN, client_of
from tests.fixtures.gateway import serve

READ = (
    "/console/session",
    "/console/events",
    "/console/tools",
    "/console/connect",
    "/console/resources/read?uri=clock://zones",
    "/console/guides/security.md",
    "/console/calls/none",
)
CHANGE = ("/console/calls/none/cancel", "/console/tools/clock/get_time")


async def outcome(http: httpx.AsyncClient, method: str, path: str, fields: dict[str, str], **body: Any) -> object:
    """Return what an address answers: the status of what is well, the code of a failure."""
    async with http.stream(method, path, headers=fields, **body) as answer:
        if answer.headers["content-type"].startswith("application/problem+json"):
            await answer.aread()
            return answer.json()["code"]
        return answer.status_code


@pytest.mark.parametrize("path", READ)
async def test_only_who_may_read_the_console_reads_it(desk: Desk, http: httpx.AsyncClient, path: str) -> None:
    fine: object = "not_found" if path.endswith("none") else 200
    assert await outcome(http, "GET", path, {}) == "unauthenticated"
    for role in ("operator", "watcher"):
        assert await outcome(http, "GET", path, desk.bearer(role)) == fine
        assert await outcome(http, "GET", path, cookie(await desk.sign_in(http, role))) == fine
    assert await outcome(http, "GET", path, desk.bearer("stranger")) == "insufficient_scope"
    assert await outcome(http, "GET", path, desk.bearer("bot")) == "not_confined"


async def test_to_interrupt_takes_a_scope_of_its_own(desk: Desk, http: httpx.AsyncClient) -> None:
    path = "/console/calls/none/cancel"
    assert await outcome(http, "POST", path, MARK) == "unauthenticated"
    assert await outcome(http, "POST", path, {**MARK, **desk.bearer("watcher")}) == "insufficient_scope"
    assert await outcome(http, "POST", path, {**MARK, **desk.bearer("bot")}) == "not_confined"
    assert await outcome(http, "POST", path, {**MARK, **desk.bearer("operator")}) == "not_found"


KEEP = (
    ("GET", "/console/access", ["console:keys"]),
    ("GET", "/console/settings", ["console:settings"]),
    ("POST", "/console/explain", ["console:keys"]),
    ("POST", "/console/keys", ["console:keys", "console:act"]),
    ("POST", "/console/keys/none/revoke", ["console:keys", "console:act"]),
)
"""What takes more than to look, and which scopes."""


@pytest.mark.parametrize(("method", "path", "scopes"), KEEP)
async def test_to_see_keys_and_settings_and_to_change_them_takes_scopes_of_its_own(
    desk: Desk, http: httpx.AsyncClient, method: str, path: str, scopes: list[str]
) -> None:
    async def asked(fields: dict[str, str]) -> object:
        body = {"json": {}} if method == "POST" else {}
        return await outcome(http, method, path, {**MARK, **fields}, **body)

    assert await asked({}) == "unauthenticated"
    assert await asked(desk.bearer("stranger")) == "insufficient_scope"
    assert await asked(desk.bearer("watcher")) == "insufficient_scope"
    assert await asked(desk.bearer("operator")) == "insufficient_scope"
    assert await asked(desk.bearer("bot")) == "not_confined"
    fine = (200, "invalid_arguments", "not_found")
    assert (await asked(desk.bearer("auditor")) in fine) is (scopes == ["console:keys"])
    assert await asked(desk.bearer("keeper")) in fine
    session = cookie(await desk.sign_in(http, "keeper"))
    assert await asked(session) in fine
    assert await asked({**session, "origin": "https://evil.example"}) == "origin_refused"
    if method == "POST":
        assert await outcome(http, method, path, session, json={}) == "forbidden"


async def test_nobody_gets_a_session_who_may_not_look(desk: Desk, http: httpx.AsyncClient) -> None:
    for key, status, code in (
        (desk.tokens["stranger"], 403, "insufficient_scope"),
        (desk.tokens["bot"], 403, "not_confined"),
        (mint(frozenset({"operator"}))[0], 401, "unauthenticated"),
        ("what is no key", 401, "unauthenticated"),
    ):
        answer = await http.post("/console/session", json={"key": key}, headers=MARK)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "set-cookie" not in answer.headers


async def test_a_refused_scope_is_named(desk: Desk, http: httpx.AsyncClient) -> None:
    answer = await http.post("/console/session", json={"key": desk.tokens["stranger"]}, headers=MARK)
    assert answer.json()["scopes"] == ["console:read"]


@pytest.mark.parametrize(("host", "secure"), [("127.0.0.1:1234", False), ("localhost", False), ("gate.example", True)])
async def test_a_session_is_a_cookie_of_the_console_alone(tmp_path: Path, host: str, secure: bool) -> None:
    settings = Settings(allowed_hosts=["*"])
    async with opened(tmp_path, settings=settings) as desk, client_of(desk.served) as http:
        body = {"key": desk.tokens["operator"]}
        answer = await http.post("/console/session", json=body, headers={**MARK, "host": host})
        assert (answer.status_code, answer.content) == (204, b"")
        _, *attributes = answer.headers["set-cookie"].split("; ")
        wanted = {"Path=/console", f"Max-Age={int(LASTS)}", "HttpOnly", "SameSite=Strict"}
        assert set(attributes) == wanted | ({"Secure"} if secure else set())
        assert "no-store" in answer.headers["cache-control"]
        assert desk.tokens["operator"].split("_", 2)[2] not in answer.headers["set-cookie"]


async def test_behind_a_prefix_the_cookie_is_for_the_prefixed_console(tmp_path: Path) -> None:
    async with opened(tmp_path, settings=Settings(root_path="/gw")) as desk, client_of(desk.served) as http:
        answer = await http.post("/console/session", json={"key": desk.tokens["operator"]}, headers=MARK)
        assert "Path=/gw/console" in answer.headers["set-cookie"].split("; ")


async def test_a_session_counts_for_nothing_outside_of_the_console(desk: Desk, http: httpx.AsyncClient) -> None:
    fields = cookie(await desk.sign_in(http, "operator"))
    assert await outcome(http, "GET", "/console/tools", fields) == 200
    for method, path in (
        ("POST", "/mcp/clock/tools/get_time"),
        ("GET", "/mcp"),
        ("GET", "/mcp/clock/tools"),
        ("POST", "/mcp"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/consoles/tools"),
        ("GET", "/console"),
    ):
        body = {"json": {}} if method == "POST" else {}
        assert await outcome(http, method, path, {**fields, **MARK}, **body) == "unauthenticated", path
    # Nor do detours lead out of it.
    for path in (
        "/console/../mcp",
        "/console/%2e%2e/mcp",
        "/console//../mcp",
        "/console/..%2fmcp",
        "/console/x/..;/mcp",
    ):
        assert await outcome(http, "GET", path, fields) in ("not_found", "unauthenticated"), path


async def test_what_is_made_up_or_altered_is_no_session(desk: Desk, http: httpx.AsyncClient) -> None:
    token = await desk.sign_in(http, "operator")
    key_id, ends, number, signature = token.split(".")
    later = str(int(ends) + 1)
    other = desk.keys["watcher"].id
    forged = Sessions(Secret("another secret of at least 32 characters")).begin(desk.keys["operator"].id)
    for wrong in (
        "",
        "x",
        f"{other}.{ends}.{number}.{signature}",
        f"{key_id}.{later}.{number}.{signature}",
        f"{key_id}.{ends}.{number[::-1]}.{signature}",
        f"{key_id}.{ends}.{number}.{signature[::-1]}",
        f"{key_id}.{ends}.{number}.",
        f"{token}=",
        f"{token}.{token}",
        desk.tokens["operator"],
        forged,
    ):
        answer = await http.get("/console/tools", headers=cookie(wrong))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), wrong
        assert "Max-Age=0" in answer.headers["set-cookie"]


async def test_a_session_ends_after_an_hour(tmp_path: Path) -> None:
    now = time.time()
    sessions = Sessions(Secret("s" * 32), clock=lambda: now)
    token = sessions.begin("a" * 12)
    now += LASTS - 2
    found = sessions.recall(token)
    assert found is not None
    assert (found.key_id, found.ends_at - now) == ("a" * 12, pytest.approx(2, abs=1))
    now += 2
    assert sessions.recall(token) is None


async def test_two_processes_with_one_secret_know_each_others_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHBOARD_SECRET", "one secret of the whole installation")
    async with opened(tmp_path) as one, client_of(one.served) as http:
        token = await one.sign_in(http, "operator")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "keys.json").symlink_to(tmp_path / "keys.json")
        async with opened(tmp_path / "other") as other, client_of(other.served) as elsewhere:
            answer = await elsewhere.get("/console/session", headers=cookie(token))
            assert answer.json()["viewer"]["principal"] == one.keys["operator"].id
        monkeypatch.setenv("SWITCHBOARD_SECRET", "another secret of another installation")
        async with opened(tmp_path / "other") as stranger, client_of(stranger.served) as elsewhere:
            assert (await elsewhere.get("/console/session", headers=cookie(token))).status_code == 401


async def test_a_revoked_keys_session_is_refused_and_its_stream_ends(desk: Desk, http: httpx.AsyncClient) -> None:
    fields = cookie(await desk.sign_in(http, "operator"))
    async with looking(desk.served, fields) as events:
        await events.next("snapshot")
        await desk.revoke("operator")
        problem = await events.next("end")
        assert problem["code"] == "unauthenticated"
        await events.ended()
    answer = await http.get("/console/tools", headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "revoked" in answer.json()["detail"]
    assert "Max-Age=0" in answer.headers["set-cookie"]


async def test_a_session_that_is_over_ends_the_stream_in_its_middle(desk: Desk, http: httpx.AsyncClient) -> None:
    # Signed with the secret of this process, as the gateway's own are.
    old = Sessions(Secret.of(SecretSettings()), clock=lambda: time.time() - LASTS + 2)
    fields = cookie(old.begin(desk.keys["operator"].id))
    async with looking(desk.served, fields) as events:
        await events.next("snapshot")
        assert (await events.next("end"))["code"] == "unauthenticated"
        await events.ended()
    assert await outcome(http, "GET", "/console/tools", fields) == "unauthenticated"


async def test_who_signs_out_ends_the_session_with_what_it_has_open(desk: Desk, http: httpx.AsyncClient) -> None:
    fields = cookie(await desk.sign_in(http, "operator"))
    other = cookie(await desk.sign_in(http, "operator"))
    async with looking(desk.served, fields) as events:
        await events.next("snapshot")
        answer = await http.delete("/console/session", headers={**fields, **MARK})
        assert answer.status_code == 204
        assert "Max-Age=0" in answer.headers["set-cookie"]
        await events.next("end")
        await events.ended()
    assert await outcome(http, "GET", "/console/tools", fields) == "unauthenticated"
    assert await outcome(http, "GET", "/console/tools", other) == 200
    # Who has none left signs out just as well, and in again.
    assert (await http.delete("/console/session", headers={**fields, **MARK})).status_code == 204
    assert (await http.delete("/console/session", headers=MARK)).status_code == 204
    body = {"key": desk.tokens["watcher"]}
    assert (await http.post("/console/session", json=body, headers={**fields, **MARK})).status_code == 204


async def test_who_guesses_keys_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path, rate=Rate(0.01, 2)) as desk, client_of(desk.served) as http:
        wrong = [mint(frozenset({"operator"}))[0] for _ in range(3)]
        answers = [await http.post("/console/session", json={"key": key}, headers=MARK) for key in wrong]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert int(answers[2].headers["retry-after"]) > 1


# What pages of others can make a browser send


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"x-switchboard-console": "0"},
        {**MARK, "origin": "https://evil.example"},
        {**MARK, "origin": "null"},
        {**MARK, "origin": "http://localhost:1"},  # which may call the gateway, and is not its console
        {**MARK, "sec-fetch-site": "cross-site"},
        {**MARK, "sec-fetch-site": "same-site"},
    ],
)
async def test_a_page_of_another_origin_changes_nothing(
    desk: Desk, http: httpx.AsyncClient, fields: dict[str, str]
) -> None:
    session = cookie(await desk.sign_in(http, "operator"))
    refused = ("forbidden", "origin_refused")
    for path in CHANGE:
        assert await outcome(http, "POST", path, {**session, **fields}, json={}) in refused
    assert await outcome(http, "DELETE", "/console/session", {**session, **fields}) in refused
    body = {"key": desk.tokens["operator"]}
    assert await outcome(http, "POST", "/console/session", fields, json=body) in refused
    assert await outcome(http, "GET", "/console/tools", session) == 200  # it still is


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
async def test_what_a_form_sends_is_not_read(desk: Desk, http: httpx.AsyncClient, media_type: str | None) -> None:
    fields = {**MARK, **({"content-type": media_type} if media_type else {})}
    body = f'{{"key": "{desk.tokens["operator"]}"}}'.encode()
    answer = await http.post("/console/session", content=body, headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_our_own_page_may(desk: Desk, http: httpx.AsyncClient) -> None:
    own = {**MARK, "origin": desk.served.url, "sec-fetch-site": "same-origin"}
    answer = await http.post("/console/session", json={"key": f" {desk.tokens['operator']}\n"}, headers=own)
    assert answer.status_code == 204
    fields = {**own, **cookie(answer.headers["set-cookie"].partition("=")[2].partition(";")[0])}
    http.cookies.clear()
    assert await outcome(http, "POST", "/console/tools/clock/get_time", fields, json={}) == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"key": 1}', b"{}", b'{"key": "x", "more": 1}', b'"sb_"', b"\xff"]
)
async def test_what_is_no_sign_in_is_told_what_one_is(desk: Desk, http: httpx.AsyncClient, body: bytes) -> None:
    fields = {**MARK, "content-type": "application/json"}
    answer = await http.post("/console/session", content=body, headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_arguments")
    assert '{"key": "sb_…"}' in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/console/session", b'{"key": %b}'),
        ("/console/explain", b'{"what": "clock:get_time", "roles": ["operator"], "arguments": %b}'),
        ("/console/keys", b'{"roles": %b}'),
        ("/console/prompts/clock", b'{"name": "greet", "arguments": {"name": %b}}'),
        ("/console/tools/clock/get_time", b'{"zone": %b}'),
    ],
)
async def test_what_goes_too_deep_is_refused_in_words(
    desk: Desk, http: httpx.AsyncClient, path: str, body: bytes
) -> None:
    fields = {**MARK, "content-type": "application/json", **desk.bearer("keeper")}
    answer = await http.post(path, content=body % (b"[" * 3000 + b"]" * 3000), headers=fields)
    assert answer.status_code in (400, 422), answer.text


async def test_a_stranger_can_not_have_a_long_body_held(desk: Desk, http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b"{}"

    fields = {**MARK, "content-type": "application/json"}
    bodies: list[Any] = [b" " * 8193, pieces()]
    for body in bodies:
        answer = await http.post("/console/session", content=body, headers=fields)
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
    # Where the rest of it never comes, nothing of it is waited for.
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.served.port)
    head = "POST /console/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}x-switchboard-console: 1\r\ncontent-length: 4000000\r\n\r\n".encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), WITHIN)
    writer.close()


async def test_another_method_is_told_which_there_are(desk: Desk, http: httpx.AsyncClient) -> None:
    for path, fields in (("/console/tools", desk.bearer("operator")), ("/console/session", desk.bearer("operator"))):
        answer = await http.put(path, headers={**fields, **MARK})
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


# The shell


async def test_strangers_get_a_shell_that_tells_nothing(desk: Desk, http: httpx.AsyncClient) -> None:
    page = await http.get("/", headers={"accept": "text/html"})
    assert page.status_code == 200
    for told in ("clock", "vault", "get_time", "open_vault", "127.0.0.1"):
        assert told not in page.text.lower()
    files = re.findall(r'(?:src|href)="(/console/[^"]+)"', page.text)
    assert files
    assert {(await http.get(path)).status_code for path in files} == {200}
    assert await outcome(http, "GET", "/", {}) == "unauthenticated"
    assert await outcome(http, "POST", "/", {"accept": "text/html"}) == "unauthenticated"


async def test_public_pages_do_not_make_the_console_public(tmp_path: Path) -> None:
    async with opened(tmp_path, public_pages=True) as desk, client_of(desk.served) as http:
        for path in READ:
            assert await outcome(http, "GET", path, {}) == "unauthenticated", path
        for path in CHANGE:
            assert await outcome(http, "POST", path, MARK, json={}) == "unauthenticated", path


# Where callers reach the gateway, as the policy says


async def test_what_is_copied_leads_to_where_callers_reach_the_gateway_and_says_where_a_key_goes(
    desk: Desk, tmp_path: Path
) -> None:
    async with opened(tmp_path, public_url="https://support.example/gw") as behind:
        for one, url in ((behind, "https://support.example/gw"), (desk, desk.served.url)):
            async with client_of(one.served) as http:
                told = (await http.get("/console/connect", headers=one.bearer("operator"))).json()
                shown = (await http.get("/console/session", headers=one.bearer("operator"))).json()
            assert (told["url"], told["websocket_url"]) == (url, url.replace("http", "ws", 1))
            assert shown["url"] == (url if one is behind else None)
            texts = {config["client"]: config["text"] for config in told["configs"]}
            for client in ("claude-code", "cursor", "vscode"):
                assert f"{url}/mcp" in texts[client]
                assert "Bearer YOUR_KEY" in texts[client]
            assert f"{url}/mcp/clock/tools/" in texts["curl"]
            assert "-H 'authorization: Bearer YOUR_KEY'" in texts["curl"]


async def test_pages_from_where_callers_reach_the_gateway_are_its_own(tmp_path: Path) -> None:
    """Also where the proxy in front hands no Host on."""
    async with opened(tmp_path, public_url="https://support.example:8443/gw") as desk, client_of(desk.served) as http:
        fields = desk.bearer("operator")
        call, read = "/mcp/clock/tools/get_time", "/console/tools"
        for host, expected in (("support.example:8443", 200), ("support.example", "misdirected_request")):
            assert await outcome(http, "GET", read, {**fields, "host": host}) == expected
        for origin, expected in (
            ("https://support.example:8443", 200),
            ("http://support.example:8443", "origin_refused"),
            ("https://support.example", "origin_refused"),
        ):
            assert await outcome(http, "POST", call, {**fields, "origin": origin}) == expected
            assert await outcome(http, "GET", read, {**fields, "origin": origin}) == expected


# Where nobody needs a key


async def test_in_dev_everybody_looks_and_may_look_as_somebody_else(tmp_path: Path) -> None:
    async with opened(tmp_path, anonymous=EVERYBODY, public_pages=True) as desk, client_of(desk.served) as http:
        assert (await http.get("/console/session")).json()["viewer"]["principal"] == "anonymous"
        fields = cookie(await desk.sign_in(http, "watcher"))
        shown = (await http.get("/console/session", headers=fields)).json()
        assert (shown["viewer"]["roles"], shown["may"]["act"]) == (["watcher"], False)
        # A session that is over is not silently somebody who may more, but is forgotten.
        answer = await http.get("/console/session", headers=cookie("x"))
        assert answer.status_code == 401
        assert "Max-Age=0" in answer.headers["set-cookie"]
        # Through a proxy comes anybody.
        proxied = {"x-forwarded-for": "1.2.3.4"}
        assert await outcome(http, "GET", "/console/tools", proxied) == "unauthenticated"
        assert await outcome(http, "GET", "/", {**proxied, "accept": "text/html"}) == 200
        assert await outcome(http, "GET", "/console/tools", {**proxied, **fields}) == 200


async def test_where_there_are_no_keys_nobody_signs_in() -> None:
    async with serve(create_app([ClockMCPServer], Settings())) as served, client_of(served) as http:
        answer = await http.post("/console/session", json={"key": "sb_"}, headers=MARK)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert (await http.get("/console/session", headers=cookie("x"))).json()["may"]["act"] is True
