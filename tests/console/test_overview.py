"""The overview says whether all is well, what is slow and what fails, within moments of when it begins."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from app.guard.principal import EVERYBODY
from app.local.process import free_port
from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.servers.calls import CallContext
from app.settings import Settings
from app.telemetry.recorder import ended_call
from tests.clock import ClockMCPServer
from tests.console.conftest import Look, Stack, looking_at
from tests.console.usable import assert_usable
from tests.fixtures.gateway import serve
from tests.fixtures.kafka import RunBroker, settings_for_kafka


@pytest.mark.debian("chromium")
async def test_a_backend_that_dies_turns_its_card_red_with_the_reason_and_green_when_it_is_back(
    browser: Browser, run_broker: RunBroker, tmp_path: Path
) -> None:
    port = free_port()
    kinds = [ClockMCPServer, KafkaMCPServer]
    settings = settings_for_kafka(f"127.0.0.1:{port}", request_timeout_ms=1_000)
    async with serve(create_app(kinds, Settings(), [settings])) as served:
        look = looking_at(browser, served)
        async with run_broker(tmp_path / "kafka", port=port), look() as seen:
            card = seen.page.locator("[data-server=kafka]")
            await expect(card).to_have_attribute("data-state", "ready")
            green = await _edge(card)
        async with look() as seen:
            page = seen.page
            card = page.locator("[data-server=kafka]")
            await expect(card).to_have_attribute("data-state", "down")
            await expect(card.locator(".reason")).to_have_text(re.compile("Kafka"))
            await expect(page.locator("h1")).to_have_text("Kafka does not answer")
            await expect(page.locator("[data-server=clock]")).to_have_attribute("data-state", "ready")
            assert await _edge(card) != green
            await assert_usable(page, "overview-down", tmp_path)
            async with run_broker(tmp_path / "kafka", port=port):
                await expect(card).to_have_attribute("data-state", "ready")
                await expect(card.locator(".reason")).to_be_hidden()
                await expect(page.locator("h1")).to_have_text("All is well")
                assert await _edge(card) == green


async def _edge(card: "object") -> str:
    return str(await card.evaluate("card => getComputedStyle(card).borderLeftColor"))  # type: ignore[attr-defined]


@pytest.mark.debian("chromium")
async def test_what_is_slow_and_what_fails_is_named_and_leads_to_its_calls(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "consume_messages", {"topic": "agent-responses", "start": "latest", "timeout_ms": 2_000})
    await stack.call("database", "get_customer_context", {"customer_id": "nobody"})
    async with look() as seen:
        page = seen.page
        slow = page.locator("section.card", has=page.get_by_role("heading", name=re.compile("Slowest"))).locator("li")
        await expect(slow.first).to_contain_text("consume_messages")
        fails = page.locator("section.card", has=page.get_by_role("heading", name=re.compile("Failing"))).locator("li")
        await expect(fails.first).to_contain_text("mostly not found")
        await fails.first.get_by_role("link").click()
        rows = page.locator(".feed tbody tr")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("get_customer_context")
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_what_is_pointed_at_keeps_its_place_while_figures_go_on(look: Look, stack: Stack) -> None:
    activity = stack.served.app.state.activity
    context = CallContext(face="rest", request_id="-", client="-", principal=EVERYBODY, address="127.0.0.1")
    activity.calls_ended([ended_call("kafka", "list_topics", context, 0.0, "ok", 20_000.0)])
    async with look(width=390, height=844) as seen:
        page = seen.page
        links = page.locator("section.card", has=page.get_by_role("heading", name=re.compile("Slowest"))).locator("a")
        await expect(links.first).to_have_text("list_topics")
        await links.first.hover()
        before = await links.first.bounding_box()
        activity.calls_ended([ended_call("aws", "s3_list_objects", context, 1.0, "internal_error", 40_000.0)] * 50)
        await expect(page.locator("#live")).to_have_text("Held")
        await expect(page.locator("time-chart[data-name='Failed calls']")).to_have_attribute(
            "aria-label", re.compile(r"now failed [1-9]")
        )
        assert await links.first.bounding_box() == before
        await page.mouse.move(5, 5)
        await expect(links.first).to_have_text("s3_list_objects")


@pytest.mark.debian("chromium")
async def test_what_has_the_focus_keeps_it_although_it_is_ranked_elsewhere(look: Look, stack: Stack) -> None:
    activity = stack.served.app.state.activity
    context = CallContext(face="rest", request_id="-", client="-", principal=EVERYBODY, address="127.0.0.1")
    slower, slow = (
        ended_call("kafka", "list_topics", context, 2.0, "ok", 70_000.0),
        ended_call("aws", "s3_upload_file", context, 3.0, "ok", 60_000.0),
    )
    activity.calls_ended([slower, slow])
    async with look() as seen:
        links = seen.page.locator("section.card", has_text="Slowest").locator("a")
        await expect(links.first).to_have_text("list_topics")
        await links.filter(has_text="s3_upload_file").focus()
        activity.calls_ended([ended_call("aws", "s3_upload_file", context, 4.0, "ok", 80_000.0)])
        await expect(links.first).to_have_text("s3_upload_file")
        await expect(links.first).to_be_focused()


@pytest.mark.debian("chromium")
async def test_the_charts_tell_their_values_in_words_and_by_arrow_keys(look: Look, stack: Stack) -> None:
    async with look() as seen:
        chart = seen.page.locator("time-chart").first
        await expect(chart).to_have_attribute("aria-label", re.compile(r"Calls a second: now calls \d"))
        await chart.focus()
        await seen.page.keyboard.press("ArrowLeft")
        await expect(chart.locator(".chart-values")).to_have_text(re.compile(r"^\d\d:\d\d:\d0 .*calls \d"))


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("width", [320, 390])
async def test_a_bar_that_says_more_moves_nothing(look: Look, width: int) -> None:
    async with look("#/tools", width=width, height=844) as seen:
        page = seen.page
        await page.locator("#signout").evaluate("button => (button.hidden = false)")
        before = await page.locator("main").bounding_box()
        for words in ("Connecting …", "No connection", "Not allowed"):
            await page.locator("#live").evaluate("(live, words) => (live.textContent = words)", words)
            assert await page.locator("main").bounding_box() == before, words


@pytest.mark.debian("chromium")
async def test_where_nothing_is_configured_the_page_says_what_to_set(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    async with (
        serve(create_app(None, Settings())) as served,
        looking_at(browser, served)(width=390, height=844) as seen,
    ):
        page = seen.page
        await expect(page.locator("h1")).to_have_text("Database, Kafka and AWS are not configured")
        await expect(page.locator(".verdict")).to_contain_text("The cards say what to set.")
        for variable in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "AWS_REGION"):
            await expect(page.locator(".server .reason", has_text=variable)).to_be_visible()
        await page.get_by_role("link", name="Kafka", exact=True).click()
        await expect(page.locator("kafka-page .notice")).to_contain_text("KAFKA_BOOTSTRAP_SERVERS is not set")
        await page.get_by_role("link", name="Calls", exact=True).click()
        call = page.locator(".feed tbody tr", has_text="list_topics").first
        await expect(call.locator(".column-operation a")).to_be_visible()
        cut = "link => link.parentElement.scrollWidth > link.parentElement.clientWidth"
        assert not await call.locator(".column-operation a").evaluate(cut)
        await assert_usable(page, "calls-unconfigured-narrow", tmp_path)


@pytest.mark.debian("chromium")
async def test_nothing_is_said_of_calls_before_anything_is_known(look: Look) -> None:
    async with look() as seen:
        page = seen.page
        await expect(page.get_by_text("Slowest")).to_be_visible()
        await page.route("**/console/events", lambda _: None)  # so that no answer ever comes
        await page.reload()
        await expect(page.locator("h1")).to_have_text("Asking the gateway …")
        await expect(page.get_by_text(re.compile("Nothing has failed|Nothing runs|No calls")).first).to_be_hidden()
        await page.get_by_role("link", name="Calls", exact=True).click()
        await expect(page.get_by_role("heading", name="Calls")).to_be_visible()
        for claim in ("No calls yet", "Nothing runs longer"):
            await expect(page.get_by_text(claim)).to_be_hidden()


@pytest.mark.debian("chromium")
async def test_a_gateway_that_stops_is_said_and_found_again_when_it_is_back(browser: Browser) -> None:
    async with serve(create_app([ClockMCPServer], Settings())) as served:
        look = looking_at(browser, served)
        async with look() as seen:
            page = seen.page
            await expect(page.locator("h1")).to_have_text("All is well")
            # The browser's own network ends, which is the same to the page.
            await page.context.set_offline(True)
            await page.evaluate("import('./console/events.js').then(({ stream }) => stream.restart())")
            await expect(page.locator("#live")).to_have_text("No connection")
            await expect(page.locator("h1")).to_have_text("The gateway can't be watched")
            await expect(page.locator(".verdict")).to_contain_text("Shown is what was known at")
            await page.context.set_offline(False)
            await expect(page.locator("h1")).to_have_text("All is well")
