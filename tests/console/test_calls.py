"""The live feed: calls appear as they end, are filtered and opened, and those that run can be cancelled."""

import asyncio
import re
import time

import httpx
import pytest
from playwright.async_api import Page, expect

from app.guard.principal import EVERYBODY
from app.servers.calls import CallContext
from app.telemetry.recorder import ended_call
from tests.console.conftest import LIVE, Look, Stack
from tests.mcp_servers.statements import GONE_WITHIN, SLOW, until_running
from tests.serving.callers import until


@pytest.mark.debian("chromium")
async def test_a_call_of_somebody_else_shows_at_once_without_its_arguments(look: Look, stack: Stack) -> None:
    async with look("#/calls") as seen:
        secret = "a-customer-nobody-may-read-of"
        answer = await stack.call("database", "get_customer_context", {"customer_id": secret})
        row = seen.page.locator(".feed tbody tr", has_text=answer.headers["x-request-id"][-8:])
        await expect(row).to_be_visible()
        await expect(row).to_contain_text("not found")
        await expect(row).to_contain_text("curl/7.88.1")
        assert secret not in await seen.page.content()
        await row.click()
        details = seen.page.get_by_role("region", name="The call that is opened")
        await expect(details.locator(".log")).to_contain_text(f"request_id={answer.headers['x-request-id']}")
        await expect(details.locator(".facts")).to_contain_text("anonymous")
        await seen.page.keyboard.press("Escape")
        await expect(details).to_be_hidden()
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_a_running_query_is_cancelled_from_the_page_and_gone_from_the_database(look: Look, stack: Stack) -> None:
    async with look("#/calls") as seen, asyncio.TaskGroup() as tasks:
        slow = {"query": SLOW, "timeout_ms": 60_000}
        running = tasks.create_task(stack.call("database", "query_database", slow))
        cancel = seen.page.get_by_role("button", name="Cancel query_database")
        await expect(cancel).to_be_visible()
        await until_running(stack.database, 1)
        await cancel.click()
        await until_running(stack.database, 0, within=GONE_WITHIN)
        answer = await running
        assert answer.json()["success"] is False
        await expect(cancel).to_be_hidden()
        await expect(seen.page.locator(".feed tbody tr", has_text="query_database").first).to_contain_text(
            re.compile("interrupted|cancelled")
        )
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_the_feed_is_filtered_by_any_column(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "list_topics", {}, **{"user-agent": "nightly/1"})
    await stack.call("database", "get_customer_context", {"customer_id": "nobody"}, **{"user-agent": "nightly/2"})
    await stack.call("aws", "s3_list_objects", {"bucket": "switchboard-demo"}, **{"user-agent": "other/1"})
    async with look("#/calls") as seen:
        page = seen.page
        rows = page.locator(".feed tbody tr")
        all_three = {"list_topics", "get_customer_context", "s3_list_objects"}
        for column, text, expected in (
            ("client", "nightly", {"list_topics", "get_customer_context"}),
            ("tool", "list_", {"list_topics", "s3_list_objects"}),
            ("server", "kafka", {"list_topics"}),
            ("outcome", "!ok", {"get_customer_context"}),
            ("outcome", "not found", {"get_customer_context"}),
            ("way in", "rest", all_three),
            ("caller", "anon", all_three),
            ("took", "< 60 s", all_three),
            ("took", "> 60 s", set[str]()),
            ("customer", "12345", set[str]()),
            ("request", "nothing-like-it", set[str]()),
        ):
            await page.get_by_label(f"Only where {column} has").fill(text)
            for tool in expected:
                await expect(rows.filter(has_text=tool).first).to_be_visible()
            if not expected:
                await expect(page.get_by_text("No call fits the filters")).to_be_visible()
            assert all_three.intersection(await rows.locator("a").all_inner_texts()) == expected, (column, text)
            await page.get_by_role("button", name="Clear filters").click()
        await page.get_by_label("Only where client has").fill("other")
        await expect(rows).to_have_count(1)
        async with look(page.url.partition("/#")[2].join(["#", ""])) as other:
            await expect(other.page.locator(".feed tbody tr")).to_have_count(1)


