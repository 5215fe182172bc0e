"""The table of `docs/limits.md` is whole and true: it is held against the settings and constants themselves."""

import importlib
import os
import pkgutil
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic_settings import BaseSettings

import agents
import app

PAGE = Path(__file__).parent.parent / "docs" / "limits.md"
NO_BOUNDS = {
    "PORT": "an address",
    "METRICS_PORT": "an address",
    "app.faces.jsonrpc._LONGEST_INTEGER": "a form of numbers",
    "app.guard.confinement._LONGEST_ID": "a form of ids",
    "app.services.kafka.positions._LARGEST": "the largest offset that Kafka knows",
    "app.services.postgres.sql.json_forms.MAX_SAFE_INTEGER": "a form of numbers",
    "EMBEDDINGS_DIMENSION": "a form of vectors",
    "app.services.embeddings.settings.MOST_NUMBERS": "a form of vectors",
    "app.services.embeddings.wordpiece._LONGEST_WORD": "a form of words",
    "app.services.postgres.knowledge.synonyms.MAX_PHRASE": "what the list of synonyms holds",
}
"""Numbers that bound nothing a caller could hold, each with what it is."""

_BOUND = re.compile(r"^(?:_\w+, )?(_?(?:MAX|MOST|LARGEST|LONGEST)\w*)(?:: \w+)? = ", re.MULTILINE)
_NUMBERS = {int, float}
_UNITS = {
    "": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "ms": 0.001,
    "s": 1,
    "d": 86_400,
    "a core, from 4 to 11": min(max(os.cpu_count() or 2, 4 / 2), 11 / 2),
}


class Row(NamedTuple):
    what: str
    default: str
    setting: str
    answer: str


def _rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [Row(what, default, setting.strip("`"), answer) for what, default, setting, answer in cells]


def _amount(text: str) -> float | None:
    """Return an amount that is written as people do: of bytes, of seconds or of things; `none` where there is none."""
    if text == "none":
        return None
    number, unit = re.fullmatch(r"([\d.]+) ?(.*)", text).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def _modules() -> list[Any]:
    found = [*pkgutil.walk_packages(app.__path__, "app."), *pkgutil.walk_packages(agents.__path__, "agents.")]
    return [importlib.import_module(module.name) for module in found if ".local" not in module.name]


def _settings() -> dict[str, float | None]:
    """Return the default of every number in every settings class, by its variable; times in seconds."""
    defaults: dict[str, float | None] = {}
    _modules()
    for settings in BaseSettings.__subclasses__():
        if not settings.__module__.startswith("app.") or settings.__name__.startswith("_"):
            continue
        prefix = settings.model_config.get("env_prefix", "")
        for name, field in settings.model_fields.items():
            if field.annotation in _NUMBERS or _NUMBERS.intersection(get_args(field.annotation)):
                default = field.get_default(call_default_factory=True)
                in_base_units = default / 1000 if name.endswith("_ms") and default is not None else default
                defaults[f"{prefix}{name}".upper()] = in_base_units
    return defaults


def _constants() -> set[str]:
    """Return the dotted names of the numbers that call themselves a bound, where they are defined."""
    return {
        f"{module.__name__}.{name}"
        for module in _modules()
        for name in _BOUND.findall(Path(module.__file__).read_text())
        if isinstance(getattr(module, name), int | float | timedelta)
    }


def _value(setting: str) -> float | None:
    """Return the default of a setting, or the value of a constant, in bytes, seconds or things."""
    if "." not in setting:
        return _settings()[setting]
    module, _, name = setting.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _amount(value)
    return float(value) / 1000 if name.endswith("_MS") else float(value)


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row.setting)
def test_every_row_tells_the_default(row: Row) -> None:
    assert row.what
    assert row.answer
    assert _amount(row.default) == _value(row.setting)


def test_every_bounded_setting_has_one_row() -> None:
    listed = [row.setting for row in _rows()]
    assert sorted(listed) == sorted(set(listed))
    assert _settings().keys() - NO_BOUNDS.keys() == {setting for setting in listed if "." not in setting}


def test_every_constant_that_calls_itself_a_bound_has_a_row() -> None:
    assert _constants() - NO_BOUNDS.keys() - {row.setting for row in _rows()} == set()
