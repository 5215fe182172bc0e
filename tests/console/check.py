"""Checks the JavaScript of the pages, `python -m tests.console.check`: its format, and its types by TypeScript.

With `--format` it mends the first. Node comes with the environment, the checkers from npm: where that can't be reached
it says what is left out, and in CI that is a failure.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures.node import ENVIRONMENT, NODE, NotInstalled, install

_HERE = Path(__file__).parent
PAGES = _HERE.parents[1] / "app" / "console"
_FORMAT = ("prettier/bin/prettier.cjs", "--no-config", "--print-width=120", "--log-level=warn")
_TYPES = ("typescript/bin/tsc", "--project", str(_HERE / "tsconfig.json"))


def main(mend: bool) -> int:
    """Return the exit status."""
    try:
        modules = install(_HERE)
    except NotInstalled as failure:
        print(f"left out: format and types of {PAGES}/*.js\n{failure}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    files = sorted(str(file) for file in PAGES.glob("*.js"))
    format_, *options = _FORMAT
    if mend:
        return _run(modules / format_, *options, "--write", *files)
    types, *project = _TYPES
    return _run(modules / format_, *options, "--check", *files) or _run(modules / types, *project)


def _run(script: Path, *arguments: str) -> int:
    return subprocess.run((NODE, script, *arguments), env=ENVIRONMENT).returncode


if __name__ == "__main__":
    sys.exit(main("--format" in sys.argv))
