"""Signs that are not seen, or turn round what is beside them, stand on the pages as escapes and deceive nobody."""

import json
from uuid import uuid4

import pytest
from playwright.async_api import Page, expect

from tests.console.conftest import Look, Stack, address_of_tool

TURNED, SPLIT, CONTROL = "invoice\u202egpj.exe", "nor\u200bth", "red\x1b[31m\x9b2J"
SMUGGLED = "hi\U000e0041\u2066\u2028\ufeff"
NASTY = f"{TURNED} {SPLIT} {CONTROL} {SMUGGLED}"
SHOWN = r"invoice\u202egpj.exe nor\u200bth red\u001b[31m\u009b2J hi\udb40\udc41\u2066\u2028\ufeff"
FINE = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f4bb \u2764\ufe0f שלום"
"""Persian, a sign of two joined ones, one in its coloured form, Hebrew: how people write."""
_UNSEEN = r"""() => {
    const found = [];
    const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060-\u2069\ufeff]|\u{e0041}/u;
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) if (unseen.test(texts.currentNode.data)) found.push(texts.currentNode.data);
    for (const element of document.querySelectorAll("[title], [aria-label]"))
        if (unseen.test(element.title + element.ariaLabel)) found.push(element.outerHTML);
    return found;
}"""


async def _assert_plain(page: Page) -> None:
    assert await page.evaluate(_UNSEEN) == []


@pytest.mark.debian("chromium")
async def test_an_article_deceives_nobody_and_scripts_are_shown_as_they_are_written(look: Look) -> None:
    hit = {"id": 1, "slug": "s", "title": NASTY, "score": 0.03, "snippet": f"**{NASTY}**", "tags": [NASTY, FINE]}
    answer = {"success": True, "articles": [{**hit, "language": "en", "why": {NASTY: NASTY}}], "total": 1}
    async with look("#/knowledge") as seen:
        page = seen.page
        await page.route("**/console/tools/database/search_knowledge_base", lambda route: route.fulfill(json=answer))
        body = {"knowledge_article": {"body": f"{NASTY}\n{FINE}"}}
        await page.route("**/console/resources/read?*", lambda route: route.fulfill(json=body))
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator(".hit h2")).to_have_text(SHOWN)
        await expect(page.locator(".hit mark")).to_have_text(SHOWN)
        await page.get_by_text("The whole article").click()
        await expect(page.locator("pre.article")).to_have_text(f"{SHOWN}\n{FINE}")
        await expect(page.locator(".more bdi").last).to_have_text(FINE)
        await _assert_plain(page)


@pytest.mark.debian("chromium")
async def test_a_message_and_its_key_deceive_nobody(look: Look, stack: Stack) -> None:
    topic = f"turned-{uuid4().hex}"
    assert (await stack.call("kafka", "create_topic", {"topic": topic})).status_code == 200
    sent = {"topic": topic, "message": {NASTY: NASTY}, "key": NASTY, "headers": {"from": NASTY}}
    assert (await stack.call("kafka", "publish_message", sent)).status_code == 200
    async with look(f"#/kafka/topic/{topic}") as seen:
        message = seen.page.locator(".messages li")
        await expect(message.locator(".message-key")).to_have_text(SHOWN)
        await message.locator("summary").click()
        await expect(message.locator("pre")).to_contain_text(r"invoice\u202egpj.exe")
        await _assert_plain(seen.page)


@pytest.mark.debian("chromium")
async def test_a_result_and_the_same_call_elsewhere_deceive_nobody(look: Look) -> None:
    async with look(address_of_tool("database", "query_database")) as seen:
        page = seen.page
        query = f"SELECT 'a' || chr(8238) || 'b' AS {chr(34)}n\u202en{chr(34)}, '{TURNED}' AS turned"
        await page.get_by_role("button", name="Edit as JSON").click()
        await page.get_by_label("The arguments as JSON").fill(json.dumps({"query": query}))
        await expect(page.locator("call-snippets pre")).to_contain_text(r"invoice\u202egpj.exe")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("call-result .badge")).to_have_text("ok")
        await expect(page.locator("call-result tbody td").first).to_have_text(r"a\u202eb")
        await expect(page.locator("call-result thead th").first).to_have_text(r"n\u202en")
        await _assert_plain(page)


@pytest.mark.debian("chromium")
async def test_what_others_wrote_from_right_to_left_turns_round_nothing_beside_it(look: Look) -> None:
    """Where a name in Hebrew is followed by a time, the time stays behind it."""
    async with look() as seen:
        beside = await seen.page.evaluate("""async () => {
            const { h, dotted } = await import("./console/dom.js");
            const line = h("p", ...dotted(["שלום", "12", "אבג", "34"]));
            document.querySelector("main").append(line);
            const lefts = [...line.children].map((part) => part.getBoundingClientRect().left);
            return lefts.every((left, at) => at === 0 || left > lefts[at - 1]);
        }""")
        assert beside
