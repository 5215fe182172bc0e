"""What arguments certainly mean is taken; what they might mean is not."""

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.errors import InvalidArguments
from app.exact_json import ReadText
from app.results import Result
from app.servers import leniency
from app.servers.base import BaseMCPServer
from app.servers.calls import JsonObject
from app.servers.declaring import tool
from app.servers.dynamic import DynamicTool
from app.servers.json_schema import CompiledSchema
from app.servers.leniency import Leniency
from app.servers.tools import Tool


class Colour(StrEnum):
    RED = "red"


class Corner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    x: int
    y: int = 0


class Pinned(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pin: int


class Drawing(BaseModel):
    """Arguments with a little of everything."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, ge=0, le=1000)
    share: float | None = None
    filled: bool = False
    name: str = "-"
    colour: Colour = Field(Colour.RED, strict=False)
    tags: list[str] = []
    sizes: list[int] | None = None
    corner: Corner | None = None
    corners: list[Corner] = []
    labels: dict[str, int] = {}
    where: Literal["start", "end"] | Corner | Pinned = "start"
    anything: JsonValue = None

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, given: Any) -> Any:
        return {("count" if name == "number" else name): value for name, value in given.items()}


class Drawn(Result):
    """What was drawn."""


class DrawingMCPServer(BaseMCPServer):
    """Draws."""

    @tool()
    async def draw(self, arguments: Drawing) -> Drawn:
        """Draw."""
        return Drawn()

    @tool()
    async def dot(self, x: int, size: Annotated[int, Field(ge=1)] = 3) -> Drawn:
        """Draw a dot."""
        return Drawn()


DECLARED = DrawingMCPServer.tools["draw"]
AT_RUN_TIME = DynamicTool.of("draw", "Draw.", {**DECLARED.input_schema})
"""The same tool by nothing but its schema, as somebody else's server would describe it."""

TAKEN = [
    ({"count": 5.0}, {"count": 5}),
    ({"count": "5"}, {"count": 5}),
    ({"count": "5.0"}, {"count": 5}),
    ({"count": 1e2}, {"count": 100}),
    ({"count": None}, {}),
    ({"share": "0.5"}, {"share": 0.5}),
    ({"count": -0.0}, {"count": 0}),
    ({"count": "-0"}, {"count": 0}),
    ({"filled": " TRUE "}, {"filled": True}),
    ({"share": "25e-1"}, {"share": 2.5}),
    ({"filled": "true"}, {"filled": True}),
    ({"filled": "False"}, {"filled": False}),
    ({"name": None, "colour": None}, {}),
    ({"tags": '["a", "b"]'}, {"tags": ["a", "b"]}),
    ({"tags": None}, {}),
    ({"sizes": '["1", 2.0]'}, {"sizes": [1, 2]}),
    ({"corner": '{"x": "1"}'}, {"corner": {"x": 1}}),
    ({"corner": {"x": 1.0, "y": None}}, {"corner": {"x": 1}}),
    ({"corners": [{"x": "1"}, '{"x": 2, "y": "3"}']}, {"corners": [{"x": 1}, {"x": 2, "y": 3}]}),
    ({"corners": '[{"x": "1"}]'}, {"corners": [{"x": 1}]}),
    ({"labels": '{"a": "1"}'}, {"labels": {"a": 1}}),
    ({"where": '{"x": 4}'}, {"where": {"x": 4}}),
    ({"where": {"pin": "4"}}, {"where": {"pin": 4}}),
    ({"where": "end", "count": "1"}, {"where": "end", "count": 1}),
    ({"anything": "5", "count": "1"}, {"anything": "5", "count": 1}),
    ({"anything": '{"a": "1"}', "count": 1.0}, {"anything": '{"a": "1"}', "count": 1}),
    ({"name": "5", "count": "7"}, {"name": "5", "count": 7}),
]
REFUSED = [
    ({"count": True}, "count"),
    ({"count": "true"}, "count"),
    ({"count": 5.5}, "count"),
    ({"count": "5.5"}, "count"),
    ({"count": "five"}, "count"),
    ({"count": "0x5"}, "count"),
    ({"count": "1_000"}, "count"),
    ({"count": "05"}, "count"),
    ({"count": ""}, "count"),
    ({"count": "\u0665"}, "count"),
    ({"count": "1001"}, "count"),
    ({"count": [1]}, "count"),
    ({"share": True}, "share"),
    ({"share": "NaN"}, "share"),
    ({"filled": "1"}, "filled"),
    ({"colour": "RED"}, "colour"),
    ({"share": "1e999"}, "share"),
    ({"share": "0.1234567890123456789012"}, "share"),
    ({"filled": 1}, "filled"),
    ({"filled": "yes"}, "filled"),
    ({"name": 5}, "name"),
    ({"tags": "a"}, "tags"),
    ({"tags": "a,b"}, "tags"),
    ({"tags": "[1]"}, "tags.0"),
    ({"tags": '{"a": 1}'}, "tags"),
    ({"tags": ["a", None]}, "tags.1"),
    ({"corner": '{"x": 1, "x": 2}'}, "corner"),
    ({"corner": {"x": True}}, "corner.x"),
    ({"corner": {"x": None}}, "corner.x"),
    ({"corner": "{"}, "corner"),
    ({"labels": {"a": "b"}}, "labels.a"),
    ({"unknown": None}, "unknown"),
]


def _taken(by: Tool, arguments: JsonObject) -> JsonObject:
    parsed = by.parse(json_of(arguments))
    return parsed if isinstance(parsed, dict) else parsed.model_dump(mode="json", exclude_unset=True)


def json_of(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


@pytest.mark.parametrize("by", [DECLARED, AT_RUN_TIME], ids=["declared", "at run time"])
@pytest.mark.parametrize(("given", "meant"), TAKEN, ids=str)
def test_what_is_certain_is_taken(by: Tool, given: JsonObject, meant: JsonObject) -> None:
    taken = _taken(by, given)
    assert json_of(taken) == json_of(meant)


@pytest.mark.parametrize("by", [DECLARED, AT_RUN_TIME], ids=["declared", "at run time"])
def test_what_was_read_is_taken_as_what_was_not(by: Tool) -> None:
    text = b'{"count": "5", "tags": "[\\"a\\"]"}' if by is AT_RUN_TIME else b'{"number": "5", "share": "0.5"}'
    assert by.parse(ReadText(text, json.loads(text))) == by.parse(text)


@pytest.mark.parametrize("by", [DECLARED, AT_RUN_TIME], ids=["declared", "at run time"])
@pytest.mark.parametrize(("given", "field"), REFUSED, ids=str)
def test_what_is_not_certain_is_refused_by_name(by: Tool, given: JsonObject, field: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        _taken(by, given)
    assert [error.field for error in refusal.value.errors] == [field]


def test_other_spellings_are_taken_as_leniently() -> None:
    assert _taken(DECLARED, {"number": "5"}) == {"count": 5}


def test_a_whole_arguments_object_may_stand_in_a_string() -> None:
    dot = DrawingMCPServer.tools["dot"]
    assert _taken(dot, '{"x": "1"}') == {"x": 1}  # type: ignore[arg-type]


def test_null_is_no_value_for_what_is_required() -> None:
    with pytest.raises(InvalidArguments, match="x: "):
        _taken(DrawingMCPServer.tools["dot"], {"x": None})


def test_strict_arguments_are_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.servers.leniency.Leniency.take", lambda *_: pytest.fail("asked for leniency"))
    assert _taken(DECLARED, {"count": 5, "tags": ["a"]}) == {"count": 5, "tags": ["a"]}


def test_what_several_alternatives_could_mean_is_refused() -> None:
    either = DynamicTool.of(
        "either",
        "",
        {"type": "object", "properties": {"value": {"anyOf": [{"type": "integer"}, {"type": "number"}]}}},
    )
    assert either.parse(b'{"value": "5"}') == {"value": 5}
    ambiguous = DynamicTool.of(
        "ambiguous",
        "",
        {
            "type": "object",
            "properties": {"value": {"anyOf": [{"type": "integer"}, {"type": "array"}]}},
        },
    )
    assert ambiguous.parse(b'{"value": "[1]"}') == {"value": [1]}
    with pytest.raises(InvalidArguments, match="value: fits nothing that is accepted"):
        ambiguous.parse(b'{"value": "one"}')


def test_references_within_a_schema_are_followed_and_endless_ones_end() -> None:
    tree = DynamicTool.of(
        "tree",
        "",
        {
            "type": "object",
            "properties": {"root": {"$ref": "#/$defs/node"}},
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "size": {"type": "integer"},
                        "below": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    },
                }
            },
        },
    )
    assert tree.parse(b'{"root": {"size": "1", "below": "[{\\"size\\": 2.0}]"}}') == {
        "root": {"size": 1, "below": [{"size": 2}]}
    }