@pytest.mark.debian("chromium")
async def test_a_paused_feed_stands_still_says_how_many_came_and_goes_on(look: Look, stack: Stack) -> None:
    async with look("#/calls") as seen:
        page = seen.page
        await page.get_by_role("button", name="Pause").click()
        answer = await stack.call("kafka", "list_topics", {})
        await expect(page.locator(".feed-told")).to_contain_text("Paused, 1 more since")
        row = page.locator(".feed tbody tr", has_text=answer.headers["x-request-id"][-8:])
        await expect(row).to_have_count(0)
        await page.get_by_role("button", name="Resume").click()
        await expect(row).to_be_visible()


@pytest.mark.debian("chromium")
async def test_rows_stand_still_under_a_pointer(look: Look, stack: Stack) -> None:
    answer = await stack.call("kafka", "list_topics", {})
    async with look("#/calls") as seen:
        page = seen.page
        first = page.locator(".feed tbody tr").first
        await expect(first).to_contain_text(answer.headers["x-request-id"][-8:])
        key = await first.get_attribute("data-key")
        await first.hover()
        await stack.call("kafka", "list_topics", {})
        await expect(page.locator(".feed-told")).to_contain_text("Held while you point at it")
        assert await first.get_attribute("data-key") == key
        await page.mouse.move(5, 5)
        await expect(page.locator(".feed-told")).to_contain_text("Live")


@pytest.mark.debian("chromium")
async def test_rows_stand_still_although_a_call_came_with_the_pointer(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "list_topics", {})
    come = """async () => {
        const { stream } = await import("./console/events.js");
        const body = document.querySelector(".feed tbody");
        const keys = () => [...body.children].map((row) => row.dataset.key).join();
        const before = keys();
        stream.calls.push({ ...stream.calls.at(-1), id: "come" });
        body.dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
        await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
        return before === keys();
    }"""
    async with look("#/calls") as seen:
        await expect(seen.page.locator(".feed tbody tr").first).to_be_visible()
        assert await seen.page.evaluate(come)


@pytest.mark.debian("chromium")
@pytest.mark.parametrize("width", [1280, 390, 320])
async def test_what_is_told_of_the_feed_moves_no_row_and_no_button(look: Look, stack: Stack, width: int) -> None:
    await stack.call("kafka", "list_topics", {})
    async with look("#/calls", width=width) as seen:
        page = seen.page
        row, pause, told = page.locator(".feed tbody tr").first, page.locator(".page-head button").last, ".feed-told"
        await expect(page.get_by_text("Nothing runs longer than a moment.")).to_be_visible()
        await expect(page.locator(told)).to_have_text("Live")
        before = await row.bounding_box(), await pause.bounding_box()
        await page.evaluate(_WORDY)
        await row.hover()
        await expect(page.locator(told)).to_contain_text("Held while you point at it, 1,234 more since · sampled")
        assert (await row.bounding_box(), await pause.bounding_box()) == before


_WORDY = """async () => {
    const { stream } = await import("./console/events.js");
    const more = Array.from({ length: 1234 }, (_, id) => ({ ...stream.calls.at(-1), id: `more ${id}` }));
    const tell = () => stream.dispatchEvent(new CustomEvent("calls", { detail: { calls: more, dropped: 0 } }));
    stream.dropped = 123456;
    document.querySelector(".feed tbody").addEventListener("pointerenter", tell, { once: true });
}"""
"""Has the feed say as much as it ever does, once it is pointed at."""


@pytest.mark.debian("chromium")
async def test_what_begins_to_run_moves_no_row_under_a_pointer(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "list_topics", {})
    async with look("#/calls", width=390, height=844) as seen, asyncio.TaskGroup() as tasks:
        page, row = seen.page, seen.page.locator(".feed tbody tr").first
        await expect(page.get_by_text("Nothing runs longer than a moment.")).to_be_visible()
        await row.hover()
        before = await row.bounding_box()
        slow = {"query": SLOW, "timeout_ms": 60_000}
        running = [tasks.create_task(stack.call("database", "query_database", slow)) for _ in range(3)]
        await until_running(stack.database, 3)
        await expect(page.locator("#live")).to_have_text("Held")
        assert await row.bounding_box() == before
        await page.mouse.move(5, 5)
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator(".running-call")).to_have_count(3)
        for call in running:
            call.cancel()


