"""The pages for people, as a browser shows them and as other callers get them."""

import re
from collections.abc import AsyncGenerator
from urllib.parse import unquote, urljoin

import httpx
import pytest
from playwright.async_api import Browser, expect

from app.client_configs import LaunchedByClients
from app.main import create_app
from app.settings import Settings
from tests.clock import ClockMCPServer
from tests.fixtures.browser import visit
from tests.fixtures.gateway import Served, serve

SIZES = [(1280, 800), (390, 844)]
REFERENCES = ["/docs", "/redoc"]
PAGES = ["/", *REFERENCES]
"""Of these the first one has its own tests, in `tests/console`."""


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    launched = LaunchedByClients(["/opt/<switch> board/switchboard"], None)
    async with serve(create_app([ClockMCPServer], Settings(), launched=launched)) as served:
        yield served


@pytest.fixture
async def http(gateway: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("path", REFERENCES)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_page_loads_nothing_from_elsewhere_and_complains_of_nothing(
    gateway: Served, browser: Browser, path: str, width: int, height: int, dark: bool
) -> None:
    async with visit(browser, gateway.url + path, width=width, height=height, dark=dark) as seen:
        assert seen.complaints == []


@pytest.mark.debian("chromium")
@pytest.mark.parametrize(("path", "operations"), [("/docs", ".opblock"), ("/redoc", "[data-section-id^='tag/'] h2")])
async def test_the_documentation_shows_every_operation(
    gateway: Served, browser: Browser, http: httpx.AsyncClient, path: str, operations: str
) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    expected = sum(len(methods) for methods in paths.values())
    async with visit(browser, gateway.url + path) as seen:
        shown = seen.page.locator(operations)
        await expect(shown.first).to_be_visible()
        assert await shown.count() >= expected


async def test_the_tools_come_first_in_the_documentation(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert [tag["name"] for tag in document["tags"]] == ["clock", "servers", "batch", "health"]
    used = {tag for methods in document["paths"].values() for method in methods.values() for tag in method["tags"]}
    assert used == {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])


@pytest.mark.debian("chromium")
async def test_a_tool_is_called_from_the_documentation(gateway: Served, browser: Browser) -> None:
    async with visit(browser, gateway.url + "/docs") as seen:
        operation = seen.page.locator(".opblock", has_text=re.compile("tools/get_time"))
        await operation.locator("button.opblock-summary-control").click()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        await expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_have_text(
            re.compile("200")
        )
        assert seen.complaints == []


async def test_pages_behind_a_prefix_name_their_files_with_it() -> None:
    app = create_app([ClockMCPServer], Settings(root_path="/gw"))
    async with serve(app) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        for path in PAGES:
            page = (await http.get(path, headers={"accept": "text/html"})).text
            addresses = re.findall(r'(?:src|href|data-root|spec-url)="([^"#][^"]*)"', page)
            assert addresses
            assert all(address.startswith("/gw") for address in addresses)
        assert (await http.get("/console/console.css")).status_code == 200
        told = (await http.get("/console/nothing.css")).json()["detail"]
        assert told == "Nothing is at /gw/console/nothing.css. GET /gw/mcp lists the servers, /gw/docs the routes."


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_may_run_only_what_this_gateway_serves(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, headers={"accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "script-src 'self' " not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)", answer.text)


async def test_the_home_page_is_the_listing_for_programs(http: httpx.AsyncClient) -> None:
    for accept in ("application/json", "*/*"):
        answer = await http.get("/", headers={"accept": accept})
        assert answer.json() == (await http.get("/mcp")).json()


async def test_what_is_copied_names_the_address_that_was_asked(http: httpx.AsyncClient) -> None:
    answer = await http.get("/console/connect", headers={"host": "localhost:1234"})
    texts = {config["client"]: config["text"] for config in answer.json()["configs"]}
    assert texts["claude-code"] == "claude mcp add --transport http switchboard http://localhost:1234/mcp"
    assert "/opt/<switch> board/switchboard" in texts["claude-desktop"]
    assert "http://localhost:1234/mcp/clock/tools/get_" in texts["curl"]


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("folder", ["/guides", "/console/guides"])
async def test_a_browser_shows_a_guide_as_a_page(gateway: Served, browser: Browser, folder: str) -> None:
    async with visit(browser, f"{gateway.url}{folder}/limits.md") as seen:
        await expect(seen.page.locator("h1", has_text="Limits")).to_be_visible()
        await expect(seen.page.locator("td", has_text="Calls in one batch")).to_be_visible()
        assert "| what |" not in await seen.page.locator("body").inner_text()
        assert await seen.page.title() == "Switchboard: Limits"
        assert seen.complaints == []


async def links_of(http: httpx.AsyncClient, guide: str) -> list[str]:
    """Return where a guide's page leads to, on this gateway."""
    text: str = (await http.get(f"/guides/{guide}?openapi")).json()["info"]["description"]
    return [link for link in re.findall(r"\]\(([^()\s]+)\)", text) if "://" not in link]


async def test_whatever_guides_show_and_lead_to_is_there(http: httpx.AsyncClient) -> None:
    guides = [guide["name"] for guide in (await http.get("/console/connect")).json()["guides"]]
    assert "operations.md" in guides
    assert not any("/" in name for name in guides)
    led_to: set[str] = set()
    for guide in (*guides, "adr/0005-one-pipeline.md"):
        for link in await links_of(http, guide):
            for folder in ("/guides/", "/console/guides/"):
                assert (await http.get(urljoin(folder + guide, link))).status_code == 200, (guide, link)
            led_to.add(link)
    assert {"pictures/overview.webp", "adr/0005-one-pipeline.md", "operations/alerts.yml"} <= led_to
    assert not any(link.startswith("../.") for link in led_to), "it is not served"


@pytest.mark.debian("chromium")
async def test_a_guide_leads_to_the_headings_that_it_names(
    gateway: Served, browser: Browser, http: httpx.AsyncClient
) -> None:
    named: dict[str, set[str]] = {}
    for guide in ("architecture.md", "search.md", "security.md", "policy.md", "query-database.md", "aws.md"):
        for link in await links_of(http, guide):
            path, _, anchor = link.partition("#")
            if anchor:
                named.setdefault(path or guide, set()).add(unquote(anchor))
    assert len(named) > 3
    for guide, anchors in named.items():
        async with visit(browser, f"{gateway.url}/guides/{guide}") as seen:
            for anchor in sorted(anchors):
                await expect(seen.page.locator(f'[id="{anchor}"] h2').first).to_be_attached()


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_guide_shows_its_pictures_and_is_dark_where_the_system_is(
    gateway: Served, browser: Browser, dark: bool
) -> None:
    async with visit(browser, f"{gateway.url}/guides/console.md", dark=dark) as seen:
        pictures = seen.page.locator("img[src^=pictures]")
        await expect(pictures.first).to_be_visible()
        assert await pictures.evaluate_all("all => all.every(each => each.complete && each.naturalWidth > 0)")
        for part in ("body", "img"):
            shown = await seen.page.locator(part).first.evaluate("each => getComputedStyle(each).filter")
            assert ("invert" in shown) is dark
        assert seen.complaints == []


async def test_the_guides_are_read_as_text_and_nothing_else_is(http: httpx.AsyncClient) -> None:
    guide = await http.get("/guides/architecture.md")
    assert guide.headers["content-type"].startswith("text/plain")
    assert guide.text.startswith("# Architecture")
    for path in ("/guides/README.md", "/guides/..%2f.env.example", "/console/..%2fcli%2fmain.py", "/console/nothing"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_favicon_is_there(http: httpx.AsyncClient) -> None:
    assert (await http.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"
