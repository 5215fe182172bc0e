"""`switchboard policy`: what the file comes to, and which line decides."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.commands import switchboard

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


def policy(directory: Path, *arguments: str, text: str = POLICY) -> tuple[int, str]:
    (directory / "switchboard.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        result = CliRunner().invoke(switchboard, ["policy", *arguments])
    return result.exit_code, result.output


def test_a_file_that_fits_is_summed_up(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "check")
    assert (status, said.splitlines()[0]) == (0, "switchboard.toml fits.")
    assert "  agent: 5 tools, " in said
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
        (["--role", "agent", "aws:s3_upload_file", "{"], ["refused (400 malformed_request)"]),
    ],
)
def test_the_lines_that_decide_are_named(tmp_path: Path, arguments: list[str], lines: list[str]) -> None:
    status, said = policy(tmp_path, "explain", *arguments)
    assert status == 0
    for line in lines:
        assert line in said
    assert ("denies it" in said) is any("denies it" in line for line in lines)


def test_what_does_not_exist_is_told(tmp_path: Path) -> None:
    status, said = policy(tmp_path, "explain", "--role", "agent", "database:nope")
    assert (status, "There is no tool 'nope' on database" in said) == (2, True)
