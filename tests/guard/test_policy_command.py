"""`switchboard policy`: what the file comes to, and which line decides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.catalogue import Catalogue, load_servers
from app.cli.commands import switchboard
from app.guard.key_file import as_first_key
from app.guard.keys import STORED_KEYS, mint
from tests.guard.test_prompts import StageMCPServer

POLICY = """\
[role.agent]
allow = ["database:read", "aws:s3_upload_file"]

[role.agent.tool."aws:s3_upload_file"]
key = { prefix = "letters/" }

[role.bot]
bound = "customer"
allow = ["database:get_customer_context"]
deny = ["aws:s3_delete_object"]
"""


READING = sum(offer.declared.read_only for offer in Catalogue(load_servers(["database"])).tools())
"""How many tools of the database change nothing."""


def policy(directory: Path, *arguments: str, text: str = POLICY) -> tuple[int, str]:
    (directory / "switchboard.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        result = CliRunner().invoke(switchboard, ["policy", *arguments])
    return result.exit_code, result.output


def test_a_file_that_fits_is_summed_up(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "check")
    assert (status, said.splitlines()[0]) == (0, "switchboard.toml fits.")
    assert f"  agent: {READING + 1} tools, " in said
    assert "bound to a customer" in said


def test_one_that_does_not_fit_is_told_as_at_the_start(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "check", text='[role.a]\nallow = ["database:nope"]\n')
    assert (status, "switchboard.toml:2: allow of role a: database has no tool 'nope'" in said) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["--role", "agent", "aws:s3_upload_file", '{"bucket": "docs", "key": "letters/1", "content": "x"}'],
            ["allowed", "the role agent allows aws:s3_upload_file (switchboard.toml:2)", "(switchboard.toml:5)"],
        ),
        (
            ["--role", "agent", "aws:s3_upload_file", '{"bucket": "docs", "key": "bills/1", "content": "x"}'],
            ["refused (403 argument_refused)", "but key: must begin with 'letters/' here (switchboard.toml:5)"],
        ),
        (["--role", "agent", "aws:s3_delete_object"], ["refused (403 insufficient_scope)", "aws:write"]),
        (
            ["--role", "bot", "--role", "developer", "aws:s3_delete_object"],
            # The role is none without its binding, and what it denies, denied to nobody.
            ["allowed", "the role bot is for callers who are bound to a customer (switchboard.toml:8)"],
        ),
        (
            ["--role", "bot", "--customer", "1", "aws:s3_delete_object"],
            ["refused (403 insufficient_scope)", "the role bot denies it (switchboard.toml:10)"],
        ),
        (["--role", "agent", "db://tickets/5"], ["allowed", "database:read (switchboard.toml:2)"]),
        (["--role", "none", "db://tickets/5"], ["refused (403 insufficient_scope)", "there is no role none"]),
        (["--role", "developer", "metrics:read"], ["allowed", "the role developer allows metrics:read"]),
        (["--role", "agent", "console:act"], ["refused (403 insufficient_scope)", "It takes console:act."]),
        (["--role", "developer", "--customer", "1", "console:read"], ["refused (403 not_confined)"]),
        (["--role", "agent", "aws:s3_upload_file", "{"], ["refused (400 malformed_request)"]),
    ],
)
def test_the_lines_that_decide_are_named(tmp_path: Path, arguments: list[str], lines: list[str]) -> None:
    status, said = policy(tmp_path, "explain", *arguments)
    assert status == 0
    for line in lines:
        assert line in said
    assert ("denies it" in said) is any("denies it" in line for line in lines)


@pytest.fixture
def key_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Keys in a file, by what they are for."""
    monkeypatch.setenv("SWITCHBOARD_KEY_FILE", str(tmp_path / "keys.json"))
    first = mint(frozenset({"agent"}))[1]
    monkeypatch.setenv("SWITCHBOARD_FIRST_KEY", as_first_key(first))
    made = {
        "agent": mint(frozenset({"agent"}))[1],
        "bot": mint(frozenset({"bot"}), customer="12345")[1],
        "expired": mint(frozenset({"agent"}), expires_at=1.0)[1],
    }
    content = {"keys": STORED_KEYS.dump_python(list(made.values()), mode="json")}
    (tmp_path / "keys.json").write_text(json.dumps(content))
    return {name: key.id for name, key in made.items()} | {"first": first.id}


