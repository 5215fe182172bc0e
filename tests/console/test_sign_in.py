"""Where keys are asked for, the page asks for one; what it shows is what its role may see, and nobody else sees any."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.console.conftest import LIVE, looking_at
from tests.console.usable import assert_usable
from tests.faces.console.desk import Desk, opened
from tests.faces.raw import client_of

ASKED = "sign-in"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


async def _sign_in(page: Page, key: str) -> None:
    await page.get_by_label("Key").fill(key)
    await page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.mark.debian("chromium")
async def test_who_shows_a_key_sees_the_console_until_signing_out(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, ASKED)("#/calls") as seen:
        page = seen.page
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await _sign_in(page, desk.tokens["operator"])
        await page.locator(LIVE).wait_for()
        await expect(page.get_by_role("heading", name="Calls")).to_be_visible()
        await expect(page.locator("#viewer")).to_contain_text("operator")
        secret = desk.tokens["operator"].split("_", 2)[2]
        assert secret not in await page.content()
        assert await page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        assert await page.evaluate("document.cookie") == ""
        await page.reload()
        await page.locator(LIVE).wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert _unexpected(seen.complaints) == []


@pytest.mark.debian("chromium")
async def test_a_wrong_key_and_one_of_another_role_are_refused_in_words(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, ASKED)() as seen:
        page = seen.page
        await _sign_in(page, "sb_unknown00000_" + "x" * 43)
        await expect(page.get_by_role("alert")).to_have_text(re.compile("key", re.IGNORECASE))
        for role, told in (("stranger", "console:read"), ("bot", "customer")):
            await _sign_in(page, desk.tokens[role])
            await expect(page.get_by_role("alert")).to_contain_text(told)
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert await page.locator("[data-server], .feed, .tool-list").count() == 0


@pytest.mark.debian("chromium")
async def test_a_key_that_is_revoked_ends_what_its_page_shows(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, ASKED)() as seen:
        page = seen.page
        await _sign_in(page, desk.tokens["watcher"])
        await expect(page.locator("[data-server=clock]")).to_be_visible()
        await desk.revoke("watcher")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await expect(page.locator("[data-server=clock]")).to_have_count(0)


@pytest.mark.debian("chromium")
async def test_who_signs_in_next_sees_nothing_that_the_one_before_was_told(desk: Desk, browser: Browser) -> None:
    async with client_of(desk.served) as http, looking_at(browser, desk.served, ASKED)("#/calls") as seen:
        page = seen.page
        rows = page.locator(".feed tbody tr")
        await _sign_in(page, desk.tokens["operator"])
        for path in ("vault/tools/open_vault", "clock/tools/get_time"):
            await http.post(f"/mcp/{path}", json={}, headers=desk.bearer("stranger"))
        await expect(rows.filter(has_text="open_vault")).to_be_visible()
        await desk.revoke("operator")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await _sign_in(page, desk.tokens["timekeeper"])
        await expect(rows.filter(has_text="get_time")).to_be_visible()
        await expect(rows.filter(has_text="open_vault")).to_have_count(0)
        kept = "import('./console/events.js').then(({ stream }) => JSON.stringify([stream.calls, stream.snapshot]))"
        assert "vault" not in await page.evaluate(kept)
        await expect(page.locator("#viewer")).to_contain_text("timekeeper")


@pytest.mark.debian("chromium")
async def test_a_viewer_sees_the_tools_of_its_role_and_calls_them_as_itself(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, ASKED)("#/tools/tool/clock/get_time") as seen:
        page = seen.page
        await _sign_in(page, desk.tokens["timekeeper"])
        await expect(page.locator(".tool-list a")).to_have_text(["get_time"])
        await expect(page.locator(".policy")).to_contain_text("timekeeper")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("call-result .badge")).to_have_text("ok")
        await page.goto(f"{desk.served.url}/#/tools/tool/vault/open_vault")
        await expect(page.get_by_text("There is no such tool")).to_be_visible()


@pytest.mark.debian("chromium")
async def test_who_may_look_and_use_nothing_is_told_so_and_never_that_all_is_well(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, ASKED)() as seen:
        page = seen.page
        assert await page.get_by_role("navigation", name="Pages").count() == 0
        await _sign_in(page, desk.tokens["looker"])
        await expect(page.locator("h1")).to_have_text("There is nothing that you may see")
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tools").click()
        await expect(page.locator(".opened")).to_contain_text("No tool is for you")
        for address, told in (("access", "It takes console:keys."), ("settings", "It takes console:settings.")):
            await page.goto(f"{desk.served.url}/#/{address}")
            await expect(page.locator(".notice:visible")).to_contain_text(told)
            await expect(page.locator("main section:visible:not(:has(*))")).to_have_count(0)


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_page_that_asks_can_be_used_by_everybody(
    desk: Desk, browser: Browser, dark: bool, tmp_path: Path
) -> None:
    async with looking_at(browser, desk.served, ASKED)(width=390, height=844, dark=dark) as seen:
        await _sign_in(seen.page, "sb_wrong")
        await expect(seen.page.get_by_role("alert")).not_to_be_empty()
        await assert_usable(seen.page, f"sign-in-{'dark' if dark else 'light'}-narrow", tmp_path)


def _unexpected(complaints: list[str]) -> list[str]:
    """Leave out that the browser writes each refusal to its console, which is how a page learns that it has to ask."""
    return [complaint for complaint in complaints if "status of 401" not in complaint]
