"""The policy's file."""

import re
from pathlib import Path

import pytest

from app.guard.limits import Rate
from app.guard.policy import Policy
from app.guard.policy_file import PolicyMistake
from app.guard.vocabulary import Known, Vocabulary

OFFERED: Vocabulary = {
    "database": {
        "query_database": Known(tool=True, arguments=frozenset({"query", "params"})),
        "get_customer_context": Known(tool=True, arguments=frozenset({"customer_id"})),
        "save_interaction": Known(tool=True, read_only=False, arguments=frozenset({"customer_id"})),
        "db://customers{?cursor,limit}": Known(),
        "db://tickets{?cursor,limit}": Known(),
        "db://tickets/{ticket_id}": Known(),
        "prompt/answer_a_customer": Known(),
    },
    "aws": {
        "s3_download_file": Known(tool=True, arguments=frozenset({"bucket", "key"})),
        "s3_delete_object": Known(tool=True, read_only=False, arguments=frozenset({"bucket", "key"})),
    },
    "later": {},
}

THE_FILE = """\
[auth]
public_url = "https://switchboard.example.com"

[role.support_agent]
allow = ["database:read", "database:save_interaction"]
limit = "600/min burst 60"

[role.customer_bot]
bound = "customer"
allow = ["database:get_customer_context", "aws:write", "db://tickets/*"]
deny = ["aws:s3_delete_object"]
limit = "60/min"

[role.customer_bot.tool."aws:s3_download_file"]
bucket = { in = ["documents"] }
key = { prefix = "customers/{customer}/" }

[tool."aws:s3_delete_object"]
key = { prefix = "tmp/" }

[role.everything]
allow = ["database:write", "aws:write", "later:read"]
"""


def policy(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "switchboard.toml"
    file.write_text(text)
    return Policy.load(file, OFFERED)


def may(policy: Policy, *roles: str, bound: bool = False) -> set[str]:
    return {name for _, name in policy.rights(frozenset(roles), bound=bound)}


def test_reading_covers_tools_resources_and_prompts_that_change_nothing(tmp_path: Path) -> None:
    assert may(policy(tmp_path, THE_FILE), "support_agent") == set(OFFERED["database"])
    read = policy(tmp_path, '[role.reader]\nallow = ["database:read"]')
    assert may(read, "reader") == set(OFFERED["database"]) - {"save_interaction"}


def test_a_list_of_tools_covers_no_resource_that_is_not_in_it(tmp_path: Path) -> None:
    bound = may(policy(tmp_path, THE_FILE), "customer_bot", bound=True)
    assert bound == {"get_customer_context", "s3_download_file", "db://tickets/{ticket_id}"}
    for entry, expected in {
        "db://tickets": {"db://tickets{?cursor,limit}"},
        "db://tickets/*": {"db://tickets/{ticket_id}"},
        "database:prompt/*": {"prompt/answer_a_customer"},
        "database:prompt/answer_a_customer": {"prompt/answer_a_customer"},
        "database:save_interaction": {"save_interaction"},
    }.items():
        assert may(policy(tmp_path, f'[role.one]\nallow = ["{entry}"]'), "one") == expected


def test_no_role_an_unknown_role_and_an_unbound_role_mean_nothing(tmp_path: Path) -> None:
    read = policy(tmp_path, THE_FILE)
    assert may(read) == may(read, "of_last_year") == may(read, "customer_bot") == set()
    assert may(read, "customer_bot", "support_agent") == may(read, "support_agent")


def test_roles_add_up_and_a_refusal_of_one_beats_all(tmp_path: Path) -> None:
    read = policy(tmp_path, THE_FILE)
    assert "s3_delete_object" in may(read, "everything")
    assert "s3_delete_object" not in may(read, "everything", "customer_bot", bound=True)
    permit = read.rights(frozenset({"everything", "customer_bot"}), bound=True)["aws", "s3_download_file"]
    [by_bot, by_everything] = permit.grants
    assert [rule.argument for rule in by_bot.rules] == ["bucket", "key"]
    assert by_everything.rules == ()


def test_a_rule_for_every_role_holds_for_every_role(tmp_path: Path) -> None:
    rights = policy(tmp_path, THE_FILE).rights(frozenset({"everything"}), bound=False)
    [grant] = rights["aws", "s3_delete_object"].grants
    assert [rule.values for rule in grant.rules] == [("tmp/",)]


def test_the_highest_limit_holds_and_none_is_the_highest(tmp_path: Path) -> None:
    read = policy(tmp_path, THE_FILE)
    with_a_bot = read.rights(frozenset({"support_agent", "customer_bot"}), bound=True)
    assert {permit.rate for permit in with_a_bot.values()} == {Rate(10.0, 60)}
    with_everything = read.rights(frozenset({"support_agent", "everything"}), bound=True)
    assert {permit.rate for permit in with_everything.values()} == {None}


def test_what_is_needed_is_named_from_the_narrowest_on(tmp_path: Path) -> None:
    read = policy(tmp_path, THE_FILE)
    assert read.scopes_for("database", "query_database") == [
        "database:query_database",
        "database:read",
        "database:write",
    ]
    assert read.scopes_for("database", "save_interaction") == ["database:save_interaction", "database:write"]
    assert read.scopes_for("database", "nothing") == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[role.a]\nallow = ["database:querry_database"]', 2, "did you mean 'query_database'?"),
        ('[role.a]\nallow = [\n  "database:read",\n  "databse:read",\n]', 4, "did you mean 'database'?"),
        ('[role.a]\ndeny = ["aws:s3_delete"]', 2, "has no tool 's3_delete'"),
        ('[role.a]\nallow = ["read"]', 2, "write <server>:read"),
        ('[role.a]\nallow = ["db://tickts/*"]', 2, "no server offers"),
        ('[role.a]\nallow = ["aws:*"]', 2, "has no tool '*'"),
        ('[role.a.tool."aws:s3_download_file"]\nbukket = { in = ["a"] }', 2, "did you mean 'bucket'?"),
        ('[role.a.tool."aws:s3_downloads"]\nkey = { in = ["a"] }', 1, "has no tool 's3_downloads'"),
        ('[role.a.tool."aws:read"]\nkey = { in = ["a"] }', 1, "has no tool 'read'"),
        ('[role.a.tool."aws:s3_download_file"]\nkey = { prefix = "{customer}/" }', 2, 'bound = "customer"'),
        ('[tool."aws:s3_download_file"]\nkey = { prefix = "{customer}/" }', 2, 'bound = "customer"'),
        (
            '[role.a]\nbound = "customer"\n[role.a.tool."aws:s3_download_file"]\nkey = { set = "{tenant}" }',
            4,
            "{tenant} stands for nothing",
        ),
        ('[role.a]\nlimit = "fast"', 2, "600/min burst 60"),
        ("[role.a]\nalow = []", 2, "alow"),
        ('[role.a]\nbound = "tenant"', 2, "customer"),
        ('[role."A-b"]\nallow = []', 1, "role"),
        ('[roles.a]\nallow = ["database:read"]', 1, "roles"),
        ('[role.a.tool."aws:s3_download_file"]\nkey = { in = ["a"], prefix = "b" }', 2, "one of"),
        ("[auth]\npublic_url = 'switchboard.example.com'", 2, "public_url"),
        ("[auth]\npublic_url = 'wss://switchboard.example.com'", 2, "public_url"),
        ("[auth]\npublic_url = 'https://switchboard.example.com/$(id)'", 2, "public_url"),
        ("[auth]\npublic_url = 'https://switchboard.example.com:70000'", 2, "public_url"),
    ],
)
def test_a_mistake_stops_the_start_and_names_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(PolicyMistake) as mistake:
        policy(tmp_path, text)
    assert f"switchboard.toml:{line}: " in str(mistake.value)
    assert said in str(mistake.value)


