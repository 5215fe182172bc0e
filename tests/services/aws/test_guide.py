"""`docs/aws.md` is complete: every tool, and every variable. `tests/documents` runs its commands."""

import json
import re
from pathlib import Path

import app
from app.routers.aws import AWSMCPServer
from app.services.aws.settings import AwsSettings

GUIDE = Path(app.__file__).parents[1] / "docs" / "aws.md"
TEXT = GUIDE.read_text()


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
