"""Rules on arguments."""

import pytest
from pydantic import JsonValue, ValidationError

from app.guard.rules import Refused, Rule, RuleAsWritten, unknown_placeholders

BELOW = Rule("key", "prefix", ("customers/{customer}/",))


@pytest.mark.parametrize(
    "key",
    [
        "customers/12345/a.pdf",
        "customers/12345/2026/é.pdf",
        "customers/12345/a..b",
        "customers/12345/a;b..;c",
        "customers/12345/\u2764\ufe0f.png",
        "customers/12345/1\u20442",
        "customers/12345/",
    ],
)
def test_what_lies_below_a_prefix_passes_unchanged(key: str) -> None:
    assert BELOW.judge(key, "12345") == key


@pytest.mark.parametrize(
    "key",
    [
        None,
        5,
        "",
        "customers/12346/a.pdf",
        "customers/12345",
        "customers/123456/a.pdf",
        " customers/12345/a.pdf",
        "/customers/12345/a.pdf",
        "Customers/12345/a.pdf",
        "customers/12345/../12346/a.pdf",
        "customers/12345/./../12346/a.pdf",
        "customers/12345/..\\12346",
        "customers/12345/..;/12346/a.pdf",
        "customers/12345/..%3Bx=1/12346/a.pdf",
        "customers/12345/.. /12346/a.pdf",
        "customers/12345/%2e%2e/12346/a.pdf",
        "customers/12345/%252e%252e/12346/a.pdf",
        "customers/12345/%25252e%25252e/12346/a.pdf",
        "customers/12345/%2E%2E%2F12346",
        "customers/12345/\uff0e\uff0e/12346/a.pdf",
        "customers/12345/\u2025/12346/a.pdf",
        "customers/12345/..\uff0f12346",
        "customers/12345/.\u200b./12346",
        "customers/12345/.\u034f./12346",
        "customers/12345/..\ufe0f/12346",
        "customers/12345/\u3164../12346",
        "customers/12345/..\u221512346",
        "customers/12345/..\u204412346",
        "customers/12345/..\u221612346",
        "customers/12345/\u3002\u3002/12346",
        "customers/12345/\uff61\uff61/12346",
        "customers/12345/\u2024\u2024/12346",
        "customers/\u0661\u0662\u0663\u0664\u0665/a.pdf",
        "customers/\uff11\uff12\uff13\uff14\uff15/a.pdf",
        "\u0441ustomers/12345/a.pdf",
        "customers/12345/\x00/12346",
        "customers/12345/a\n../12346",
        "customers/12345/..",
    ],
)
def test_what_does_not_lie_below_a_prefix_is_refused(key: JsonValue) -> None:
    with pytest.raises(Refused) as refusal:
        BELOW.judge(key, "12345")
    assert refusal.value.argument == "key"
    assert "12346" not in str(refusal.value)


@pytest.mark.parametrize("customer", [
    None, "", "..", ".", "a/b", "a\\b", "1\n2", "%2e%2e", "\uff052f", "..\uff052f", "\u2025", "a\x00", "\uff11\uff12",
    "1\u200b2", "1\u034f2", "\u3164", "12\ufe0f", "e\u0301", "a%41", "a\u22151", "\u3002\u3002", "\ufb01", "1\u00b2",
])  # fmt: skip
def test_an_id_that_would_change_the_rule_is_not_filled_in(customer: str | None) -> None:
    for rule in (BELOW, Rule("key", "set", ("customer-{customer}",)), Rule("key", "in", ("{customer}",))):
        with pytest.raises(Refused):
            rule.judge(f"customers/{customer}/x", customer)


@pytest.mark.parametrize("customer", ["12345", "\u00e9", "\u0661\u0662", "acme-1.b_c", "100%", "a.b", "\u5ba2\u6237"])
def test_an_id_that_stays_what_it_is_is_filled_in(customer: str) -> None:
    assert BELOW.judge(f"customers/{customer}/x", customer) == f"customers/{customer}/x"


def test_one_of_the_values_is_one_of_them_by_type_as_well() -> None:
    rule = Rule("partition", "in", (0, 1))
    assert rule.judge(1, None) == 1
    others: list[JsonValue] = [True, "1", 1.0, 2, None, [1]]
    for other in others:
        with pytest.raises(Refused, match="0, 1"):
            rule.judge(other, None)


def test_what_is_set_is_set_whatever_was_given() -> None:
    rule = Rule("key", "set", ("customer-{customer}",))
    assert rule.judge("customer-12346", "12345") == "customer-12345"
    assert rule.judge(None, "12345") == "customer-12345"


@pytest.mark.parametrize(
    "written", [{}, {"in": []}, {"in": ["a"], "prefix": "a"}, {"prefix": ""}, {"sett": "a"}, {"in": [1.5]}]
)
def test_a_rule_has_one_form(written: dict[str, JsonValue]) -> None:
    with pytest.raises(ValidationError):
        RuleAsWritten.model_validate(written)


def test_braces_that_stand_for_nothing_are_found() -> None:
    assert unknown_placeholders("a/{customer}/{tenant}/{") == ["{tenant}", "{"]
