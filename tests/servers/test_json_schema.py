"""Schemas of strangers: nothing is fetched, nothing takes long, and every refusal names the argument."""

import json
import random
import re
import socket
import threading
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.errors import InvalidArguments
from app.results import Result
from app.servers.dynamic import DynamicTool
from app.servers.json_schema import CompiledSchema
from app.servers.methods import MethodTool
from app.servers.tools import Tool


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
            DynamicTool.of("far", "", _filled(schema, address))
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
    tool = DynamicTool.of(
        "match", "", {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}}
    )
    with pytest.raises(InvalidArguments, match=r"^text: "):
        tool.parse(b'{"text": "%b!"}' % (b"a" * 50_000))


@pytest.mark.parametrize("pattern", [r"^(?=a)b", r"(a)\1", "(?<!a)b", "[", r"^(\d{1,1000}){1,1000}$"])
def test_a_pattern_that_has_no_linear_form_is_refused_where_the_tool_is_declared(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern can't be matched in linear time"):
        DynamicTool.of("match", "", {"properties": {"text": {"pattern": pattern}}})


def test_an_output_schema_is_checked_where_the_tool_is_declared() -> None:
    with pytest.raises(ValueError, match="type"):
        DynamicTool.of("broken", "", None, {"type": "nonsense"})


def test_a_schema_may_name_its_draft() -> None:
    old = CompiledSchema({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True})
    assert not old.is_valid(3)
    assert old.is_valid(4)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"anyOf": [{"type": "object"}, {"not": {"$ref": "#"}}]},
        {"$defs": {"a": {"allOf": [{"$ref": "#b"}]}, "b": {"$anchor": "b", "if": {"$ref": "#/$defs/a"}}}},
        {"$dynamicAnchor": "a", "allOf": [{"$dynamicRef": "#a"}]},
        {"$id": "http://x/a", "dependentSchemas": {"a": {"$ref": "a"}}},
    ],
    ids=str,
)
def test_a_schema_that_goes_round_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refers to itself for the same value"):
        CompiledSchema(schema)


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
            DynamicTool.of("laughs", "", {"properties": {"a": {"$ref": "#/$defs/29"}}, "$defs": definitions})


def test_a_schema_may_refer_to_itself() -> None:
    node = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "size": {"type": "integer"}},
    }
    assert DynamicTool.of("tree", "", node).parse(b'{"left": {"right": {"size": "1"}}}') == {
        "left": {"right": {"size": 1}}
    }


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"allOf": [schema]}
    with pytest.raises(ValueError, match="nested too deeply") as refusal:
        CompiledSchema(schema)
    assert len(str(refusal.value)) < 1000


