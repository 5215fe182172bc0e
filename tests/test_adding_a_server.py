"""The guide `docs/adding-a-server.md`: its code, as printed, is a working server on every face."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from tests.fixtures.gateway import Call, Served, serve

GUIDE = Path(__file__).parent.parent / "docs" / "adding-a-server.md"


def _code_of(guide: Path) -> dict[str, Any]:
    blocks = re.findall(r"^```python\n(.*?)^```", guide.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n".join(blocks), str(guide), "exec"), names)
    return names


@pytest.fixture(scope="module")
async def gateway() -> AsyncGenerator[Served]:
    names = _code_of(GUIDE)
    async with serve(create_app([names["ParcelMCPServer"], names["scripted"]])) as served:
        yield served


async def test_the_guides_tool_answers(call: Call) -> None:
    answer = await call("parcel", "track_parcel", {"number": "PX2"})
    assert answer == {"success": True, "number": "PX2", "place": "your doorstep", "delivered": True}


async def test_the_guides_tool_refuses_as_the_guide_says(call: Call) -> None:
    problem = await call("parcel", "track_parcel", {"number": 2})
    assert problem["detail"] == 'number: Input should be a valid string; put it in quotes, such as "PX1"'
    assert (await call("parcel", "track_parcel", {"number": "PX9"}))["code"] == "not_found"


async def test_the_guides_dynamic_tool_is_checked_and_called(call: Call) -> None:
    answer = await call("scripted", "run_script", {"script": "hello"})
    assert answer == {"success": True, "answer": "run_script was called with ['script']"}
    assert (await call("scripted", "run_script", {}))["code"] == "invalid_arguments"


async def test_the_guides_resource_is_read(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        read = await http.get("/mcp/parcel/resources/read", params={"uri": "parcel://PX1"})
    assert read.json()["place"] == "Hamburg"
