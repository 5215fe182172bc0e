"""Starts those files first that took longest the last time: else one process is left with them at the end.

What they took is kept where pytest keeps what failed. As long as nothing is known, a test counts for a second.
"""

from collections import Counter, defaultdict
from typing import Any, cast

import pytest

_KEPT = "switchboard/seconds"
_seconds = defaultdict[str, float](float)
"""That the files of this run took, by name; in the process that hands out files to others."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process what all have to know alike, since they must come to the same order."""
    node.workerinput[_KEPT] = node.config.cache.get(_KEPT, {})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files, where several processes run them."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        known = cast("dict[str, float]", given[_KEPT])
        tests = Counter(map(_file, items))
        items.sort(key=lambda item: -known.get(_file(item), tests[_file(item)]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what a part of a test took."""
    _seconds[report.nodeid.partition("::")[0]] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remember what the files took, if all were run: a part of a file says nothing of the whole."""
    config = session.config
    part = config.getoption("file_or_dir") or config.getoption("keyword") or session.shouldstop
    if config.cache is not None and not part and not hasattr(config, "workerinput"):
        config.cache.set(_KEPT, {file: round(seconds, 1) for file, seconds in _seconds.items()})


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
