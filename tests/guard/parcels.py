"""A server that declares each way of keeping to one customer, and none."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.errors import NotFound
from app.guard.principal import Principal
from app.results import Result
from app.servers.base import BaseMCPServer
from app.servers.calls import CallContext, JsonObject
from app.servers.confining import Confinement
from app.servers.declaring import resource, route, tool, watch
from app.servers.dynamic import DynamicTool
from app.servers.resources import Update

OWNERS = {1: "anna", 2: "anna", 3: "bert"}
UNDECLARED = ("count_parcels", "run_script")


class Parcels(Result):
    """Parcels of somebody."""

    owner: str | None
    numbers: Sequence[int] = ()


class SendParcel(BaseModel):
    """Who sends; all may also stand in `parcel`, and `sender` is another word for the customer's id."""

    model_config = ConfigDict(extra="forbid")

    customer_id: str
    weight: int = 1

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("parcel"), dict):
            given = {**given["parcel"], **{key: value for key, value in given.items() if key != "parcel"}}
        if isinstance(given, dict) and "sender" in given:
            given = {("customer_id" if key == "sender" else key): value for key, value in given.items()}
        return given


class ParcelMCPServer(BaseMCPServer):
    """Parcels."""

    @tool(read_only=True, confined_by="customer_id", example={"customer_id": "anna", "most": 2})
    async def list_parcels(self, customer_id: str, most: int = 9) -> Parcels:
        """Return a customer's parcels."""
        return Parcels(owner=customer_id, numbers=[n for n, owner in OWNERS.items() if owner == customer_id][:most])

    @tool(confined_by="customer_id")
    async def send_parcel(self, arguments: SendParcel) -> Parcels:
        """Send a parcel."""
        return Parcels(owner=arguments.customer_id, numbers=[arguments.weight])

    @tool(read_only=True, confined="service")
    async def find_parcel(self, number: int, principal: Principal) -> Parcels:
        """Return a parcel."""
        return _parcel(number, principal)

    @tool(read_only=True, public=True)
    async def list_shops(self) -> Parcels:
        """Return the shops."""
        return Parcels(owner=None, numbers=[100])

    @tool(read_only=True)
    async def count_parcels(self) -> Parcels:
        """Count all parcels."""
        return Parcels(owner=None, numbers=[len(OWNERS)])

    @tool(read_only=True, needs_rule="shelf")
    async def look_at_shelf(self, shelf: str) -> Parcels:
        """Return what is on a shelf."""
        return Parcels(owner=shelf)

    @resource("parcel://of/{customer_id}{?most}", confined_by="customer_id")
    async def parcels_of(self, customer_id: str, most: int = 9) -> Parcels:
        """A customer's parcels."""
        return await self.list_parcels(customer_id, most)

    @resource("parcel://number/{number}", confined="service")
    async def parcel(self, number: int, principal: Principal) -> Parcels:
        """One parcel."""
        return _parcel(number, principal)

    @watch("parcel://number/{number}", confined="service")
    @asynccontextmanager
    async def parcel_changes(self, number: int, principal: Principal) -> AsyncGenerator[AsyncIterator[Update]]:
        _parcel(number, principal)
        yield _once()

    @resource("parcel://shops", public=True)
    async def shops(self) -> Parcels:
        """The shops."""
        return await self.list_shops()

    @watch("parcel://shops")
    @asynccontextmanager
    async def shop_changes(self) -> AsyncGenerator[AsyncIterator[Update]]:
        yield _once()

    @resource("parcel://all")
    async def all_parcels(self) -> Parcels:
        """All parcels."""
        return await self.count_parcels()

    @route("/labels/{customer_id}", methods=("GET",), acts_as="list_parcels")
    async def labels(self, request: Request, context: CallContext, customer_id: str) -> Response:
        """Stream a customer's labels."""
        return PlainTextResponse(customer_id)

    @route("/labels", methods=("GET",), acts_as="list_parcels")
    async def all_labels(self, request: Request, context: CallContext) -> Response:
        """Stream everybody's labels."""
        return PlainTextResponse("all")

    @route("/tracks/{number}", methods=("GET",), acts_as="find_parcel")
    async def track(self, request: Request, context: CallContext, number: int) -> Response:
        """Stream a parcel's track, of whoever it is: its tool looks at that, it does not."""
        return PlainTextResponse(str(number))

    @route("/receipts/{number}", methods=("GET",), acts_as="find_parcel", confined="service")
    async def receipt(self, request: Request, context: CallContext, number: int) -> Response:
        """Stream a parcel's receipt."""
        return PlainTextResponse(str(_parcel(number, context.principal).owner))

    async def call_tool(self, tool_name: str, arguments: JsonObject) -> Any:
        return {"tool": tool_name, "arguments": arguments}

    async def get_resource(self, resource_uri: str) -> Any:
        return {"uri": resource_uri}


def _parcel(number: int, principal: Principal) -> Parcels:
    owner = OWNERS.get(number)
    if owner is None or principal.customer not in (None, owner):
        raise NotFound(f"There is no parcel {number}.")
    return Parcels(owner=owner, numbers=[number])


async def _once() -> AsyncIterator[Update]:
    yield {"told": True}


def parcels() -> ParcelMCPServer:
    """Return the server, with tools and a resource that are known at run time only."""
    schema: JsonObject = {
        "type": "object",
        "properties": {"customer_id": {"type": "string"}, "text": {"type": "string"}},
        "required": ["customer_id", "text"],
        "additionalProperties": False,
    }
    confined = DynamicTool.of("leave_note", "Leave a note.", schema, confinement=Confinement("customer_id"))
    return ParcelMCPServer(tools=["run_script", confined], resources=["parcel://script"])
