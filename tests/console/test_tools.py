"""Every tool is tried without writing code, and the same call is ready to be made elsewhere."""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from app.catalogue import Catalogue, load_servers
from app.main import create_app
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.dynamic import DynamicTool
from app.settings import Settings
from tests.console.conftest import Look, Stack, address_of_tool, as_json, looking_at
from tests.fixtures.gateway import serve

_OFFERS = {(offer.kind.server_id, offer.declared.name): offer.declared for offer in Catalogue(load_servers()).tools()}
_NAMES = sorted(_OFFERS, key=lambda names: ("delete" in names[1], *names))
"""What the examples of others need is not deleted before they have run."""
_ROOT = Path(__file__).parents[2]


async def _run(page: Page) -> None:
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.locator("call-result .badge")).to_be_visible()


async def _result(page: Page) -> dict[str, Any]:
    """Return what a call has answered."""
    await expect(page.locator("call-result .badge")).to_have_text("ok")
    result: dict[str, Any] = as_json(await page.locator("call-result .json").text_content())
    return result


@pytest.mark.debian("chromium")
@pytest.mark.parametrize(("server", "tool"), _NAMES)
async def test_every_tool_succeeds_with_the_example_that_its_form_is_filled_with(
    look: Look, server: str, tool: str
) -> None:
    async with look(address_of_tool(server, tool)) as seen:
        sent: list[Any] = []
        seen.page.on("request", lambda request: sent.append(request.post_data_json) if request.post_data else None)
        await _run(seen.page)
        assert (await _result(seen.page))["success"] is True
        assert sent == [_OFFERS[server, tool].example]
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_every_tool_and_resource_is_listed_with_what_allows_it(look: Look) -> None:
    async with look("#/tools") as seen:
        page = seen.page
        links = page.get_by_role("navigation", name="Tools and resources").get_by_role("link")
        await expect(links.first).to_be_visible()
        told = page.locator(".offered li", has_text="s3_delete_object")
        await expect(told).to_contain_text("may delete or overwrite")
        names = await links.evaluate_all("links => links.map(link => link.title)")
        catalogue = Catalogue(load_servers())
        templates = [offer.declared.template for offer in catalogue.resources()]
        assert sorted(names) == sorted([*(tool for _, tool in _OFFERS), *templates])
        await page.get_by_label("Find a tool, a resource or a prompt").fill("s3 upload")
        await expect(links).to_have_count(1)
        await links.click()
        await expect(page.locator(".tool .description").first).to_contain_text("Write an object")


@pytest.mark.debian("chromium")
async def test_a_resource_is_read_and_shown_as_a_table(look: Look) -> None:
    async with look("#/tools/resource/database/db%3A%2F%2Fcustomers%7B%3Fcursor%2Climit%7D") as seen:
        page = seen.page
        await page.get_by_label("uri").fill("db://customers?limit=3")
        await page.get_by_role("button", name="Read", exact=True).click()
        await expect(page.locator("call-result tbody tr")).to_have_count(3)


class ShapesMCPServer(BaseMCPServer):
    """Takes arguments of every shape, and gives them back."""

    def __init__(self) -> None:
        schema: JsonObject = {
            "type": "object",
            "properties": {
                "place": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "at": {
                            "type": "object",
                            "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                            "required": ["lat", "lon"],
                        },
                    },
                    "required": ["city"],
                },
                "people": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
                        "required": ["name"],
                    },
                },
                "kind": {"enum": ["new", "used", 3], "description": "One of `these`."},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "when": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
                "loud": {"type": "boolean", "default": False},
                "sure": {"type": "boolean"},
                "anything": {},
                "photo": {"type": "string"},
                "photo_encoding": {"type": "string", "enum": ["base64", "text"], "default": "text"},
            },
            "required": ["place"],
            "$defs": {"age": {"type": ["integer", "null"], "minimum": 0}},
        }
        super().__init__(server_id="shapes", name="Shapes", tools=[DynamicTool.of("shape", "Shape.", schema)])

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> JsonObject:
        """Return the arguments."""
        return {"given": arguments}


