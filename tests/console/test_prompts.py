"""Prompts are tried without writing code; and what comes from elsewhere is text, however it is called."""

import json
import re
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
from tests.console.check import PAGES
from tests.console.conftest import Look, address_of_tool, as_json, looking_at
from tests.faces.console.test_prompts import PromptingMCPServer
from tests.fixtures.gateway import Served, serve

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
HOSTILE = "<img src=x onerror=alert(1)>"
CLIENT = "<svg/onload=alert(12)>"
ATTRIBUTES: JsonObject = {
    "onclick": "alert(13)",
    "onfocus": {"handleEvent": "alert(14)"},
    "autofocus": True,
    "style": "position:fixed;inset:0",
    "innerHTML": HOSTILE,
    "srcdoc": HOSTILE,
    "class": "badge good",
    "__proto__": {"onclick": "alert(15)", "nodeType": 1},
    "toJSON": "alert(16)",
}
"""What would be attributes of an element where data is taken for some."""
INHERITED = ("__proto__", "constructor", "toString", "hasOwnProperty")
"""Names that each object of JavaScript has anyway."""
WORDS = f"{HOSTILE} `<script>alert(2)</script>` \n\n javascript:alert(3)"


class HostileMCPServer(PromptingMCPServer):
    """Says nothing that is not an attack."""

    def __init__(self) -> None:
        super().__init__()
        schema: JsonObject = {
            "type": "object",
            "properties": {HOSTILE: {"type": "string", "description": WORDS, "default": HOSTILE}},
        }
        inherited: JsonObject = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in INHERITED},
            "required": list(INHERITED),
        }
        self.tools = {
            "attack": DynamicTool.of("attack", WORDS, schema),
            "inherit": DynamicTool.of("inherit", "Answers with what it is given.", inherited),
        }

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> JsonObject:
        """Return rows that are attacks, or what was given."""
        if tool_name == "inherit":
            return {"rows": [arguments, {}]}
        return {
            "rows": [{HOSTILE: HOSTILE, "onclick": "alert(4)", "href": "javascript:alert(5)"}, {"cell": ATTRIBUTES}],
            HOSTILE: {HOSTILE: 1, "deep": {"deeper": ATTRIBUTES}},
            "alone": ATTRIBUTES,
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
        listed = seen.page.get_by_role("navigation", name="Tools and resources")
        await expect(listed.get_by_role("link", name="test_simple_prompt")).to_be_visible()
        await listed.get_by_role("link", name="not listed").click()
        await expect(seen.page.locator(".description")).to_contain_text("can't be listed")


@pytest.mark.debian("chromium")
async def test_what_comes_from_elsewhere_is_shown_as_text(there: Look, served: Served) -> None:
    named = {"user-agent": CLIENT, "x-request-id": "'onmouseover=alert(6)//", "x-conversation-id": HOSTILE}
    async with httpx.AsyncClient(base_url=served.url, headers=named, timeout=30) as http:
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
            assert await page.locator("a[href^='javascript'], main :is([style], [srcdoc], [autofocus])").count() == 0
            foreign = [one for one in seen.complaints if "404" not in one]
            assert foreign == []


@pytest.mark.debian("chromium")
async def test_data_is_no_attributes_wherever_it_stands(there: Look) -> None:
    made = """async (text) => {
        const given = JSON.parse(text);
        const { h, hWith, notice, plainTable } = await import("./console/dom.js");
        const { table, facts } = await import("./console/result.js");
        const all = [h("p", given), h("p", given, "text"), hWith("p", {}, given), notice("title", given),
                     plainTable(["column"], [[given]]), table("name", [given]), facts(Object.entries({ given }))];
        return all.map((one) => [one.textContent, one.outerHTML.replaceAll(/>[^<]*</g, "><")]);
    }"""
    async with there() as seen:
        for text, markup in await seen.page.evaluate(made, json.dumps(ATTRIBUTES)):
            assert "alert(13)" in text, "what was given is shown"
            assert "alert" not in markup, markup
            assert "style=" not in markup, markup


def test_attributes_are_written_where_they_are_given() -> None:
    """No variable stands in their place, which data could be in."""
    for file in PAGES.glob("*.js"):
        text = file.read_text()
        given = re.findall(r"(?<!function )\bhWith\(\s*(?:\w+|\"[^\"]*\"),\s*(.)", text)
        assert len(given) == len(re.findall(r"(?<!function )\bhWith\(", text)), file.name
        assert set(given) <= {"{"}, file.name


@pytest.mark.debian("chromium")
async def test_arguments_and_columns_may_be_called_as_what_each_object_has(there: Look) -> None:
    async with there(address_of_tool("stage", "inherit")) as seen:
        page = seen.page
        for name in INHERITED:
            await expect(page.get_by_label(name)).to_have_value("")
            await page.get_by_label(name).fill(f"of {name}")
        await page.get_by_role("button", name="Edit as JSON").click()
        shown = as_json(await page.get_by_label("The arguments as JSON").input_value())
        assert shown == {name: f"of {name}" for name in INHERITED}
        await page.get_by_role("button", name="Edit as a form").click()
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("call-result th")).to_have_text(list(INHERITED))
        await expect(page.locator("call-result td")).to_have_text([*(f"of {name}" for name in INHERITED), *[""] * 4])
        assert seen.complaints == []
