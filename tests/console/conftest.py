"""The gateway on the whole local stack with its demo data, and a browser that looks at its console."""

import io
import json
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest
from playwright.async_api import Browser, Page
from pydantic_settings import BaseSettings

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.postgres import LocalPostgres
from app.logs import BackgroundHandler, TextFormatter
from app.main import create_app
from app.services.kafka.demo import seed as seed_kafka
from app.settings import Settings
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.browser import Visit, visit
from tests.fixtures.gateway import Served, serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.postgres import TestDatabase, cloned_database

LIVE = '#live[data-state="live"]'
"""What a page shows that hears from the gateway."""


@dataclass(frozen=True)
class Stack:
    """A gateway and what is behind it."""

    served: Served
    database: TestDatabase
    settings: Sequence[BaseSettings]
    """Of the backends."""

    async def call(self, server: str, tool: str, arguments: dict[str, Any], **headers: str) -> httpx.Response:
        """Call a tool as somebody else than the browser does."""
        named = {"user-agent": "curl/7.88.1", **headers}
        async with httpx.AsyncClient(base_url=self.served.url, timeout=60, headers=named) as http:
            return await http.post(f"/mcp/{server}/tools/{tool}", json=arguments)


class Look(Protocol):
    """Opens a page of the console and waits until it shows what there is."""

    def __call__(
        self, address: str = "", *, width: int = 1280, height: int = 800, dark: bool = False
    ) -> AbstractAsyncContextManager[Visit]: ...


@pytest.fixture(scope="module")
async def stack(
    postgres_server: LocalPostgres, demo_template: str, kafka_broker: LocalKafka, aws_stack: LocalAws
) -> AsyncGenerator[Stack]:
    """The whole gateway, of this file alone."""
    kafka = settings_for_kafka(kafka_broker)
    await seed_kafka(kafka)
    async with cloned_database(postgres_server, demo_template) as database:
        settings = [database.settings, kafka, settings_for_aws(aws_stack)]
        with _log_kept():
            async with serve(create_app(None, Settings(), settings)) as served:
                yield Stack(served, database, settings)


@contextmanager
def _log_kept() -> Generator[None]:
    """Have the log written as in production, though to nowhere."""
    handler, root = BackgroundHandler(io.StringIO(), TextFormatter()), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@pytest.fixture
def look(browser: Browser, stack: Stack) -> Look:
    """Look at the console of this file's gateway."""
    return looking_at(browser, stack.served)


def looking_at(browser: Browser, served: Served, until: str = LIVE) -> Look:
    """Return what opens pages of a gateway's console."""

    @asynccontextmanager
    async def open_page(
        address: str = "", *, width: int = 1280, height: int = 800, dark: bool = False
    ) -> AsyncGenerator[Visit]:
        url = f"{served.url}/{address}"
        async with visit(browser, url, width=width, height=height, dark=dark, until=until) as seen:
            yield seen

    return open_page


async def sign_in(page: Page, key: str) -> None:
    """Show a key to the page that asks for one, and wait until it shows what there is."""
    await page.get_by_label("Key", exact=True).fill(key)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.locator(LIVE).wait_for()


def address_of_tool(server: str, tool: str) -> str:
    """Return where a tool's form is."""
    return f"#/tools/tool/{server}/{tool}"


def as_json(text: str | None) -> Any:
    """Parse what a page shows."""
    assert text is not None
    return json.loads(text)