@pytest.mark.parametrize(
    ("key", "what", "lines"),
    [
        ("agent", ["db://tickets/5"], ["allowed", " has agent", "database:read (switchboard.toml:2)"]),
        ("first", ["db://tickets/5"], ["allowed", " has agent"]),
        ("bot", ["database:get_customer_context", "{}"], ["allowed", "bound to the customer 12345"]),
        ("bot", ["database:get_customer_context", '{"customer_id": "1"}'], ["refused (404 not_found)"]),
        ("bot", ["db://tickets/5"], ["refused (403 insufficient_scope)"]),
        ("expired", ["db://tickets/5"], ["refused (401 unauthenticated)", "expired"]),
    ],
)
def test_what_a_key_may_do_is_explained(
    tmp_path: Path, key_ids: dict[str, str], key: str, what: list[str], lines: list[str]
) -> None:
    status, said = policy(tmp_path, "explain", "--key", key_ids[key], *what)
    assert status == 0, said
    for line in lines:
        assert line in said


@pytest.mark.parametrize(
    "who", [[], ["--key", "abcdefghijkl", "--role", "agent"], ["--key", "abcdefghijkl", "--customer", "1"]]
)
def test_who_calls_is_said_in_one_way(tmp_path: Path, who: list[str]) -> None:
    status, said = policy(tmp_path, "explain", *who, "db://tickets/5")
    assert (status, "--key ID, or --role NAME" in said) == (2, True)


def test_a_key_that_nobody_has_made_is_told(tmp_path: Path, key_ids: dict[str, str]) -> None:
    status, said = policy(tmp_path, "explain", "--key", "abcdefghijkl", "db://tickets/5")
    assert (status, "There is no key of that id" in said) == (1, True)


def test_arguments_that_are_no_text_are_refused_as_the_call_would_be(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "explain", "--role", "agent", "aws:s3_upload_file", '{"bucket": "\udcff"}')
    assert (status, "refused (400 malformed_request)" in said) == (0, True)


@pytest.mark.parametrize(
    "rule",
    [
        'prefix = "customers/{customer}/../"',
        'prefix = "letters/%2e%2e/"',
        'prefix = "./letters/"',
        'prefix = "letters\u200b/"',
        'set = "customers/{customer}/../1"',
        'in = ["customers/{customer}/..%2f1"]',
    ],
)
def test_a_rule_that_leads_out_of_what_it_says_is_a_mistake(tmp_path: Path, rule: str) -> None:
    text = POLICY + f'[role.bot.tool."aws:s3_delete_object"]\nkey = {{ {rule} }}\n'
    status, said = policy(tmp_path, "check", text=text)
    assert (status, "switchboard.toml:12" in said, "stays below" in said) == (2, True, True), said


@pytest.mark.parametrize("rule", ['prefix = "100%/a..b/"', 'set = "../1"', 'in = ["a%2fb"]'])
def test_what_leads_nowhere_else_may_be_said(tmp_path: Path, rule: str) -> None:
    status, said = policy(tmp_path, "check", text=POLICY.replace('prefix = "letters/"', rule))
    assert status == 0, said


def test_a_file_that_nests_without_end_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "check", text=f"a = {'[' * 5000}{']' * 5000}")
    assert (status, "too deeply" in said) == (2, True)


def test_what_does_not_exist_is_told(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "explain", "--role", "agent", "database:nope")
    assert (status, "There is no tool 'nope' on database" in said) == (2, True)


ROLE = '[role.a]\nallow = ["database:read"]\n'
RULES = '[role.a]\nallow = ["aws:write"]\n[role.a.tool."aws:s3_upload_file"]\n'


