"""A server that says what reached it; over standard input and output as `python -m tests.faces.echo`."""

import asyncio
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.faces.stdio import serve_stdio
from app.gateway import Gateway
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import tool
from app.servers.dynamic import DynamicTool
from app.settings import Settings


class Echo(Result):
    """What was said."""

    value: JsonValue


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Corner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    x: int
    y: float = 0.5
    hidden: bool = False


class Shape(BaseModel):
    """Arguments of all kinds."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, ge=0, le=2**53)
    share: float | None = None
    filled: bool = False
    name: str = "-"
    colour: Annotated[Colour, Field(strict=False)] = Colour.RED
    sizes: list[int] | None = None
    corner: Corner | None = None
    corners: list[Corner] = []
    labels: dict[str, int] = {}
    anything: JsonValue = None


class EchoMCPServer(BaseMCPServer):
    """Says what is said to it."""

    def __init__(self) -> None:
        schema = type(self).tools["shape"].input_schema
        super().__init__(tools=[DynamicTool.of("shape_at_run_time", "Return the arguments.", schema)])

    @tool(read_only=True)
    async def shape(self, arguments: Shape) -> Echo:
        """Return the arguments."""
        return Echo(value=arguments.model_dump(mode="json", exclude_unset=True))

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> Any:
        """Return the arguments."""
        return {"value": arguments}

    @tool(read_only=True)
    async def echo(self, value: JsonValue, count: int = 1) -> Echo:
        """Return the value."""
        return Echo(value=value)


async def main() -> None:
    gateway = Gateway([EchoMCPServer()], Settings())
    async with gateway.open():
        await serve_stdio(gateway, "echo")


if __name__ == "__main__":
    asyncio.run(main())