@pytest.mark.debian("chromium")
async def test_a_running_call_under_a_pointer_keeps_its_place_although_another_ends(look: Look, stack: Stack) -> None:
    slow = {"query": SLOW, "timeout_ms": 60_000}
    async with look("#/calls") as seen, asyncio.TaskGroup() as tasks:
        page = seen.page
        calls, rows = list[asyncio.Task[httpx.Response]](), page.locator(".running-call")
        for number in (1, 2):
            calls.append(tasks.create_task(stack.call("database", "query_database", slow)))
            await expect(rows.locator("button")).to_have_count(number)
        await rows.last.locator("button").hover()
        before, age = await rows.last.bounding_box(), await rows.last.locator(".running-age").inner_text()
        calls[0].cancel()
        await until_running(stack.database, 1)
        await expect(rows.last.locator(".running-age")).not_to_have_text(age)
        await expect(page.locator("#live")).to_have_text("Held")
        assert await rows.last.bounding_box() == before
        await page.mouse.down()
        await page.mouse.up()
        await until_running(stack.database, 0, within=GONE_WITHIN)
        await expect(rows).to_have_count(0)
        assert (await calls[1]).json()["success"] is False


@pytest.mark.debian("chromium")
async def test_rows_stand_still_under_a_finger(look: Look, stack: Stack) -> None:
    answer = await stack.call("kafka", "list_topics", {})
    press = """async kind => {
        const { stream } = await import("./console/events.js");
        const body = document.querySelector(".feed tbody");
        const told = { pointerType: "touch", bubbles: true, buttons: kind === "pointerdown" ? 1 : 0 };
        body.querySelector("a").dispatchEvent(new PointerEvent(kind, told));
        if (told.buttons) stream.calls.push({ ...stream.calls.at(-1), id: "come" });
        stream.dispatchEvent(new CustomEvent("calls", { detail: { calls: stream.calls.slice(-1), dropped: 0 } }));
        await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
        return body.firstElementChild.dataset.key;
    }"""
    async with look("#/calls", width=390, height=844) as seen:
        page = seen.page
        first = page.locator(".feed tbody tr").first
        await expect(first).to_contain_text(answer.headers["x-request-id"][-8:])
        key = await first.get_attribute("data-key")
        assert await page.evaluate(press, "pointerdown") == key
        assert await page.evaluate(press, "pointerup") == key, "the click has yet to come"
        await expect(first).to_have_attribute("data-key", "come")


@pytest.mark.debian("chromium")
async def test_a_flood_is_sampled_and_said_and_the_page_still_answers(look: Look, stack: Stack) -> None:
    async with look("#/calls") as seen:
        page = seen.page
        flood = asyncio.create_task(_flood(stack, 500))
        try:
            await expect(page.locator(".feed-told")).to_contain_text("sampled")
            assert await page.locator(".feed tbody tr").count() <= 100
            await page.get_by_role("button", name="Failures").click()
            await expect(page.locator(".feed tbody tr[data-failed]").first).to_be_visible()
            await page.get_by_role("button", name="Pause").click()
            await expect(page.locator(".feed-told")).to_contain_text("Paused")
        finally:
            flood.cancel()


async def _flood(stack: Stack, a_second: int) -> None:
    """Have the gateway hear of so many calls that have ended, until it is cancelled."""
    activity = stack.served.app.state.activity
    context = CallContext(face="rest", request_id="flood", client="flood/1", principal=EVERYBODY, address="127.0.0.1")
    number = 0
    while True:
        now = time.perf_counter()
        calls = []
        for _ in range(a_second // 20):
            number += 1
            outcome = "ok" if number % 50 else "not_found"
            calls.append(ended_call("database", "query_database", context, now + number * 1e-7, outcome, 1.0))
        activity.calls_ended(calls)
        await asyncio.sleep(1 / 20)


@pytest.mark.debian("chromium")
async def test_a_hidden_tab_holds_no_stream_and_goes_on_when_it_is_seen(look: Look, stack: Stack) -> None:
    gateway = stack.served.app.state.gateway
    async with look("#/calls") as seen:
        page = seen.page
        before = gateway.subscriptions
        assert before >= 1
        await _become(page, hidden=True)
        await expect(page.locator("#live")).to_have_text("Asleep")
        await until(lambda: gateway.subscriptions == before - 1)
        answer = await stack.call("kafka", "list_topics", {})
        await _become(page, hidden=False)
        await page.locator(LIVE).wait_for()
        row = page.locator(".feed tbody tr", has_text=answer.headers["x-request-id"][-8:])
        await expect(row).to_be_visible()


async def _become(page: Page, *, hidden: bool) -> None:
    """Have the page believe that its tab is hidden: no headless browser hides one."""
    await page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )
