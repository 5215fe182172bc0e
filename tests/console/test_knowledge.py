"""A search is tried as an agent asks, and shows what was found, how well it fits and why."""

import pytest
from playwright.async_api import expect

from tests.console.conftest import Look


@pytest.mark.debian("chromium")
async def test_a_search_shows_scores_the_words_that_were_found_and_the_article(look: Look) -> None:
    async with look("#/knowledge") as seen:
        page = seen.page
        await page.get_by_label("Question").fill("how do i reset my pasword")
        await page.get_by_label("At most").fill("3")
        await page.keyboard.press("Enter")
        hits = page.locator(".hit")
        await expect(hits).to_have_count(3)
        await expect(hits.first).to_contain_text("Reset or change your password")
        await expect(hits.first.locator("mark").first).to_have_text("password")
        await expect(hits.first.locator(".why")).to_contain_text("Score")
        await expect(hits.first.locator(".why")).to_contain_text("%")
        await hits.first.get_by_text("The whole article").click()
        await expect(hits.first.locator("pre")).to_contain_text("Open the sign-in page")
        assert seen.complaints == []  # to Chromium it is one that a question is refused, as the next is
        await page.get_by_label("Language").fill("xx")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("knowledge-page")).to_contain_text("there are articles in")


@pytest.mark.debian("chromium")
async def test_how_an_article_was_found_is_shown_where_the_answer_says_it(look: Look) -> None:
    nasty = "<img src=x onerror=alert(1)>" + 300 * "W"
    hit = {"id": 1, "slug": "s", "title": nasty, "score": 0.031, "fit": 0.2, "snippet": f"**{nasty}**", "tags": [nasty]}
    told = {**hit, "language": "en", "matched_by": ["words", "meaning"], "similarity": 0.8123}
    answer = {"success": True, "articles": [told], "total": 1, "limit": 5, "offset": 0, "mode": "semantic"}
    async with look("#/knowledge") as seen:
        page = seen.page
        await page.route("**/console/tools/database/search_knowledge_base", lambda route: route.fulfill(json=answer))
        await page.get_by_role("button", name="Search").click()
        hit_shown = page.locator(".hit")
        await expect(hit_shown.locator(".badge")).to_have_text(["words", "meaning", "hardly answers it"])
        await expect(hit_shown.locator("h2")).to_have_text(nasty)
        await expect(hit_shown.locator(".why")).to_contain_text("0.812")
        summary = page.get_by_role("status").filter(has_text="1 article")
        await expect(summary).to_contain_text("searched by words and meaning · none of them answers it well")
        assert await page.locator(".hit img").count() == 0
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
