"""Starts those files first that take longest: else one process is left with them at the end, and the others idle.

`seconds.json` says what each took when somebody last ran `make test ARGS=--write-seconds`. Only their order counts, so
it is no matter how fast that machine was, or that a file is gone; a new one counts a second for each of its tests.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

_KEPT = Path(__file__).with_name("seconds.json")
_seconds = defaultdict[str, float](float)
"""That the files of this run took, by name; in the process that hands out files to others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the word that keeps what a run took."""
    parser.addoption("--write-seconds", action="store_true", help=f"write what each file took into {_KEPT.name}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files, where several processes run them."""
    if hasattr(config, "workerinput"):
        put_longest_first(items, json.loads(_KEPT.read_text()))


def put_longest_first(items: list[pytest.Item], known: dict[str, float]) -> None:
    """Order tests by what their files take, in seconds; those of one file stay as they are."""
    tests = Counter(map(_file, items))
    items.sort(key=lambda item: -known.get(_file(item), tests[_file(item)]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what a part of a test took."""
    _seconds[report.nodeid.partition("::")[0]] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what the files took, those that were run."""
    config = session.config
    if config.getoption("--write-seconds") and not hasattr(config, "workerinput"):
        _KEPT.write_text(written(json.loads(_KEPT.read_text()), _seconds))


def written(known: dict[str, Any], found: dict[str, float]) -> str:
    """Return what the file says from now on: a line for each file of tests that there is, in order of their names."""
    rounded = {file: round(seconds) for file, seconds in found.items()}
    there = {file: seconds for file, seconds in (known | rounded).items() if (_KEPT.parents[1] / file).is_file()}
    return json.dumps(there, indent=0, sort_keys=True) + "\n"


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
