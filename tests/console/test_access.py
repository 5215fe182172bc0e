"""Keys are made and revoked on a page, the policy is explained there, and settings are shown without secrets."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.conftest import Look, looking_at, sign_in
from tests.console.usable import assert_usable
from tests.faces.console.desk import Desk, opened


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


@pytest.mark.debian("chromium")
async def test_a_key_is_made_shown_once_and_revoked(desk: Desk, browser: Browser, tmp_path: Path) -> None:
    async with looking_at(browser, desk.served, "sign-in")("#/access") as seen:
        page = seen.page
        await sign_in(page, desk.tokens["keeper"])
        await page.locator("summary", has_text="Make a key").click()
        await page.get_by_role("button", name="Make a key").click()
        await expect(page.get_by_role("alert").filter(has_text="Choose a role")).to_be_visible()
        await page.get_by_label("operator").check()
        await page.get_by_role("button", name="Make a key").click()
        await expect(page.get_by_role("alert").filter(has_text="what you may not")).to_be_visible()
        await page.get_by_label("operator").uncheck()
        await page.get_by_label("watcher").check()
        await page.get_by_role("button", name="Make a key").click()
        secret = await page.locator(".secret code").inner_text()
        key_id = secret.split("_")[1]
        await expect(page.get_by_role("region", name="The keys")).to_contain_text(key_id)
        await assert_usable(page, "access-made", tmp_path)
        await page.get_by_role("link", name="Overview", exact=True).click()
        await page.get_by_role("link", name="Access", exact=True).click()
        await expect(page.get_by_role("region", name="The keys")).to_contain_text(key_id)
        assert secret not in await page.content()
        await page.get_by_role("button", name=f"Revoke {key_id}").click()
        await page.get_by_role("button", name=f"Really revoke {key_id}?").click()
        row = page.locator("tr", has_text=key_id)
        await expect(row.locator(".badge")).to_have_text("revoked")
        assert (await desk.store.find([key_id]))[key_id].revoked_at is not None


@pytest.mark.debian("chromium")
async def test_the_policy_is_explained_and_a_viewer_of_few_scopes_has_few_pages(desk: Desk, browser: Browser) -> None:
    async with looking_at(browser, desk.served, "sign-in")("#/access") as seen:
        page = seen.page
        await sign_in(page, desk.tokens["auditor"])
        await page.get_by_label("Who").select_option("ruled")
        await page.get_by_label("Tool, resource or scope").fill("clock:get_time")
        await page.get_by_label("With arguments").fill('{"zone": "CET"}')
        await page.get_by_role("button", name="Explain").click()
        await expect(page.locator(".explained .badge")).to_have_text("argument refused")
        await expect(page.locator(".explained")).to_contain_text("switchboard.toml:")
        assert await page.get_by_role("button", name="Revoke").count() == 0
        await expect(page.get_by_text("To make and revoke keys takes")).to_be_visible()
        shown = page.get_by_role("navigation", name="Pages").get_by_role("link")
        await expect(shown).to_have_text(["Overview", "Calls", "Tools", "Access", "Connect"])


@pytest.mark.debian("chromium")
async def test_settings_are_found_by_a_word_and_say_where_they_come_from(look: Look) -> None:
    async with look("#/settings") as seen:
        page = seen.page
        await page.get_by_label("Find a setting").fill("database_url")
        row = page.locator("tr", has=page.get_by_text("DATABASE_URL", exact=True))
        await expect(row.locator(".badge")).to_have_text("hidden")
        await expect(row).to_contain_text("at start")
        await expect(page.locator("settings-page tbody tr:visible").first).to_be_visible()
        await page.get_by_label("Find a setting").fill("zzzz")
        await expect(page.locator(".notice:visible")).to_contain_text("Nothing is called so")
        await page.get_by_label("Find a setting").fill("")
        await expect(page.locator(".notice:visible")).to_have_count(0)
        await page.get_by_role("button", name="Only what is set").click()
        await expect(page.locator("settings-page tr:visible", has_text="default")).to_have_count(0)
        assert "postgresql://" not in await page.content()
        assert seen.complaints == []
