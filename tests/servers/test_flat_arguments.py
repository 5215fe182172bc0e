"""Arguments that are all texts, integers and booleans are read once, and mean what they mean to the closer look."""

from dataclasses import replace
from itertools import product
from typing import Annotated

import pytest
from pydantic import Field

from app import exact_json
from app.errors import GatewayError
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.declaring import tool
from app.servers.tools import Tool


class Found(Result):
    name: str


class FlatMCPServer(BaseMCPServer):
    """Finds things."""

    @tool(read_only=True)
    async def find(
        self,
        name: Annotated[str, Field(min_length=1)] = "x",
        limit: int = 10,
        exact: bool = False,
        note: str | None = None,
    ) -> Found:
        """Find something."""
        return Found(name=name)

    @tool(read_only=True)
    async def weigh(self, name: str, weight: float) -> Found:
        """Find something of a weight."""
        return Found(name=name)


FIND = FlatMCPServer.tools["find"]
VALUES = [
    '"12345"', '"a:b"', r'"\ud800"', r'"é\u00e9 漢 \\ \""', '""', "5", "-0", "-0.0", "0", "-5", "5.0", "1e2", '"5"',
    "123456789012345678901234567890", "NaN", "true", '"true"', "null", "[]", '{"a":1,"a":2}', "1e999",
]  # fmt: skip
KEYS = ['"name"', '"limit"', '"exact"', '"note"', r'"n\u0061me"', '"other"', '""']
TEXTS = [
    "", "{}", "[]", "null", " {} ", "{", '\ufeff{"name":"x"}', '{"name":"x"}}', '{"name":"x",}', "{'name':1}",
    *(f"{{{key}:{value}}}" for key, value in product(KEYS, VALUES)),
    *(f"{{{one}:{value}, {other} : 7}}" for one, other, value in product(KEYS, KEYS, VALUES)),
]  # fmt: skip


def outcome(by: Tool, text: bytes) -> object:
    try:
        return by.parse(text)
    except GatewayError as error:
        return error.problem()


def test_a_short_look_has_the_verdict_of_the_long_one() -> None:
    closely = replace(FIND)
    vars(closely)["_is_flat"] = False
    for text in TEXTS:
        assert outcome(FIND, text.encode()) == outcome(closely, text.encode()), text


@pytest.mark.parametrize(("by", "text", "read"), [
    (FIND, b'{"name": "x", "limit": 5}', 0),
    (FIND, b'{"name": "a:b"}', 1),
    (FlatMCPServer.tools["weigh"], b'{"name": "x", "weight": 0.5}', 1),
])  # fmt: skip
def test_only_what_could_be_lost_is_looked_at_again(
    by: Tool, text: bytes, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[bytes] = []

    def note(given: bytes) -> object:
        texts.append(given)
        return exact_json.read(given)

    monkeypatch.setattr("app.servers.tools.read", note)
    by.parse(text)
    assert len(texts) == read
