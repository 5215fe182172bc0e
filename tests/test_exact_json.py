"""What is read as JSON comes out as it was sent, or is refused by its place."""

import json
from decimal import Decimal
from typing import Any

import pytest

from app import exact_json
from app.exact_json import MOST_VALUES, MOST_VALUES_OF_ANSWERS, NotExact, NotJson, count_values, exact_float, read


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":[1,2.5,true,null,"x"]}',
        "[9007199254740993,123456789012345678901234567890,-1]",
        "[0.1,1e23,1E2,-1.5e-7,5e-324,1.7976931348623157e308,2.5000000000000000000000]",
        '["1e999","0.1234567890123456789012","NaN"]',
        r'["\ud83d\ude00","\u0000","\\ud800"]',
        "[0.0,-0.0,-0e1,0e-400,0.00000000000000000000000000000000001]",
        '["-0","2026-01-02",-0.5,-1,{"-0":0}]',
        '{"a":{"x":1},"b":{"x":1}}',
    ],
)
def test_what_is_read_is_what_was_sent(text: str) -> None:
    assert json.loads(json.dumps(read(text.encode())), parse_float=Decimal) == json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("1e999", [()]),
        ('{"a":-1e999}', [("a",)]),
        ('{"a":[0,{"b":1e-400}]}', [("a", 1, "b")]),
        ("[0.1234567890123456789012,0.5,9007199254740993.0]", [(0,), (2,)]),
        ("[4.9406564584124654e-324]", [(0,)]),
        ("0." + "1" * 5000, [()]),
        ("9" * 400 + ".5", [()]),
        ("1e99999999999999999999", [()]),
        ('{"a":1,"a":1}', [("a",)]),
        (r'{"a":1,"\u0061":1}', [("a",)]),
        ('{"x":[{"a":1,"b":2,"a":1e999}],"y":1e999}', [("x", 0, "a"), ("y",)]),
        ("-0", [()]),
        ('{"a":[0,-0 ],"b":"-0","c":-0,"d":-0.0}', [("a", 1), ("c",)]),
    ],
)
def test_what_would_come_out_as_something_else_is_refused_by_its_place(
    text: str, places: list[tuple[str | int, ...]]
) -> None:
    with pytest.raises(NotExact) as refusal:
        read(text.encode())
    assert [place for place, _ in refusal.value.defects] == places


@pytest.mark.parametrize(
    "text",
    ["", "NaN", '{"a":Infinity}', "[-Infinity]", r'"\ud800"', r'{"\udc00":1}', "[1,]", "01", "{}x", "[" * 300, "'a'"],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotJson):
        read(text.encode())


@pytest.mark.parametrize("rest", ["", "]", "NaN}", r'"\ud800"}', "[" * 300, "[" * 100_000, "\xff", "01}"])
def test_what_is_no_json_behind_a_key_that_is_there_twice_is_none(rest: str) -> None:
    with pytest.raises(NotJson):
        read(f'{{"a":1,"a":{rest}'.encode("latin-1"))


def test_bytes_that_are_no_text_are_no_json() -> None:
    with pytest.raises(NotJson):
        read(b'"\xff"')


@pytest.mark.parametrize(
    ("digits", "value"), [("0.1", 0.1), ("1e5", 1e5), ("-0.0", 0.0), ("1e999", None), ("1e-9999", None)]
)
def test_a_double_is_exact_if_it_is_written_as_it_was_read(digits: str, value: float | None) -> None:
    assert exact_float(digits) == value


@pytest.mark.parametrize("value", ["0", "[]", "{}", '""', '{"a":1}', r'"\\"', r'"\""', "[[[[0]]]]", '"a","b"'])
def test_more_values_than_anybody_needs_are_not_read(value: str) -> None:
    with pytest.raises(NotExact, match=f"more than {MOST_VALUES} values"):
        read(f"[{','.join([value] * (MOST_VALUES + 1))}]".encode())


@pytest.mark.parametrize("value", ["[]", "{}", "[[[[0]]]]", '{"a":{"b":{}}}'])
def test_lists_and_objects_count_for_what_they_cost(value: str) -> None:
    with pytest.raises(NotExact, match=f"more than {MOST_VALUES} values"):
        read(f"[{','.join([value] * (MOST_VALUES // 5))}]".encode())


