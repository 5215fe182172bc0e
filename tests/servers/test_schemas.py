"""What is advertised of our own tools: plain enough for every model's API, lean enough for every conversation."""

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import BaseModel
from pydantic_core import to_json

from app.catalogue import load_servers
from app.errors import InvalidArguments
from app.main import create_app
from app.servers.schemas import arguments_schema, result_schema
from app.servers.tools import Tool
from app.settings import Settings
from tests.fixtures.gateway import FACES, mcp_client, serve

TOOLS: dict[str, Tool] = {name: tool for kind in load_servers() for name, tool in kind.tools.items()}
MOST_BYTES, MOST_BYTES_OF_INPUTS = 35_000, 16_500
"""Of a listing of all tools, and of one without output schemas."""
SELF_EVIDENT = {
    *("customer_id", "ticket_limit", "limit", "offset", "channel", "group_by", "topic", "headers", "max_rows"),
    *("get_consumer_group_lag.group_id", "bucket", "s3_upload_file.encoding", "prefix", "max_keys", "max_results"),
    *(f"s3_{verb}.key" for verb in ("upload_file", "download_file", "delete_object", "presign_url")),
}
"""Arguments whose name, type, choices, bounds and default say all, in every tool or in one."""
GEMINI = {
    *("type", "format", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties", "required"),
    *("minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf", "default"),
    *("title", "example", "propertyOrdering", "additionalProperties"),
}
"""What a `Schema` of Gemini's declarations of functions holds."""


def schemas_within(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and every schema in it."""
    if isinstance(schema, dict):
        yield schema
        for keyword, value in schema.items():
            match keyword:
                case "properties" | "$defs":
                    for member in value.values():
                        yield from schemas_within(member)
                case "items" | "additionalProperties":
                    yield from schemas_within(value)
                case "anyOf" | "oneOf" | "allOf" | "prefixItems":
                    for member in value:
                        yield from schemas_within(member)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_validators_of_both_drafts_take_every_schema(tool: Tool) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        assert schema is not None
        for validator in (Draft7Validator, Draft202012Validator):
            validator.check_schema(schema)
    if tool.example is not None:
        for validator in (Draft7Validator, Draft202012Validator):
            validator(tool.input_schema).validate(tool.example)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_input_schemas_are_plain_and_strict(tool: Tool) -> None:
    assert tool.input_schema["type"] == "object"
    assert tool.input_schema["additionalProperties"] is False
    assert tool.input_schema.keys() <= {"type", "properties", "required", "additionalProperties"}
    for schema in schemas_within(tool.input_schema):
        assert not schema.keys() & {"$ref", "$defs", "title", "allOf", "ge", "gt", "le", "lt"}
        assert {"type": "null"} not in schema.get("anyOf", [])
        assert schema.get("type") != "null"
        assert schema.get("default", ...) is not None
        assert schema.get("type") != "array" or "items" in schema


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_an_argument_whose_name_does_not_say_all_is_described(tool: Tool) -> None:
    properties: Any = tool.input_schema["properties"]
    plain = {name for name in properties if SELF_EVIDENT & {name, f"{tool.name}.{name}"}}
    assert {name for name, schema in properties.items() if "description" not in schema} <= plain
    for schema in properties.values():
        # What it means to leave it out stands in its default, or is said.
        assert len(schema.get("description", "....")) > 3


def test_the_list_of_self_evident_arguments_names_nothing_else() -> None:
    undescribed = {
        name if name in SELF_EVIDENT else f"{tool.name}.{name}"
        for tool in TOOLS.values()
        for name, schema in cast("Any", tool.input_schema["properties"]).items()
        if "description" not in schema
    }
    assert undescribed == SELF_EVIDENT


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_input_schemas_are_ones_that_every_model_accepts(tool: Tool) -> None:
    properties: Any = tool.input_schema["properties"]
    assert all(re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name) for name in properties)  # Anthropic's
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool.name)  # OpenAI's
    for schema in schemas_within(tool.input_schema):
        assert schema.keys() <= GEMINI
        assert schema.get("format", "date-time") == "date-time"
        assert "enum" not in schema or (schema["type"] == "string" and all(map(str.strip, schema["enum"])))
        assert isinstance(schema.get("type", ""), str)
        assert set(schema.get("required", [])) <= schema.get("properties", {}).keys()


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_output_schemas_refer_to_nothing_but_themselves(tool: Tool) -> None:
    output: Any = tool.output_schema
    assert output["type"] == "object"
    assert output["properties"]["success"] == {"const": True}
    for schema in schemas_within(output):
        assert "title" not in schema
        if reference := schema.get("$ref"):
            assert reference.removeprefix("#/$defs/") in output["$defs"]


@pytest.mark.parametrize("face", [face for face in FACES if face != "rest"])
@pytest.mark.parametrize(("shown", "most"), [(True, MOST_BYTES), (False, MOST_BYTES_OF_INPUTS)])
async def test_a_listing_of_all_tools_leaves_room_for_the_conversation(face: str, shown: bool, most: int) -> None:
    app = create_app(load_servers(), Settings(mcp_output_schemas=shown, hide_unconfigured=False))
    async with serve(app) as served, mcp_client(served, face) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS.keys()
    assert all((tool.output_schema is not None) is shown for tool in tools)
    listing = to_json([tool.model_dump(by_alias=True, exclude_none=True) for tool in tools])
    assert len(listing) <= most


class Leaf(BaseModel):
    """A docstring for those who read the code."""

    size: int | None = None
    name: str


class Branch(Leaf):
    leaves: list[Leaf] = []
    first: Leaf | None = None


class Endless(BaseModel):
    below: "Endless | None" = None


def test_a_result_writes_once_what_it_holds_several_times() -> None:
    schema = result_schema(Branch)
    leaf = {"$ref": "#/$defs/Leaf"}
    assert schema["properties"]["leaves"]["items"] == leaf  # type: ignore[index, call-overload]
    assert schema["properties"]["first"] == {"anyOf": [leaf, {"type": "null"}]}  # type: ignore[index, call-overload]
    assert schema["$defs"] == {
        "Leaf": {"properties": {"size": {"type": ["integer", "null"]}, "name": {"type": "string"}}, "type": "object"}
    }


def test_arguments_write_everything_where_it_is_wanted() -> None:
    leaf = {
        "properties": {"size": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["name"],
        "type": "object",
    }
    schema = arguments_schema(Branch)
    assert schema["properties"]["leaves"] == {"items": leaf, "type": "array", "default": []}  # type: ignore[index, call-overload]
    assert schema["properties"]["first"] == leaf  # type: ignore[index, call-overload]


@pytest.mark.parametrize("write", [arguments_schema, result_schema])
def test_a_model_that_contains_itself_is_refused(write: Any) -> None:
    with pytest.raises(TypeError, match="Endless contains itself"):
        write(Endless)


@pytest.mark.parametrize(
    "start",
    [
        *("earliest", "latest", "newest", 5, True, [], {}),
        *({"offset": 0}, {"offset": -1}, {"offset": True}, {"tail": 1}, {"tail": 0}, {"tail": 1001}),
        *({"timestamp": 0}, {"timestamp": "2026-11-22T15:21:07Z"}, {"timestamp": []}),
        *({"offset": 1, "tail": 1}, {"offset": 1, "other": 1}, {"other": 1}),
    ],
    ids=str,
)
def test_where_to_begin_is_advertised_as_it_is_taken(start: Any) -> None:
    consume = TOOLS["consume_messages"]
    fits = Draft202012Validator(consume.input_schema).is_valid({"topic": "a", "start": start})
    try:
        consume.parse(to_json({"topic": "a", "start": start}))
    except InvalidArguments:
        assert not fits
    else:
        assert fits