@pytest.mark.parametrize(("text", "line", "words"), [
    (ROLE + 'alow = []\n', 3, "nothing of that name"),
    ('[roles.a]\n', 1, "nothing of that name"),
    ('[role.a]\nallow = "database:read"\n', 2, "expected a list"),
    ('[role.a]\nallow = [5]\n', 2, "expected a text in quotes"),
    ('[role]\na = "x"\n', 2, "expected a table"),
    ('[role.Agent]\n', 1, "small letters"),
    ('[auth]\npublic_pages = "perhaps"\n', 2, "true or false"),
    ('[auth]\nlocal_role = "agnt"\n[role.agent]\n', 2, "did you mean 'agent'?"),
    (ROLE + "[role.a]\n", 3, "twice"),
    (ROLE + "allow = []\n", 3, "overwrite"),
    ('[role.a]\nallow = ["database:read"\n', 2, "Unclosed array"),
    ('[role.a]\r\nallow = ["database:reed"]\r\n', 2, "no tool 'reed'"),
    ('\ufeff[role.a]\nallow = ["database:reed"]\n', 2, "no tool 'reed'"),
    ('[role.a]\nallow = [\n  "database:read",\n  "database:reed",\n]\n', 4, "no tool 'reed'"),
    ('role.a.allow = ["database:reed"]\n', 1, "no tool 'reed'"),
    ('[role.a]\nallow = ["*"]\n', 2, "write <server>:read"),
    ('[role.a]\nallow = ["mcp_database:read"]\n', 2, "did you mean 'database'?"),
    (ROLE + 'deny = ["database:nope"]\n', 3, "no tool 'nope'"),
    (ROLE + "limit = 600\n", 3, "expected a text in quotes"),
    (ROLE + 'limit = "600 per minute"\n', 3, "'600/min burst 60'"),
    ('[limits]\n"database:nope" = "1/s"\n', 2, "no tool 'nope'"),
    (RULES + 'buket = { in = ["a"] }\n', 4, "did you mean 'bucket'?"),
    (RULES + 'key = "documents"\n', 4, "expected a table"),
    (RULES + 'key = { in = [] }\n', 4, "at least one"),
    (RULES + "key = {}\n", 4, "write one of in"),
    (RULES + 'key = { suffix = "a" }\n', 4, "nothing of that name"),
    (RULES + 'key = { prefix = "c/{customer}/" }\n', 4, 'bound = "customer"'),
    (RULES + '"metadata.owner" = { in = ["chat"] }\n', 4, "no argument"),
    (RULES, 3, "expected at least one"),
    (RULES + "key = { in = [1.5] }\n", 4, "expected a text in quotes, a whole number, true or false"),
    (RULES + "key = { set = 5 }\n", 4, "no call could pass with 5 there"),
    (RULES + 'metadata = { set = "a" }\n', 4, "no call could pass"),
    (RULES + 'encoding = { in = ["text", "utf8"] }\n', 4, 'no call could pass with "utf8" there'),
    (RULES + 'if_none_match = { set = "true" }\n', 4, 'no call could pass with "true" there'),
    (RULES + 'if_none_match = { set = 1 }\n', 4, "no call could pass with 1 there"),
    (RULES + 'filename = { in = ["a"] }\n', 4, "arguments: bucket, content, content_type, encoding"),
    (RULES + 'key = { prefix = "c/{tenant}/" }\n', 4, "{tenant} stands for nothing"),
    (RULES.replace("upload_file", "list_objects") + "max_keys = { in = [true] }\n", 4, "no call could pass with true"),
    (RULES.replace("upload_file", "list_objects") + 'max_keys = { prefix = "1" }\n', 4, 'could pass with "1" there'),
    (RULES.replace("upload_file", "list_objects") + "max_keys = { set = 1001 }\n", 4, "greater than the maximum"),
    (RULES.replace("aws:write", "aws:read") + 'key = { in = ["a"] }\n', 3, 'or write [tool."aws:s3_upload_file"]'),
    (ROLE + 'limits = { "aws:s3_upload_file" = "5/s" }\n', 3, "role a does not allow aws:s3_upload_file"),
    (ROLE + 'limits = { aws = "5/s" }\n', 3, "role a does not allow aws"),
    (ROLE + 'limits = { "database:read" = "5/s" }\n', 3, "no tool 'read'; tools: query_database"),
    (ROLE + 'limit = "0/s"\n', 3, "'600/min burst 60'"),
    (ROLE + 'bound = "tenant"\n', 3, 'expected "customer"'),
    (ROLE + "bound = true\n", 3, 'expected "customer"'),
    (ROLE + '[role.a.tools."aws:s3_upload_file"]\nkey = { in = ["a"] }\n', 3, "did you mean 'tool'?"),
    ('[role.a]\nallow = ["database:prompt/answer"]\n', 2, "database has no prompts"),
    ('[role.a]\nallow = ["database:querying"]\n', 2, "tools: query_database, get_customer_context"),
    ('[role.a]\nallow = ["zzz:read"]\n', 2, "servers: database, kafka, aws, console, metrics"),
    ('[auth]\npublic_pages = "yes"\n', 2, "true or false, without quotes"),
    ("[auth]\npublic_pages = 1\n", 2, "true or false, without quotes"),
    ('[auth]\npublic_url = "switchboard"\n', 2, "an address such as https://switchboard.example.com"),
    ('[auth]\nissuer = "x"\n', 2, "there are public_url, public_pages, local_role"),
])  # fmt: skip
def test_each_mistake_is_told_with_its_line_and_in_words(tmp_path: Path, text: str, line: int, words: str) -> None:
    status, said = policy(tmp_path, "check", text=text)
    assert (status, f"switchboard.toml:{line}: " in said, words in said) == (2, True, True), said
    assert "AsWritten" not in said
    assert "Input should" not in said


