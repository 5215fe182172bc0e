"""Schemas of strangers: nothing is fetched, nothing takes long, and every refusal names the argument."""

import json
import re
import socket
import threading
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidArguments
from app.results import Result
from app.servers.declaring import Tool
from app.servers.json_schema import compile_schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "{}"},
        {"type": "object", "properties": {"a": {"$ref": "{}#/x"}}},
        {"type": "object", "allOf": [{"$ref": "{}"}]},
        {"$id": "{}", "$ref": "other.json"},
        {"$schema": "{}"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "{}"}},
    ],
    ids=str,
)
def test_what_a_schema_refers_to_is_never_fetched(schema: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = threading.Event()

        def answer() -> None:
            try:
                listener.accept()
                asked.set()
            except OSError:
                return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        with pytest.raises(ValueError, match=r"Retrieval is disabled|nknown meta-schema"):
            Tool.dynamic("far", "", _filled(schema, address))
        assert not asked.is_set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _filled(value: Any, address: str) -> Any:
    match value:
        case dict():
            return {name: _filled(member, address) for name, member in value.items()}
        case list():
            return [_filled(member, address) for member in value]
        case str():
            return value.replace("{}", address)
        case _:
            return value


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(x+x+)+y", "^([a-z]+)*$"])
def test_no_pattern_takes_longer_than_its_text(pattern: str) -> None:
    # Backtracking, each of them takes longer than anybody has; the test's own time limit is the proof.
    tool = Tool.dynamic("match", "", {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}})
    with pytest.raises(InvalidArguments, match=r"^text: "):
        tool.parse(b'{"text": "%b!"}' % (b"a" * 50_000))


@pytest.mark.parametrize("pattern", [r"^(?=a)b", r"(a)\1", "(?<!a)b", "[", r"^(\d{1,1000}){1,1000}$"])
def test_a_pattern_that_has_no_linear_form_is_refused_where_the_tool_is_declared(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern can't be matched in linear time"):
        Tool.dynamic("match", "", {"properties": {"text": {"pattern": pattern}}})


def test_an_output_schema_is_checked_where_the_tool_is_declared() -> None:
    with pytest.raises(ValueError, match="type"):
        Tool.dynamic("broken", "", None, {"type": "nonsense"})


def test_a_schema_may_name_its_draft() -> None:
    old = compile_schema({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True})
    assert not old.is_valid(3)
    assert old.is_valid(4)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}])
def test_a_schema_that_is_only_itself_says_nothing(schema: dict[str, Any]) -> None:
    assert compile_schema(schema).is_valid({})


def test_a_schema_that_means_much_more_than_it_says_is_refused() -> None:
    # 3 to the power of 30 branches, or rules for as many places.
    branches: dict[str, Any] = {"0": {"type": "integer"}}
    places: dict[str, Any] = {"0": {"type": "integer"}}
    for level in range(1, 30):
        below = {"$ref": f"#/$defs/{level - 1}"}
        branches[str(level)] = {"anyOf": [below, below, below]}
        places[str(level)] = {"anyOf": [{"properties": {"a": below}}, {"properties": {"a": below}}]}
    for definitions in (branches, places):
        with pytest.raises(ValueError, match="10000 rules"):
            Tool.dynamic("laughs", "", {"properties": {"a": {"$ref": "#/$defs/29"}}, "$defs": definitions})


def test_a_schema_may_refer_to_itself() -> None:
    node = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "size": {"type": "integer"}},
    }
    assert Tool.dynamic("tree", "", node).parse(b'{"left": {"right": {"size": "1"}}}') == {
        "left": {"right": {"size": 1}}
    }


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"allOf": [schema]}
    with pytest.raises(ValueError, match=r"Recursion limit|10000 rules"):
        compile_schema(schema)


ORDER = Tool.dynamic(
    "order",
    "",
    {
        "type": "object",
        "properties": {
            "item": {"type": "string", "maxLength": 5},
            "count": {"type": "integer", "minimum": 1},
            "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
            "when": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["day"]}]},
        },
        "required": ["item"],
        "additionalProperties": False,
    },
)


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (b"{}", [("item", "is required")]),
        (b'{"item": "secret"}', [("item", "the value is longer than 5 characters")]),
        (b'{"item": "a", "count": "secret"}', [("count", 'the value is not of type "integer"')]),
        (b'{"item": "a", "count": 0}', [("count", "the value is less than the minimum of 1")]),
        (b'{"item": "a", "lines": [{"sku": 1}, {}]}', [("lines.1.sku", "is required")]),
        (
            b'{"item": "a", "x": 1, "y": "secret"}',
            [("x", "is not an argument that is known here"), ("y", "is not an argument that is known here")],
        ),
        (
            b'{"item": "a", "when": "secret"}',
            [
                (
                    "when",
                    (
                        "fits nothing that is accepted: "
                        'the value is not of type "integer" or the value is not of type "object"'
                    ),
                )
            ],
        ),
        (b"[]", [("", "expected an object")]),
    ],
)
def test_a_refusal_names_the_argument_and_never_its_value(arguments: bytes, errors: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        ORDER.parse(arguments)
    assert [(error.field, error.message) for error in refusal.value.errors] == errors
    assert "secret" not in str(refusal.value)


def test_of_large_arguments_the_first_mistake_is_told() -> None:
    tool = Tool.dynamic("words", input_schema={"type": "object", "properties": {"a": {"items": {"type": "string"}}}})
    for count, told in ((3, 3), (10_000, 1)):
        with pytest.raises(InvalidArguments) as refusal:
            tool.parse(json.dumps({"a": [1] * count}).encode())
        assert [error.field for error in refusal.value.errors] == [f"a.{n}" for n in range(told)]


class Lines(BaseModel):
    model_config = ConfigDict(extra="forbid", regex_engine="python-re")

    line: Annotated[str, Field(pattern="^(a+)+$")]


def test_a_declared_tool_has_no_pattern_that_backtracks() -> None:
    async def take_lines(self: object, arguments: Lines) -> Result:
        """Take lines."""
        return Result()

    async def take_line(
        self: object, line: Annotated[list[Annotated[str, Field(pattern=re.compile("a"))]], "of text"]
    ) -> Result:
        """Take a line."""
        return Result()

    for method in (take_lines, take_line):
        with pytest.raises(TypeError, match="patterns as text"):
            Tool.declared(method)
