"""Prompts are tried without writing code; and what comes from elsewhere is text, however it is called."""

from collections.abc import AsyncGenerator

import httpx
import mcp_types as types
import pytest
from playwright.async_api import Browser, expect

from app.main import create_app
from app.servers.calls import JsonObject
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.conformance.server import ConformanceMCPServer
from tests.console.conftest import Look, address_of_tool, looking_at
from tests.faces.console.test_prompts import PromptingMCPServer
from tests.fixtures.gateway import Served, serve

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
HOSTILE = "<img src=x onerror=alert(1)>"
CLIENT = "<svg/onload=alert(12)>"
WORDS = f"{HOSTILE} `<script>alert(2)</script>` \n\n javascript:alert(3)"


class HostileMCPServer(PromptingMCPServer):
    """Says nothing that is not an attack."""

    def __init__(self) -> None:
        super().__init__()
        schema: JsonObject = {
            "type": "object",
            "properties": {HOSTILE: {"type": "string", "description": WORDS, "default": HOSTILE}},
        }
        self.tools = {"attack": DynamicTool.of("attack", WORDS, schema)}

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> JsonObject:
        """Return rows that are attacks."""
        return {
            "rows": [{HOSTILE: HOSTILE, "onclick": "alert(4)", "href": "javascript:alert(5)"}],
            HOSTILE: {HOSTILE: 1},
        }


@pytest.fixture
async def served() -> AsyncGenerator[Served]:
    async with serve(create_app([HostileMCPServer(), ConformanceMCPServer()], Settings())) as running:
        yield running


@pytest.fixture
def there(browser: Browser, served: Served) -> Look:
    return looking_at(browser, served)


@pytest.mark.debian("chromium")
async def test_a_prompt_is_filled_in_by_its_form(there: Look) -> None:
    async with there("#/tools/prompt/conformance/test_prompt_with_arguments") as seen:
        page = seen.page
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("[data-field=arg1] .field-wrong")).to_contain_text("needed")
        await page.get_by_label("arg1").fill("one")
        await page.get_by_label("arg2").fill(HOSTILE)
        await page.get_by_label("arg2").press("Control+Enter")
        await expect(page.locator("call-result .badge")).to_have_text("ok")
        await page.get_by_role("button", name="JSON", exact=True).click()
        await expect(page.locator("call-result .json")).to_contain_text(f"arg1='one', arg2='{HOSTILE}'")
        await page.get_by_label("Find a tool").fill("simple prompt")
        await page.get_by_role("link", name="test_simple_prompt").click()
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("call-result tbody")).to_contain_text("a simple prompt")
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_a_server_that_lists_no_prompts_keeps_no_other_from_being_shown(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: object, context: object, params: object) -> types.ListPromptsResult:
        raise ZeroDivisionError

    monkeypatch.setattr(PromptingMCPServer, "listed", fail)
    async with (
        serve(create_app([HostileMCPServer(), ConformanceMCPServer()], Settings())) as running,
        looking_at(browser, running)("#/tools") as seen,
    ):
        await expect(seen.page.get_by_role("link", name="test_simple_prompt")).to_be_visible()
        await seen.page.get_by_role("link", name="not listed").click()
        await expect(seen.page.locator(".description")).to_contain_text("can't be listed")


@pytest.mark.debian("chromium")
async def test_what_comes_from_elsewhere_is_shown_as_text(there: Look, served: Served) -> None:
    named = {"user-agent": CLIENT, "x-request-id": "'onmouseover=alert(6)//", "x-conversation-id": HOSTILE}
    async with httpx.AsyncClient(base_url=served.url, headers=named) as http:
        await http.post("/mcp/stage/tools/attack", json={HOSTILE: HOSTILE})
        await http.post(f"/mcp/stage/tools/{HOSTILE}", json={})
        await http.post("/mcp/stage/tools/attack", json={"javascript:alert(7)": HOSTILE})
    for address in (
        "#/calls",
        "#/overview",
        address_of_tool("stage", "attack"),
        "#/tools/prompt/stage/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
        "#/tools/%E0%A4%A/<img src=x onerror=alert(8)>",
        "#/kafka/topic/<img src=x onerror=alert(9)>",
        "#/calls?operation=<img src=x onerror=alert(10)>&call=<svg/onload=alert(11)>",
    ):
        async with there(address) as seen:
            page = seen.page
            if "#/calls" in address and "?" not in address:
                await expect(page.locator(".feed tbody td.column-client").first).to_have_text(CLIENT)
                await page.locator(".feed tbody a").first.click()
                await expect(page.locator("call-details .facts")).to_contain_text(CLIENT)
            elif "/attack" in address or "/prompt/" in address:
                if "/prompt/" in address:
                    await expect(page.locator(".tool-title h2")).to_have_text(HOSTILE)
                    await page.get_by_label("name").fill(HOSTILE)
                await page.get_by_role("button", name="Run", exact=True).click()
                await expect(page.locator("call-result td").first).to_be_visible()
            assert (
                await page.locator("main :is(img, script, svg[onload], [onerror], [onclick], [onmouseover])").count()
                == 0
            )
            assert await page.locator("a[href^='javascript']").count() == 0
            foreign = [one for one in seen.complaints if "404" not in one]
            assert foreign == []