ORDER = DynamicTool.of(
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


NODE = {"$ref": "#/$defs/node"}


def _recursive(node: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": NODE}, "$defs": {"node": node}, **rules}


def _nested(levels: int, value: Any = 1) -> Any:
    for _ in range(levels):
        value = {"a": value}
    return value


def _twice(reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Two branches that differ and lead to the same."""
    return [{"properties": {"a": reference}, "required": ["z"]}, {"properties": {"a": reference}, "required": ["y"]}]


_RANDOM = random.Random(11)
_DIGITS = "".join(_RANDOM.choice("01") for _ in range(900_000))
DYNAMIC = {"$dynamicRef": "#node"}
HOLDING = {
    "branches that lead back": (_recursive({"anyOf": [*_twice(NODE), {"type": "null"}]}), _nested(40)),
    "alternatives that lead back": (_recursive({"oneOf": [*_twice(NODE), {"type": "null"}]}), _nested(40)),
    "dynamic references": (
        _recursive({"$dynamicAnchor": "node", "anyOf": _twice(DYNAMIC)}, properties={"a": DYNAMIC}),
        _nested(40),
    ),
    "anchors": (_recursive({"$anchor": "node", "anyOf": _twice({"$ref": "#node"})}), _nested(40)),
    "identifiers": (
        _recursive({"$id": "https://schemas.example/node", "anyOf": _twice({"$ref": "node"})}),
        _nested(40),
    ),
    "places in lists": (
        {"properties": {"a": {"$ref": "#/allOf/0"}}, "allOf": [{"anyOf": _twice({"$ref": "#/allOf/0"})}]},
        _nested(40),
    ),
    "alternatives of what is not evaluated": (
        _recursive(
            {"anyOf": [{"anyOf": [{"anyOf": [{"properties": {"a": NODE}}]}]}], "unevaluatedProperties": False},
        ),
        _nested(40, {"b": 1}),
    ),
    "options": (
        {"properties": {"a": {"items": {"enum": [f"option {n}" for n in range(50_000)]}}}},
        {"a": ["x"] * 19_000},
    ),
    "reasons": ({"anyOf": [{"type": "string"} for _ in range(9000)]}, {"a": ["x" * 100] * 10_000}),
    "branches that have to be tried": (
        {"properties": {"a": {"items": {"anyOf": [{"minimum": 2, "const": n} for n in range(9000)]}}}},
        {"a": ["1"] * 19_000},
    ),
    "patterns that go everywhere at once": (
        {"properties": {"a": {"pattern": "[01]*1[01]{12000}z"}}},
        {"a": _DIGITS},
    ),
    "patterns of names": (
        {"patternProperties": {"[01]*1[01]{12000}z": {"type": "string"}}},
        {_DIGITS: 1},
    ),
    "names": ({"propertyNames": {"pattern": "[01]*1[01]{12000}z"}}, {_DIGITS: 1}),
}


@pytest.mark.parametrize("kind", HOLDING)
def test_no_schema_holds_the_process(kind: str) -> None:
    # Each of them takes longer or more memory than anybody has; the test's own time limit is the proof.
    schema, arguments = HOLDING[kind]
    with pytest.raises(InvalidArguments, match=r"can't be checked in time|more ways than can be told"):
        DynamicTool.of("hold", "", schema).parse(json.dumps(arguments).encode())
    promise = DynamicTool.of("hold", "", None, schema)
    with pytest.raises(ValueError, match=r"too many rules|too many ways|more ways than can be told"):
        promise.check_result(arguments)


def test_of_very_many_members_that_are_missing_one_is_told() -> None:
    # The library makes an object of each, whether it is asked for or not: 120,000 of them take a second.
    names: dict[str, JsonValue] = {"required": [f"name {n}" for n in range(60)]}
    schema = CompiledSchema({"type": "object", "properties": {"a": {"type": "array", "items": names}}})
    assert len(schema.refusals({"a": [{}]})) == 50
    assert len(schema.refusals({"a": [{}] * 2000})) == 1


@pytest.mark.parametrize("word", ["anyOf", "oneOf", "allOf"])
def test_no_schema_fills_the_stack(word: str) -> None:
    chain: dict[str, Any] = {str(n): {word: [{"$ref": f"#/$defs/{n + 1}"}]} for n in range(45)}
    chain["45"] = {"additionalProperties": {"$ref": "#/$defs/0"}}
    tool = DynamicTool.of("deep", "", {"$ref": "#/$defs/0", "$defs": chain})
    assert tool.parse(json.dumps(_nested(20)).encode()) == _nested(20)
    with pytest.raises(InvalidArguments, match="nested too deeply"):
        tool.parse(json.dumps(_nested(190)).encode())


def test_references_lead_to_another_schema_a_bounded_number_of_times() -> None:
    chain: dict[str, Any] = {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(300)}
    with pytest.raises(ValueError, match="more than 100 schemas lead on"):
        CompiledSchema({"$ref": "#/$defs/0", "$defs": {**chain, "300": {}}})


def test_patterns_are_bounded_together() -> None:
    with pytest.raises(ValueError, match="patterns are too large together"):
        CompiledSchema({"properties": {f"a{n}": {"pattern": f"^.{{1,{900 + n}}}$"} for n in range(20)}})


BLOCK = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, "size": {"type": "integer"}, "below": {"items": NODE}},
            "required": ["type"],
        }
        for kind in ("page", "list", "text")
    ]
}


@pytest.mark.parametrize(
    ("schema", "given", "taken"),
    [
        (
            {"properties": {"root": NODE}, "$defs": {"node": BLOCK}},
            {"root": {"type": "page", "below": [{"type": "list", "below": [{"type": "text", "size": 1.0}] * 50}] * 5}},
            {"root": {"type": "page", "below": [{"type": "list", "below": [{"type": "text", "size": 1}] * 50}] * 5}},
        ),
        (
            {
                "properties": {"root": {"$ref": "node"}},
                "$id": "https://schemas.example/tree",
                "$defs": {
                    "node": {
                        "$id": "node",
                        "properties": {"id": {"type": "integer"}, "below": {"items": {"$ref": "node"}}},
                        "unevaluatedProperties": False,
                    }
                },
            },
            {"root": {"id": "1", "below": [{"id": 2.0, "below": []}]}},
            {"root": {"id": 1, "below": [{"id": 2, "below": []}]}},
        ),
        ({"$ref": "#/$defs/all", "$defs": {"all": {"properties": {"n": {"type": "integer"}}}}}, {"n": "5"}, {"n": 5}),
        (
            {
                "properties": {"a/b~c% d": {"anyOf": [{"$ref": "#/x-own/a%20b"}, {"type": "array"}]}},
                "x-own": {"a b": {"type": "integer"}},
            },
            {"a/b~c% d": "5"},
            {"a/b~c% d": 5},
        ),
        (
            {"properties": {"schema": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}},
            {"schema": {"type": "object", "properties": {"a": {"minimum": 5}}}},
            {"schema": {"type": "object", "properties": {"a": {"minimum": 5}}}},
        ),
        (
            {"properties": {"text": {"pattern": "^.{1,1000}$"}, "content": {"type": "string"}}},
            {"text": "a" * 1000, "content": "a" * 1_000_000},
            {"text": "a" * 1000, "content": "a" * 1_000_000},
        ),
    ],
    ids=["blocks", "identifiers", "the whole elsewhere", "odd names", "schemas", "large content"],
)
def test_what_people_write_is_taken(schema: dict[str, Any], given: Any, taken: Any) -> None:
    assert json.dumps(DynamicTool.of("take", "", schema).parse(json.dumps(given).encode())) == json.dumps(taken)


def test_an_old_draft_has_its_own_identifiers() -> None:
    positive = {"id": "#positive", "minimum": 0, "exclusiveMinimum": True}
    tool = DynamicTool.of(
        "old",
        "",
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "definitions": {"positive": positive},
            "properties": {"a": {"$ref": "#positive"}},
        },
    )
    assert tool.parse(b'{"a": 1}') == {"a": 1}
    with pytest.raises(InvalidArguments, match="a: the value is less than or equal to the minimum of 0"):
        tool.parse(b'{"a": 0}')


def test_of_many_refusals_some_are_told_and_each_is_short() -> None:
    words = DynamicTool.of("words", "", {"properties": {"a": {"items": {"enum": [f"word {n}" for n in range(2000)]}}}})
    for count, told in ((3, 3), (60, 50)):
        with pytest.raises(InvalidArguments) as refusal:
            words.parse(json.dumps({"a": [1] * count}).encode())
        assert [error.field for error in refusal.value.errors] == sorted(f"a.{n}" for n in range(told))
        assert all(len(error.message) < 600 for error in refusal.value.errors)


def test_of_too_many_refusals_the_argument_is_named() -> None:
    plain = DynamicTool.of("plain", "", {"properties": {"a": {"items": {"type": "integer"}}, "b": {}}})
    branches: list[JsonValue] = [{"type": "integer"}] * 5
    either = DynamicTool.of(
        "either", "", {"properties": {"a": {"items": {"anyOf": branches}}, "b": {"type": "integer"}}}
    )
    arguments = json.dumps({"b": 1, "a": ["x"] * 19_000}).encode()
    for tool, field in ((plain, "a.0"), (either, "a")):
        with pytest.raises(InvalidArguments) as refusal:
            tool.parse(arguments)
        assert [error.field for error in refusal.value.errors] == [field]


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = 1
    height: int = 1


class Parcel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_weight: int = 1
    sizes: list[Size] = []


async def _send(self: object, arguments: Parcel) -> Result:
    """Send."""
    return Result()


_send.__name__ = "send"
SEND = MethodTool.declared(_send)


@pytest.mark.parametrize("by", [SEND, DynamicTool.of("send", "", SEND.input_schema)], ids=["declared", "at run time"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"maxWeight": 1}, "maxWeight: is not an argument that is known here; did you mean `max_weight`?"),
        ({"MAX-WEIGHT": 1}, "MAX-WEIGHT: is not an argument that is known here; did you mean `max_weight`?"),
        ({"size": []}, "size: is not an argument that is known here; did you mean `sizes`?"),
        (
            {"sizes": [{}, {"heigth": 2}]},
            "sizes.1.heigth: is not an argument that is known here; did you mean `height`?",
        ),
        ({"colour": "secret"}, "colour: is not an argument that is known here"),
        ({"w" * 5000: 1}, "w" * 200 + ": is not an argument that is known here"),
    ],
    ids=["camel", "capitals", "singular", "below", "far", "long"],
)
def test_an_unknown_argument_is_named_with_the_nearest_known_one(by: Tool, arguments: Any, told: str) -> None:
    with pytest.raises(InvalidArguments) as refusal:
        by.parse(json.dumps(arguments).encode())
    assert str(refusal.value) == told


def test_what_is_not_evaluated_is_named_as_what_is_unknown() -> None:
    tool = DynamicTool.of(
        "open",
        "",
        {
            "allOf": [{"$ref": "#/$defs/a"}],
            "unevaluatedProperties": False,
            "$defs": {"a": {"properties": {"path": {}}}},
        },
    )
    with pytest.raises(InvalidArguments, match=r"^paths: is not an argument that is known here; did you mean `path`"):
        tool.parse(b'{"paths": "secret"}')


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
            MethodTool.declared(method)
