"""Whether a page can be used by everybody, and what it looks like."""

import base64
import os
from functools import cache
from pathlib import Path

from playwright.async_api import Page

from tests.fixtures.node import install

_PICTURES = os.environ.get("CONSOLE_PICTURES")
"""Where pictures are kept, of which docs/console.md shows some; a folder of the test run if left out."""
_SERIOUS = ("serious", "critical")


async def assert_usable(page: Page, name: str, folder: Path) -> None:
    """Fail where a page is wider than its window, or axe finds what keeps somebody from using it.

    Args:
        page: shown as it is to be looked at.
        name: of its picture.
        folder: for the picture, unless `CONSOLE_PICTURES` names another one.
    """
    # What comes in is paler for a moment than it is to be read.
    await page.emulate_media(reduced_motion="reduce")
    (Path(_PICTURES or folder) / f"{name}.webp").write_bytes(await _picture(page))
    assert page.viewport_size is not None
    assert await page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    await page.evaluate(_axe())
    found = await page.evaluate("async () => (await axe.run()).violations")
    serious = [rule for rule in found if rule["impact"] in _SERIOUS]
    told = [(rule["id"], [(node["target"], node["failureSummary"]) for node in rule["nodes"][:3]]) for rule in serious]
    assert told == []


async def _picture(page: Page) -> bytes:
    """Return what the window shows, as small as documents want it: Playwright itself knows no WebP."""
    session = await page.context.new_cdp_session(page)
    taken: dict[str, str] = await session.send("Page.captureScreenshot", {"format": "webp", "quality": 50})
    return base64.b64decode(taken["data"])


@cache
def _axe() -> str:
    return (install(Path(__file__).parent) / "axe-core" / "axe.min.js").read_text()
