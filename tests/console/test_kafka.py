"""Topics, groups and what they have yet to do; a topic's messages appear as they come, whatever they hold."""

import re
from uuid import uuid4

import pytest
from playwright.async_api import expect

from tests.console.conftest import Look, Stack

NASTY = "<img src=x onerror=alert(1)>"


@pytest.mark.debian("chromium")
async def test_topics_and_groups_are_listed_and_opened(look: Look, stack: Stack) -> None:
    await stack.call("kafka", "publish_message", {"topic": "customer-queries", "message": "one"})
    group = {"topic": "customer-queries", "group_id": "readers", "max_messages": 1}
    assert (await stack.call("kafka", "consume_messages", group)).status_code == 200
    async with look("#/kafka") as seen:
        page = seen.page
        await expect(page.get_by_role("heading", name="Topics")).to_be_visible()
        await expect(page.locator(".page-head")).to_contain_text("1 broker")
        await page.get_by_role("link", name="readers", exact=True).click()
        await expect(page.get_by_role("heading", name="readers")).to_be_visible()
        await expect(page.locator("kafka-page .facts")).to_contain_text("Messages yet to acknowledge")
        await page.get_by_role("link", name="All topics and groups").click()
        await page.get_by_role("link", name="customer-queries").click()
        await expect(page.locator("kafka-page .facts")).to_contain_text(re.compile(r"Messages\d+"))
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_a_message_appears_as_it_comes_and_is_text_whatever_it_holds(look: Look, stack: Stack) -> None:
    topic = f"followed-{uuid4().hex}"
    assert (await stack.call("kafka", "create_topic", {"topic": topic})).status_code == 200

    async def publish(message: object) -> None:
        sent = {"topic": topic, "message": message, "key": NASTY, "headers": {NASTY: NASTY}}
        assert (await stack.call("kafka", "publish_message", sent)).status_code == 200

    await publish("before")
    async with look(f"#/kafka/topic/{topic}") as seen:
        page = seen.page
        messages = page.locator(".messages li")
        await expect(messages.first).to_contain_text("before")
        await publish({"text": NASTY, "id": 9007199254740993, "onclick": "alert(2)", "style": "color:red"})
        await expect(messages).to_have_count(2)
        await expect(messages.first.locator(".message-value")).to_contain_text('"id":9007199254740993')
        await messages.first.locator("summary").click()
        await expect(messages.first.locator("pre")).to_contain_text(NASTY)
        await expect(messages.first.locator("pre")).to_contain_text("9007199254740993")
        assert await page.locator(".messages :is(img, [style], [onclick])").count() == 0
        await page.get_by_role("button", name="Pause").click()
        count = await messages.count()
        await publish("while it is paused")
        await expect(page.get_by_role("status").filter(has_text="Paused")).to_contain_text("1 wait")
        assert await messages.count() == count
        await page.get_by_role("button", name="Go on").click()
        await expect(messages.first).to_contain_text("while it is paused")
        assert seen.complaints == []


@pytest.mark.debian("chromium")
async def test_a_topic_that_there_is_not_is_said_in_words(look: Look) -> None:
    async with look("#/kafka/topic/nowhere") as seen:
        await expect(seen.page.locator(".notice").first).to_contain_text("nowhere")


@pytest.mark.debian("chromium")
async def test_a_message_under_a_pointer_keeps_its_place_although_others_come(look: Look, stack: Stack) -> None:
    topic = f"aimed-{uuid4().hex}"
    assert (await stack.call("kafka", "create_topic", {"topic": topic})).status_code == 200
    await stack.call("kafka", "publish_message", {"topic": topic, "message": "first"})
    async with look(f"#/kafka/topic/{topic}", width=390, height=844) as seen:
        page, messages = seen.page, seen.page.locator(".messages li")
        await messages.first.locator("summary").hover()
        before = await messages.first.bounding_box()
        await stack.call("kafka", "publish_message", {"topic": topic, "message": "second"})
        await expect(page.locator("kafka-page [role=status]")).to_contain_text("1 wait")
        assert await messages.first.bounding_box() == before
        await page.mouse.down()
        await page.mouse.up()
        await expect(page.locator(".messages details[open]")).to_contain_text("first")
        await expect(messages.first).to_contain_text("second")