def test_what_a_backend_answers_may_have_more_values() -> None:
    answer = json.dumps([0] * (MOST_VALUES_OF_ANSWERS // 2)).encode()
    assert len(read(answer, MOST_VALUES_OF_ANSWERS)) == MOST_VALUES_OF_ANSWERS // 2
    with pytest.raises(NotExact, match="more than"):
        read(answer)


@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_has_a_length(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    longest = f"{sign}{'7' * 1000}"
    assert read(f'{{"a":[{longest}]}}'.encode()) == {"a": [int(longest)]}

    def read_short_ones(text: bytes, **_: bool) -> None:
        assert len(text) < 20_000

    # Nothing reads the long ones: it takes the square of the digits.
    monkeypatch.setattr("app.exact_json.jiter.from_json", read_short_ones)
    with pytest.raises(NotExact) as refusal:
        read(f'{{"a":[{",".join([longest + "7"] * 4000)}]}}'.encode())
    assert refusal.value.defects[0] == (("a", 0), "this number has more than 1000 digits; send it as a string")
    assert len(refusal.value.defects) == 50


@pytest.mark.parametrize(
    "other",
    ["NaN", "-Infinity", r'"\ud800"', r'{"\ud800":1}', "[" * 300 + "]" * 300, "0" + "7" * 2000, "\xff", '"\n"', "1,"],
)
@pytest.mark.parametrize("digits", [2000, 5000])
@pytest.mark.parametrize("form", ["[{1},{0}]", "[{0},{1}]", '{{"a":{0},"a":{1}}}'])
def test_what_is_no_json_is_none_whatever_else_is_wrong_with_it(other: str, digits: int, form: str) -> None:
    with pytest.raises(NotJson):
        read(form.format("7" * digits, other).encode("latin-1"))


def test_a_byte_order_mark_is_no_json_whatever_else_is_wrong_with_it() -> None:
    with pytest.raises(NotJson):
        read(b"\xef\xbb\xbf[%b]" % (b"7" * 2000))


def test_digits_in_a_text_are_no_integer() -> None:
    assert read(b'{"a":"%b"}' % (b"7" * 5000)) == {"a": "7" * 5000}


@pytest.mark.parametrize("text", ["," * 4, r"]}\"a\",", r"\\,]\"", r"}\\\","])
def test_a_large_text_is_one_value_whatever_stands_in_it(text: str) -> None:
    value = text * MOST_VALUES
    assert read(f'{{"a":"{value}"}}'.encode()) == {"a": json.loads(f'"{value}"')}


def test_a_message_tells_fifty_defects_and_paths_of_some_length() -> None:
    key = "k" * 5000
    with pytest.raises(NotExact) as refusal:
        read(f'{{"{key}":[{",".join(["1e999"] * 1000)}]}}'.encode())
    assert len(refusal.value.defects) == 50
    assert len(str(refusal.value)) < 20_000


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The numbers that were compared digit by digit, which takes long."""
    found: list[str] = []
    weigh = exact_json._weighed_float

    def note(digits: str) -> float | None:
        found.append(digits)
        return weigh(digits)

    monkeypatch.setattr(exact_json, "_weighed_float", note)
    return found


def test_numbers_as_programs_write_them_cost_next_to_nothing(weighed: list[str]) -> None:
    values = [1 / n for n in range(1, 10_000)] + [1.5e300 * n for n in range(1, 1000)]
    assert read(json.dumps(values).encode()) == values
    assert weighed == []


@pytest.mark.parametrize(
    ("number", "why"), [("1.12345678901234567890", "would be altered"), ("1.500000000000000000", "too many numbers")]
)
def test_thousands_of_long_numbers_are_not_all_compared(weighed: list[str], number: str, why: str) -> None:
    with pytest.raises(NotExact, match=why) as refusal:
        read(f"[{','.join([number] * (MOST_VALUES - 5))}]".encode())
    assert len(refusal.value.defects) <= 50
    assert len(weighed) <= 10_000


@pytest.mark.parametrize(
    "value", [[], {}, 1, "", "a,b", 'a"b', "\\", {"a": [1, {"b": "]}"}]}, ["x" * 5000], "\\\\,", {"a,": ","}]
)
def test_values_are_counted_without_reading_them(value: Any) -> None:
    many = [value] * (MOST_VALUES // 10)
    text = json.dumps(many).encode()

    def count(part: Any) -> int:
        members = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        own = 5 if isinstance(part, dict | list) else 1
        return own + sum(map(count, members))

    assert count(many) / 3 <= count_values(text) <= 2 * count(many)
