"""A fresh clone knows which files of tests take long, and starts these first."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.longest_first import put_longest_first, written

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "seconds.json"


def test_the_longest_files_come_first_and_new_ones_count_by_their_tests() -> None:
    names = ["a.py::1", "new.py::1", "long.py::2", "new.py::2", "long.py::1", "new.py::3"]
    items = cast("list[pytest.Item]", [SimpleNamespace(nodeid=name) for name in names])
    put_longest_first(items, {"a.py": 2, "long.py": 90, "gone.py": 100})
    assert [item.nodeid for item in items] == [
        "long.py::2", "long.py::1", "new.py::1", "new.py::2", "new.py::3", "a.py::1",
    ]  # fmt: skip


def test_what_is_written_keeps_other_files_and_forgets_those_that_are_gone() -> None:
    here = "tests/test_longest_first.py"
    kept = json.loads(written({here: 7, "tests/conftest.py": 1, "tests/gone.py": 9}, {here: 2.6}))
    assert kept == {"tests/conftest.py": 1, here: 3}


def test_the_seconds_of_a_fresh_clone_are_as_they_are_written_and_cover_most_files() -> None:
    known: dict[str, Any] = json.loads(KEPT.read_text())
    assert list(known) == sorted(known)
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")}
    assert len(files & known.keys()) > len(files) * 0.8, "run `make test ARGS=--write-seconds`"
