"""Failures as another process words them: whatever it says, one of our exceptions comes of it."""

import json
from typing import Any

import pytest

from agents.errors import BackendUnavailable, CallFailed, NotFound, failure_of_problem, seconds_to_wait

ODD: list[Any] = [None, True, -1, 0.5, 1e308, float("inf"), float("nan"), 10**5000, "", "text", "\ud800", [], [[1]], {}]


@pytest.mark.parametrize("field", ["code", "status", "detail", "title", "request_id", "retry_after", "errors"])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_any_value_of_any_field_is_survived(field: str, value: Any) -> None:
    failure = failure_of_problem({"code": "not_found", "status": 404, "detail": "None here.", field: value})
    assert isinstance(failure, CallFailed)
    assert str(failure)
    assert failure.retry_after is None or 0 <= failure.retry_after < float("inf")
    assert all(type(text) is str for text in (failure.code, failure.message))
    if field != "code":
        assert type(failure) is NotFound


@pytest.mark.parametrize("entry", ODD, ids=range(len(ODD)))
def test_any_entry_among_the_refused_arguments_is_survived(entry: Any) -> None:
    problem = {"code": "invalid_arguments", "errors": [entry, {"field": entry, "message": entry}, {"field": "limit"}]}
    errors = failure_of_problem(problem).errors
    assert errors[-1].field == "limit"
    assert all(type(error.field) is type(error.message) is str for error in errors)


@pytest.mark.parametrize("body", ["{}", '{"code": null}', '{"status": 503}', '{"errors": "none"}'])
def test_an_object_that_says_next_to_nothing_is_a_failure_with_words(body: str) -> None:
    failure = failure_of_problem(json.loads(body))
    assert failure.message
    assert isinstance(failure, BackendUnavailable) is ("503" in body)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("5", 5.0), (" 7 ", 7.0), ("²", None), ("-1", None), ("9" * 400, None), ("soon", None), ("", None)],
)
def test_a_header_that_makes_no_sense_names_no_time(header: str, seconds: float | None) -> None:
    assert seconds_to_wait(header) == seconds
