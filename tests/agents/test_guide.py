"""`docs/agents.md` names only what there is. `tests/documents` runs its blocks."""

import inspect
import re
from pathlib import Path

import agents

[PACKAGE] = agents.__path__
GUIDE = Path(PACKAGE).parent / "docs" / "agents.md"


def test_the_guide_names_only_what_exists() -> None:
    text = GUIDE.read_text()
    errors = set(re.findall(r"`([A-Z]\w+)`", text.partition("## Several addresses")[0].partition("## Failures")[2]))
    known = {name for name, _ in inspect.getmembers(__import__("agents.errors", fromlist=["x"]), inspect.isclass)}
    assert errors - {"Retry"} <= known