@pytest.mark.parametrize("text", ["[role", "[role.a]\nallow = 'x", "[role.a]\n[role.a]"])
def test_what_is_no_toml_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyMistake, match=r"switchboard\.toml:\d: .*(line 2|end of document)"):
        policy(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyMistake, match=r"none\.toml: No such file"):
        Policy.load(tmp_path / "none.toml", OFFERED)


def test_a_server_whose_tools_come_later_may_be_named(tmp_path: Path) -> None:
    assert may(policy(tmp_path, '[role.a]\nallow = ["later:read", "later:anything"]'), "a") == set()


OPERATING = """\
[role.operator]
allow = ["metrics:read", "console:read", "console:act", "console:keys", "console:settings"]

[role.reader]
allow = ["console:read"]
deny = ["metrics:read"]
"""


def test_operators_are_allowed_what_is_no_servers(tmp_path: Path) -> None:
    found = policy(tmp_path, OPERATING)
    everything = {("metrics", "read"), *(("console", name) for name in ("read", "act", "keys", "settings"))}
    assert found.rights(frozenset({"operator"}), bound=False).keys() == everything
    assert everything <= found.rights(frozenset({"developer"}), bound=False).keys()
    both = found.rights(frozenset({"reader", "operator"}), bound=False)
    assert both.keys() == everything - {("metrics", "read")}
    assert found.scopes_for("console", "act") == ["console:act"]


def test_nobody_who_is_bound_to_a_customer_is_allowed_what_operators_are(tmp_path: Path) -> None:
    found = policy(tmp_path, OPERATING)
    for role in ("operator", "developer"):
        grants = found.rights(frozenset({role}), bound=True)
        assert not {server for server, _ in grants} & {"metrics", "console"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[role.bot]\nbound = "customer"\nallow = ["metrics:read"]\n', "3: allow of role bot: metrics:read shows what"),
        ('[role.a]\nallow = ["console:write"]\n', "2: allow of role a: 'console:write' is none of console:read, "),
        ('[role.a]\ndeny = ["metrics:raed"]\n', "2: deny of role a: 'metrics:raed' is none of metrics:read"),
        ('[limits]\n"console:read" = "5/s"\n', "2: 'console:read' takes no limit and no rules"),
        ('[tool."metrics:read"]\npath = { set = "x" }\n', "1: 'metrics:read' takes no limit and no rules"),
    ],
)
def test_scopes_of_operators_are_whole_words(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(PolicyMistake, match=re.escape(f"switchboard.toml:{complaint}")):
        policy(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://switchboard.example.com/", "https://switchboard.example.com"),
        ("HTTPS://Switchboard.Example.com:443", "https://switchboard.example.com"),
        ("http://switchboard:8080/gw/", "http://switchboard:8080/gw"),
        ("http://[2001:DB8::1]:080/gw/a.b", "http://[2001:db8::1]/gw/a.b"),
    ],
)
def test_the_public_address_is_read_as_browsers_write_it(tmp_path: Path, written: str, read: str) -> None:
    assert policy(tmp_path, f'[auth]\npublic_url = "{written}"').public_url == read
