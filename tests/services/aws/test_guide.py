"""`docs/aws.md` is true: its commands run on a fresh stack and answer what it shows, its defaults are the settings'."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import app
from app.local.aws import run_aws
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.services.aws.settings import AwsSettings
from app.settings import Settings
from tests.fixtures.aws import settings_for_aws
from tests.fixtures.gateway import Served, serve

GUIDE = Path(app.__file__).parents[1] / "docs" / "aws.md"
TEXT = GUIDE.read_text()
(_, HELPER), *BLOCKS = re.findall(
    r"^```(sh|json)\n(.*?)^```",
    TEXT.partition("## The tools")[2].partition("## What is repeated")[0],
    re.MULTILINE | re.DOTALL,
)
_VARYING = {
    r'"\d{4}-\d\d-\d\dT[\d:.]+Z"': r'"[\dT:.Z-]+"',
    r"http://127\.0\.0\.1:\d+": r"http://127\.0\.0\.1:\d+",
    '"next_token":"Mg=="': '"next_token":"[^"]+"',
}
"""What differs from run to run in the answers that the guide shows, and the form that it keeps."""


def pattern_of(shown: str) -> re.Pattern[str]:
    """Return what an answer must be like: as it is shown, with `…` for what is left out and line breaks put in."""
    line = re.sub(r"\n\s*", "", shown.strip())
    pieces = re.split("(" + "|".join(_VARYING) + "|…)", line)
    forms = {**_VARYING, "…": ".*"}
    written = [next((form for known, form in forms.items() if re.fullmatch(known, p)), re.escape(p)) for p in pieces]
    return re.compile("".join(written), re.DOTALL)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Served]:
    async with (
        run_aws(tmp_path / "aws", durable=False) as stack,
        serve(create_app([AWSMCPServer], Settings(), [settings_for_aws(stack)])) as served,
    ):
        yield served


async def answers_of(script: str, gateway: Served, directory: Path) -> list[str]:
    """Run commands of the guide against the gateway of the test; return what each answered."""
    script = HELPER + re.sub(r"^(tool|curl) ", r"printf '\\036'; \1 ", script, flags=re.MULTILINE)
    script = script.replace("localhost:8000", f"127.0.0.1:{gateway.port}").replace("; curl -", "; curl -s -")
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, cwd=directory, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().split("\x1e")[1:]


async def test_the_commands_of_the_guide_answer_what_it_shows(gateway: Served, tmp_path: Path) -> None:
    answers: list[str] = []
    for language, block in BLOCKS:
        if language == "sh":
            answers = await answers_of(block, gateway, tmp_path)
            assert answers
        else:
            for shown in re.split(r"\n(?=\{\"success\")", block.strip()):
                answer = answers.pop(0)
                assert pattern_of(shown).fullmatch(answer), answer


def test_every_tool_has_its_place_in_the_guide() -> None:
    assert set(re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE)) == set(AWSMCPServer.tools)
    permissions = TEXT.partition("least IAM permissions |")[2].partition("\n\n")[0]
    assert all(f"| `{name}` |" in permissions for name in AWSMCPServer.tools)


def test_the_variables_of_the_guide_are_those_of_the_settings() -> None:
    table = TEXT.partition("| variable | meaning |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(AWS_\w+)`", table)) - {"AWS_DEFAULT_REGION"}
    fields = {f"AWS_{name.upper()}" for name in AwsSettings.model_fields}
    assert named == {name for name in fields if not name.startswith("AWS_ENDPOINT_URL_")}


def test_the_policy_of_the_guide_names_what_the_table_does() -> None:
    [policy] = [json.loads(block) for block in re.findall(r"^```json\n(\{\n.*?)^```", TEXT, re.MULTILINE | re.DOTALL)]
    allowed = {action for entry in policy["Statement"] for action in [entry["Action"]] if isinstance(action, str)}
    allowed |= {a for entry in policy["Statement"] if isinstance(entry["Action"], list) for a in entry["Action"]}
    table = TEXT.partition("least IAM permissions |")[2].partition("\n\n")[0]
    assert allowed <= set(re.findall(r"`(\w+:\w+)`", table))