@pytest.mark.debian("chromium")
async def test_a_form_fills_in_objects_lists_choices_and_files(browser: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "picture.bin"
    picture.write_bytes(bytes(range(256)))
    async with serve(create_app([ShapesMCPServer()], Settings())) as served:
        look = looking_at(browser, served)
        async with look(address_of_tool("shapes", "shape")) as seen:
            page = seen.page
            await page.get_by_role("button", name="Run", exact=True).click()
            await expect(page.locator("[data-field=place] .field-wrong").first).to_contain_text("needed")
            await page.get_by_label("city").fill("Ulm")
            await page.get_by_label("lat").fill("48.4")
            await page.get_by_label("lon").fill("10")
            await page.get_by_text("more arguments").click()
            for name in ("Ada", "Grace"):
                await page.get_by_role("button", name="Add to people").click()
                await page.get_by_label("name").last.fill(name)
            await page.get_by_role("button", name="Add to people").click()
            await page.get_by_role("button", name="Remove from people").last.click()
            await page.get_by_label("kind").select_option("3")
            await page.get_by_role("button", name="Add to labels").click()
            await page.get_by_label("labels, a name").fill("shelf")
            await page.get_by_label("labels, its value").fill("A4")
            await page.get_by_label("What when is").select_option("a whole number")
            await page.get_by_label("when", exact=True).fill("1700000000000")
            await page.get_by_label("loud").check()
            await page.get_by_label("sure").select_option("false")
            await page.get_by_label("anything").fill('{"deep": [1, null, 9007199254740993]}')
            await page.locator("[data-field=photo] input[type=file]").set_input_files(picture)
            await expect(page.locator("[data-field=photo]")).to_contain_text("256 bytes, as base64")
            await _run(page)
            given = (await _result(page))["given"]
            assert given == {
                "place": {"city": "Ulm", "at": {"lat": 48.4, "lon": 10}},
                "people": [{"name": "Ada"}, {"name": "Grace"}],
                "kind": 3,
                "labels": {"shelf": "A4"},
                "when": 1700000000000,
                "loud": True,
                "sure": False,
                "anything": {"deep": [1, None, 9007199254740993]},
                "photo": base64.b64encode(bytes(range(256))).decode(),
                "photo_encoding": "base64",
            }
            await page.get_by_role("button", name="Edit as JSON").click()
            whole = page.get_by_label("The arguments as JSON")
            assert json.loads(await whole.input_value()) == given
            await whole.fill('{"place": {"city": "Bern"}, "when": "now"}')
            await page.get_by_role("button", name="Edit as a form").click()
            await expect(page.get_by_label("city")).to_have_value("Bern")
            await _run(page)
            assert (await _result(page))["given"] == {"place": {"city": "Bern"}, "when": "now"}
            assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_what_is_refused_is_said_at_its_field(look: Look) -> None:
    async with look(address_of_tool("database", "get_customer_context")) as seen:
        page = seen.page
        await page.get_by_label("ticket_limit").fill("1000")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("[data-field=ticket_limit] .field-wrong")).to_contain_text("100")
        await expect(page.locator("call-result .badge")).to_have_text("invalid arguments")
        await page.get_by_label("ticket_limit").fill("many")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("[data-field=ticket_limit] .field-wrong")).to_have_text("is no number")
        await page.get_by_label("ticket_limit").fill("3")
        await _run(page)
        assert (await _result(page))["success"] is True


@pytest.mark.debian("chromium")
async def test_rows_are_a_table_and_their_numbers_are_exact(look: Look) -> None:
    async with look(address_of_tool("database", "query_database")) as seen:
        page = seen.page
        await page.get_by_role("button", name="Remove from params").click()
        await page.get_by_label("query").fill(
            "SELECT 9007199254740993 AS large, '<b>bold</b>' AS text, NULL AS nothing"
        )
        await _run(page)
        await expect(page.locator("call-result td")).to_have_text(["9007199254740993", "<b>bold</b>", "null"])
        await page.get_by_role("button", name="JSON", exact=True).click()
        await expect(page.locator("call-result .json")).to_contain_text("9007199254740993")


@pytest.mark.debian("chromium")
async def test_what_stands_within_other_things_is_no_wider_than_a_narrow_screen(look: Look) -> None:
    async with look(address_of_tool("database", "get_customer_context"), width=390, height=844) as seen:
        page = seen.page
        await _run(page)
        await expect(page.locator("call-result .facts .facts .facts").first).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        right = "parts => Math.max(...parts.map((part) => part.getBoundingClientRect().right))"
        assert await page.locator("call-result dd").evaluate_all(right) <= 390


@pytest.mark.debian("chromium")
async def test_a_call_is_cancelled_where_it_was_begun(look: Look) -> None:
    async with look(address_of_tool("kafka", "consume_messages")) as seen:
        page = seen.page
        await page.get_by_text("more arguments").click()
        await page.get_by_label("timeout_ms").fill("60000")
        await page.get_by_label("What start is").select_option("earliest or latest")
        await page.locator("[data-field=start] .variant select").select_option("latest")
        await page.get_by_role("button", name="Run", exact=True).click()
        await page.locator(".run").get_by_role("button", name="Cancel").click()
        await expect(page.locator("call-result")).to_contain_text("Cancelled")


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("value", ["12345", 'it\'s "quoted" \\ $HOME `id` é 漢'])
async def test_the_same_call_works_elsewhere(look: Look, stack: Stack, value: str) -> None:
    async with look(address_of_tool("database", "get_customer_context")) as seen:
        page = seen.page
        await page.get_by_label("customer_id").fill(value)
        await _run(page)
        expected = value == "12345"
        shown = page.locator("call-snippets pre")
        texts = {}
        for name in ("curl", "Python", "MCP"):
            await page.get_by_role("button", name=name, exact=True).click()
            texts[name] = await shown.inner_text()
    assert as_json(await _printed("sh", "-c", texts["curl"]))["success"] is expected
    python = await _printed(sys.executable, "-c", texts["Python"])
    assert ("'success': True" in python) is expected
    assert expected or "NotFound" in python
    head, _, body = texts["MCP"].partition("\n\n")
    first, *fields = head.splitlines()
    async with httpx.AsyncClient(timeout=30) as http:
        headers = dict(field.split(": ", 1) for field in fields)
        answer = await http.request(*first.split(" ", 1), content=body.encode(), headers=headers)
    assert answer.json()["result"].get("isError", False) is not expected


async def _printed(*command: str) -> str:
    """Run a program as somebody does who has copied it; return all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return output.decode()
