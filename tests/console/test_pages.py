"""Each page on wide and narrow screens, dark and light: it loads nothing foreign, and everybody can use it."""

import json
import math
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from playwright.async_api import Browser, Page, expect

from app.catalogue import load_servers
from app.guard.key_file import KeyFile
from app.guard.keys import id_of, mint
from app.guard.principal import EVERYBODY
from app.main import create_app
from app.servers.calls import CallContext
from app.settings import Settings
from app.telemetry.activity import POINTS, STEP, Activity
from app.telemetry.recorder import ended_call
from tests.console.check import PAGES
from tests.console.conftest import Look, Stack, address_of_tool, looking_at, sign_in
from tests.console.usable import assert_usable
from tests.faces.console.desk import keyed
from tests.fixtures.browser import Visit
from tests.fixtures.gateway import Served, serve

MOST_BYTES = 200_000
MOST_LINES = 5_000
LARGEST_PICTURE = 60_000
"""Bytes of a picture in docs/console.md."""


async def _run(page: Page) -> None:
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.locator("call-result .badge")).to_have_text("ok")


async def _open_a_call(page: Page) -> None:
    await page.locator(".feed tbody a", has_text="query_database").first.click()
    await expect(page.locator("call-details .log")).to_be_visible()


async def _nothing(page: Page) -> None:
    await expect(page.locator("h1").first).to_be_visible()


async def _search(page: Page) -> None:
    await page.get_by_role("button", name="Search", exact=True).click()
    await expect(page.locator(".hit").first).to_be_visible()


async def _see_messages(page: Page) -> None:
    await expect(page.locator(".messages li").first).to_be_visible()


async def _ask_the_policy(page: Page) -> None:
    await page.get_by_label("Who").select_option("role archivist")
    await page.get_by_label("Tool, resource or scope").fill("aws:s3_upload_file")
    asked = {"bucket": "archive", "key": "letters/../bills/1", "content": "Dear"}
    await page.get_by_label("With arguments").fill(json.dumps(asked))
    await page.get_by_role("button", name="Explain").click()
    await expect(page.locator(".explained .badge")).to_contain_text("argument refused")
    await expect(page.get_by_role("region", name="The keys").locator("tbody tr")).to_have_count(len(_KEYS))
    await page.locator("h1").click()


_DO: dict[str, tuple[str, Callable[[Page], Awaitable[None]]]] = {
    "overview": ("", _nothing),
    "calls": ("#/calls", _nothing),
    "call": ("#/calls", _open_a_call),
    "tools": ("#/tools", _nothing),
    "tool": (address_of_tool("database", "query_database"), _run),
    "kafka": ("#/kafka", _nothing),
    "topic": ("#/kafka/topic/customer-queries", _see_messages),
    "knowledge": ("#/knowledge", _search),
    "access": ("#/access", _ask_the_policy),
    "settings": ("#/settings", _nothing),
    "connect": ("#/connect", _nothing),
}


_BEFORE: list[tuple[str, str, dict[str, Any]]] = [
    ("database", "get_customer_context", {"customer_id": "12345"}),
    ("kafka", "list_topics", {}),
    ("aws", "s3_list_objects", {"bucket": "switchboard-demo"}),
    ("database", "query_database", {"query": "SELECT count(*) FROM tickets"}),
    ("database", "search_knowledge_base", {"search_term": "how do i reset my pasword"}),
    ("database", "get_customer_context", {"customer_id": "nobody"}),
    ("kafka", "publish_message", {"topic": "customer-queries", "message": "hello"}),
    *[("database", "get_customer_context", {"customer_id": "12345"})] * 4,
]
"""What others have done before somebody looks."""