def test_strings_hold_no_more_values_than_a_body_may() -> None:
    schema: JsonObject = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array"}}}}
    text = json.dumps([1] * (leniency._MOST_WITHIN_STRINGS // 3 - 5))
    taken = Leniency(CompiledSchema(schema)).take({"a": [text] * 5})["a"]
    assert [type(item) for item in taken] == [list, list, list, str, str]
    assert Leniency(CompiledSchema(schema)).take({"a": ["[1]"] * 1000})["a"] == [[1]] * 1000


def test_of_many_values_the_first_are_made_to_fit_and_the_rest_is_taken_strictly() -> None:
    schema: JsonObject = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    many = leniency._MOST_STEPS + 1000
    taken = Leniency(CompiledSchema(schema)).take({"a": ["1"] * many})["a"]
    made = taken.index("1")
    assert leniency._MOST_STEPS - 10 < made < leniency._MOST_STEPS
    assert taken == [1] * made + ["1"] * (many - made)


def test_branches_within_branches_come_to_an_end() -> None:
    definitions: JsonObject = {"0": {"type": "integer"}}
    for level in range(1, 8):
        branches: list[JsonValue] = [{"$ref": f"#/$defs/{level - 1}"}] * 3
        definitions[str(level)] = {"anyOf": branches}
    schema: JsonObject = {"type": "object", "properties": {"a": {"$ref": "#/$defs/7"}}, "$defs": definitions}
    with pytest.raises(InvalidArguments, match="a: "):
        DynamicTool.of("either", "", schema).parse(b'{"a": "x"}')
    assert DynamicTool.of("either", "", {**schema, "properties": {"a": {"$ref": "#/$defs/1"}}}).parse(
        b'{"a": "1"}'
    ) == {"a": 1}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"share": 2**53 + 1}, "share"),
        ({"share": str(2**53 + 1)}, "share"),
        ({"corners": [{"x": 1}, {"x": 2, "y": 1}], "share": -(2**60) - 1}, "share"),
    ],
    ids=str,
)
def test_no_integer_becomes_another_one(given: JsonObject, field: str) -> None:
    with pytest.raises(InvalidArguments, match="this number would be altered") as refusal:
        _taken(DECLARED, given)
    assert [error.field for error in refusal.value.errors] == [field]
    assert _taken(DECLARED, {"share": 2**60}) == {"share": 2.0**60}
    # Whoever takes the arguments as they are gets it as it is.
    exact: JsonObject = {"share": 2**53 + 1}
    assert _taken(AT_RUN_TIME, exact) == exact