@pytest.mark.parametrize(("text", "warnings"), [
    ("[role.a]\n", ["switchboard.toml:1: role a allows nothing"]),
    (ROLE + 'deny = ["database:write"]\n', ["switchboard.toml:2: allow of role a: database:read is denied again"]),
    ('[role.a]\nallow = ["database:prompt/*"]\n', ["switchboard.toml:2: allow of role a: database has no prompts"]),
    (
        ('[role.a]\nbound = "customer"\nallow = ["database:query_database",\n"aws:s3_download_file",\n'
        '"kafka:publish_message", "aws:lambda_invoke", "db://tickets"]\n'
        '[role.a.tool."aws:s3_download_file"]\nkey = { prefix = "customers/{customer}" }\n'),
        [
            "switchboard.toml:3: allow of role a: query_database can't be confined to one customer",
            "switchboard.toml:4: allow of role a: s3_download_file wants a rule on key that says {customer}",
            "switchboard.toml:5: allow of role a: publish_message wants a rule on topic, so",
        ],
    ),
    # What denies in vain for now is meant so, and a wide entry stands for what there is of it.
    (ROLE + 'deny = ["aws:s3_delete_object"]\n', []),
    ('[role.a]\ndeny = ["aws:s3_delete_object"]\n', []),
    ('[role.a]\nbound = "customer"\nallow = ["database:read", "aws:read"]\n', []),
    (
        ('[role.a]\nbound = "customer"\nallow = ["kafka:publish_message", "aws:s3_download_file"]\n'
        '[tool."kafka:publish_message"]\ntopic = { in = ["a"] }\n'
        '[role.a.tool."aws:s3_download_file"]\nkey = { prefix = "customers/{customer}/" }\n'),
        [],
    ),
])  # fmt: skip
def test_what_is_hardly_meant_so_is_warned_of(tmp_path: Path, text: str, warnings: list[str]) -> None:
    status, said = policy(tmp_path, "check", text=text)
    assert (status, said.splitlines()[0]) == (0, "switchboard.toml fits.")
    told = [line.removeprefix("Warning: ") for line in said.splitlines() if line.startswith("Warning: ")]
    assert [line.startswith(warning) for line, warning in zip(told, warnings, strict=True)] == [True] * len(told), told


def test_the_start_and_the_doctor_warn_of_it_too(tmp_path: Path) -> None:
    (tmp_path / "switchboard.toml").write_text("[role.a]\n")
    switchboard = str(Path(sys.executable).with_name("switchboard"))
    for command in ("stdio", "doctor"):
        ended = subprocess.run(
            [switchboard, command], cwd=tmp_path, input="", capture_output=True, text=True, timeout=60, check=False
        )
        assert "switchboard.toml:1: role a allows nothing" in ended.stdout + ended.stderr, command


def test_an_address_with_a_password_in_it_is_not_repeated(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "check", text='[auth]\npublic_url = "https://me:hunter2@example.com"\n')
    assert (status, "switchboard.toml:2: " in said, "hunter2" in said) == (2, True, False)