_POLICY = """\
[auth]

[role.support_agent]
allow = ["database:read", "database:save_interaction", "kafka:publish_message"]
limit = "600/min burst 60"
limits = { "kafka:publish_message" = "60/min" }

[role.archivist]
allow = ["aws:read", "aws:s3_upload_file"]
deny = ["aws:get_parameter_store_value"]

[role.archivist.tool."aws:s3_upload_file"]
bucket = { in = ["documents", "archive"] }
key = { prefix = "letters/" }

[role.customer]
bound = "customer"
allow = ["database:get_customer_context"]

[role.operator]
allow = ["console:read", "console:act", "console:keys", "console:settings", "database:write", "kafka:write", "aws:read"]
"""
_DAY = 86_400
_KEYS: list[tuple[str, dict[str, Any], float | None]] = [
    ("operator", {}, None),
    ("support_agent", {"tenant": "north"}, 90 * _DAY),
    ("support_agent", {"tenant": "south"}, None),
    ("archivist", {}, -_DAY),
    ("customer", {"customer": "12345"}, 30 * _DAY),
]
"""Role, whom it is of, and in how many seconds it ends."""


@dataclass(frozen=True)
class _Asking:
    """A gateway that asks for keys, and an operator's."""

    served: Served
    key: str


@pytest.fixture(scope="module")
async def asking(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[_Asking]:
    """A gateway in front of the same backends, with a policy, and keys of several roles."""
    directory = tmp_path_factory.mktemp("asking")
    (directory / "switchboard.toml").write_text(_POLICY)
    store, tokens = KeyFile(directory / "keys.json"), list[str]()
    for role, of, lasts in _KEYS:
        token, key = mint(frozenset({role}), **of, expires_at=None if lasts is None else time.time() + lasts)
        await store.add(key)
        tokens.append(token)
    await store.end(id_of(tokens[2].encode()) or "", time.time())
    kinds = load_servers()
    guard, identity = keyed(directory, kinds, store)
    async with serve(create_app(kinds, Settings(), stack.settings, guard=guard, identity=identity)) as served:
        yield _Asking(served, tokens[0])


@pytest.fixture
def asked(browser: Browser, asking: _Asking) -> Look:
    """Look at the console of that gateway, as its operator."""

    @asynccontextmanager
    async def signed_in(
        address: str = "", *, width: int = 1280, height: int = 800, dark: bool = False
    ) -> AsyncGenerator[Visit]:
        look = looking_at(browser, asking.served, "sign-in")
        async with look(address, width=width, height=height, dark=dark) as seen:
            await sign_in(seen.page, asking.key)
            # The browser writes each refusal to its console, which is how a page learns that it has to ask.
            seen.complaints[:] = [complaint for complaint in seen.complaints if "status of 401" not in complaint]
            yield seen

    return signed_in


def _live_through_a_quarter_of_an_hour(activity: Activity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an account of as long behind the gateway as the charts show."""
    chance, now = random.Random(7), time.time()
    context = CallContext(face="rest", request_id="-", client="agent/2.1", principal=EVERYBODY, address="127.0.0.1")
    for step in range(POINTS, 0, -1):
        calls = [
            ended_call(server, tool, context, 0.0, chance.choices(("ok", "not_found"), (98, 2))[0], ms)
            for server, tool, usual in (("database", "get_customer_context", 3), ("kafka", "publish_message", 8))
            for ms in (usual * chance.lognormvariate(0, 0.9) for _ in range(round(9 + 5 * math.sin(step / 9))))
        ]
        with monkeypatch.context() as then:
            then.setattr(activity, "_clock", lambda at=now - step * STEP: at)
            activity.calls_ended(calls)


_SIZES = pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["wide", "narrow"])
_TONES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("name", [name for name in _DO if name != "access"])
@_SIZES
@_TONES
async def test_a_page_is_whole_and_can_be_used_by_everybody(
    look: Look,
    stack: Stack,
    name: str,
    width: int,
    height: int,
    dark: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "overview":
        _live_through_a_quarter_of_an_hour(stack.served.app.state.activity, monkeypatch)
    for server, tool, arguments in _BEFORE:
        await stack.call(server, tool, arguments)
    await _assert_whole(look, name, width, height, dark, tmp_path)


@pytest.mark.debian("chromium")
@_SIZES
@_TONES
async def test_who_may_do_what_is_whole_where_there_is_a_policy(
    asked: Look, width: int, height: int, dark: bool, tmp_path: Path
) -> None:
    await _assert_whole(asked, "access", width, height, dark, tmp_path)


@pytest.mark.debian("chromium")
async def test_where_nobody_is_asked_for_a_key_it_is_said_who_asks(look: Look) -> None:
    async with look("#/access") as seen:
        told = seen.page.get_by_text("Nobody is asked for a key here")
        await expect(told).to_contain_text("switchboard serve asks where switchboard.toml has [auth]")
        await expect(told).to_contain_text("switchboard dev never")


async def _assert_whole(look: Look, name: str, width: int, height: int, dark: bool, folder: Path) -> None:
    address, do = _DO[name]
    async with look(address, width=width, height=height, dark=dark) as seen:
        await do(seen.page)
        picture = f"{name}-{'dark' if dark else 'light'}-{'narrow' if width < 500 else 'wide'}"
        await assert_usable(seen.page, picture, folder)
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_all_of_it_is_reached_by_keyboard(look: Look) -> None:
    async with look() as seen:
        page = seen.page
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        bar = page.get_by_role("banner")
        for name in ("Switchboard: overview", "Overview", "Calls", "Tools"):
            await page.keyboard.press("Tab")
            await expect(bar.get_by_role("link", name=name, exact=True)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Tools", exact=True)).to_be_visible()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Find a tool, a resource or a prompt")).to_be_focused()
        await page.keyboard.type("customer context")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await page.get_by_label("customer_id").focus()
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("call-result .badge")).to_have_text("ok")


@pytest.mark.debian("chromium")
async def test_a_viewer_chooses_dark_or_light_and_the_next_page_knows(look: Look) -> None:
    async with look() as seen:
        page = seen.page
        ground = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(ground)
        for chosen in ("light", "dark"):
            await page.get_by_role("button", name="Theme").click()
            await expect(page.get_by_role("button", name=f"Theme: {chosen}")).to_be_visible()
        dark = await page.evaluate(ground)
        assert dark != light
        await page.reload()
        await expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert await page.evaluate(ground) == dark


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("address", ["#/constructor", "#/__proto__/x", "#/%00", "#/nothing-like-it", "#//calls"])
async def test_an_address_that_names_no_page_shows_the_first(look: Look, address: str) -> None:
    async with look(address) as seen:
        await expect(seen.page.locator("overview-page .server").first).to_be_visible()
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_what_is_chosen_is_seen_where_colours_are_the_systems(look: Look) -> None:
    async with look("#/calls") as seen:
        page = seen.page
        await page.emulate_media(forced_colors="active")
        await page.get_by_role("button", name="Failures").click()
        for chosen in (page.get_by_role("button", name="Failures"), page.locator("#bar [aria-current]")):
            await page.get_by_role("heading", name="Calls").click()
            assert await chosen.evaluate("chosen => getComputedStyle(chosen).outlineStyle") == "solid"


def test_the_pages_are_small_and_name_nothing_foreign() -> None:
    files = [file for file in PAGES.iterdir() if file.is_file()]
    texts = {file.name: file.read_text() for file in files}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    assert sum(text.count("\n") for text in texts.values()) < MOST_LINES
    for name, text in texts.items():
        foreign = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not foreign, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


def test_the_pictures_in_the_documents_are_of_these_pages_and_small() -> None:
    page = PAGES.parents[1] / "docs" / "console.md"
    shown = {page.parent / picture for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())}
    assert shown == set((page.parent / "pictures").iterdir())
    for picture in shown:
        assert picture.stem in _DO
        assert picture.stat().st_size < LARGEST_PICTURE, picture.name


@pytest.mark.debian("chromium")
async def test_times_are_in_the_zone_of_the_viewer(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "list_topics", {})
    async with look("#/calls") as seen:
        there = await seen.page.context.browser.new_page(timezone_id="Asia/Kathmandu")  # type: ignore[union-attr]
        with anyio.fail_after(30):
            await there.goto(f"{stack.served.url}/#/calls")
            shown = there.locator(".feed tbody tr", has_text="list_topics").first.locator(".column-ended")
            await expect(shown).to_have_attribute("title", re.compile(r"GMT\+5:45"))
        await there.close()
