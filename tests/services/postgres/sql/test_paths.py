"""What a jsonpath may find, read off its text."""

import pytest

from app.services.postgres.sql.paths import read_path


@pytest.mark.parametrize(
    ("text", "repeats", "descents"),
    [
        ("$.a[*].b", 1, 0),
        ("strict $.**{2 to last}.a", 1, 1),
        ("$[0, 1, 2 to last]", 3, 0),
        ("$[$.a[0, 1], 1].keyvalue().value", 12, 0),
        ('$."a**b"[0] /* .** , */ ? (@.c == "[1,2]")', 1, 0),
        ("$.a.decimal(5, 2)", 1, 0),
        ("$.KeyValue()", 3, 0),
        (r"$.\KEYV\u0061lu\u{65}()", 3, 0),
        ("is no path ] ) , [", 1, 0),
    ],
)
def test_steps_that_repeat_are_counted(text: str, repeats: int, descents: int) -> None:
    path = read_path(text)
    assert (path.repeats, path.descents) == (repeats, descents)


@pytest.mark.parametrize(
    ("text", "compares"),
    [
        ("$.a ? (@ == 1)", False),
        ("$.a ? (-1.5e3 <= @ && @ < .5)", False),
        ('$.a[*] ? (@.b != "x" || "y" > @.c)', False),
        ("$.a ? (@.b == true && null <> @.c)", False),
        ("$.a ? (@ == $.b[*])", True),
        ("$.a ? (@ < $limit)", True),
        ("$.a ? (@.true == $.b)", True),
        ('$.a ? (@."1" == $.b)', True),
        ("$.a[*] > $.b[*]", True),
        ("$.a ? (@ == -$.b[*])", True),
    ],
)
def test_comparisons_of_paths_with_paths_are_found(text: str, compares: bool) -> None:
    assert read_path(text).compares_paths == compares


@pytest.mark.parametrize(
    ("text", "makes"),
    [
        ("$.a[*].*.b ? (@ > 1e5)", False),
        ('$."a * b" ? (@.number == 1)', True),
        ("$[*].number()", True),
        (r"$[*].n\x75mber()", True),
        ("$.a.decimal(9, 2)", True),
        ("$.a * 10", True),
        ("$[*] / 10", True),
    ],
)
def test_numbers_that_a_path_makes_are_told_from_those_that_it_finds(text: str, makes: bool) -> None:
    assert read_path(text).makes_numbers == makes