def test_a_rule_may_be_on_an_argument_that_is_true_or_false(tmp_path: Path) -> None:
    text = RULES + "if_none_match = { set = true }\n"
    asked = ["--role", "a", "aws:s3_upload_file", '{"bucket": "docs", "key": "a", "content": "x"}']
    status, said = policy(tmp_path, "explain", *asked, text=text)
    assert (status, said.splitlines()[0]) == (0, "allowed"), said
    text = RULES + "if_none_match = { in = [true] }\n"
    status, said = policy(tmp_path, "explain", *asked, text=text)
    assert "refused (403 argument_refused): if_none_match: must be one of true here" in said


def test_a_file_with_a_developer_of_its_own_says_what_that_comes_to(tmp_path: Path) -> None:
    _, said = policy(tmp_path, "check", text='[role.developer]\nallow = ["database:read"]\n')
    assert f"  developer: {READING} tools, " in said


@pytest.mark.parametrize(("asked", "words"), [
    (["--role", "Agent", "database:query_database"], "can't be the name of a role"),
    (["--role", "", "database:query_database"], "can't be the name of a role"),
    (["--role", "bot", "--customer", "", "database:get_customer_context"], "expected 1 to 64 characters"),
    (["--role", "bot", "--customer", "../1", "database:get_customer_context"], "expected 1 to 64 characters"),
    (["--role", "agent", "db://tickets/5", "{}"], "Only tools have arguments here; say db://tickets/5 alone."),
    (["--role", "agent", "metrics:read", "{}"], "Only tools have arguments here"),
    (["--role", "agent", "console:write"], "console has read, act, keys, settings, and not 'write'"),
    (["--role", "agent", "database:prompt/answer"], "database has no prompts"),
    (["--role", "agent", "database"], "no tool '' on database"),
    (["--role", "agent", "db://nothing"], "no resource"),
    (["--role", "agent", "zzz:read"], "There is no server 'zzz'. Servers: database, kafka, aws."),
    (["--role", "agent"], "Missing argument 'WHAT'"),
    (["--role", "agent", "database:query_database", "{}", "{}"], "unexpected extra argument"),
    (["--config", "none.toml", "--role", "agent", "database:query_database"], "none.toml: No such file"),
])  # fmt: skip
def test_what_can_not_be_explained_is_a_mistake_of_who_asks(tmp_path: Path, asked: list[str], words: str) -> None:
    status, said = policy(tmp_path, "explain", *asked)
    assert (status, words in said, "Traceback" in said) == (2, True, False), said


@pytest.mark.parametrize("given", ["[]", "5", "null", '"text"', "{", "{} {}", '{"bucket": "a", "bucket": "b"}'])
def test_arguments_that_are_no_object_are_refused_as_the_call_would_be(tmp_path: Path, given: str) -> None:
    status, said = policy(tmp_path, "explain", "--role", "agent", "aws:s3_upload_file", given)
    assert status == 0
    assert said.startswith(("refused (422 invalid_arguments)", "refused (400 malformed_request)")), said


def test_a_prompt_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.policy.load_servers", lambda: [StageMCPServer()])
    text = '[role.a]\nallow = ["stage:prompt/*"]\ndeny = ["stage:prompt/curtain"]\n'
    for name, line in {
        "curtain": "the role a denies it (switchboard.toml:3)",
        "applause": "the role a allows stage:prompt/* (switchboard.toml:2)",
    }.items():
        status, said = policy(tmp_path, "explain", "--role", "a", f"stage:prompt/{name}", text=text)
        assert (status, said.splitlines()[-1].strip()) == (0, line)


@pytest.mark.parametrize(("content", "words"), [
    (b"[role.a]\n# \xe9\n", "switchboard.toml:2: not UTF-8"),
    ("[role.a]\n".encode("utf-16"), "switchboard.toml:1: not UTF-8"),
    (None, "is a directory"),
])  # fmt: skip
def test_what_is_no_file_of_text_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "switchboard.toml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    result = CliRunner().invoke(switchboard, ["policy", "check", "--config", str(file)])
    assert (result.exit_code, words in result.output) == (2, True), result.output
