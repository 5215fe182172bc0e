"""The statements that modules of the database hold."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import cast

import app.services.postgres
from app.services.postgres.connections.pools import Reach, Statement


def modules() -> list[ModuleType]:
    """Return all modules of the database."""
    found = pkgutil.walk_packages(app.services.postgres.__path__, "app.services.postgres.")
    return [importlib.import_module(module.name) for module in found]


def statements(below: str = "") -> list[Statement]:
    """Return what the modules hold whose names begin with a package's."""
    return [
        statement
        for module in modules()
        if module.__name__.startswith(below)
        for value in vars(module).values()
        for statement in _in(value)
    ]


def _in(value: object) -> Iterator[Statement]:
    match value:
        case Statement():
            yield value
        case Reach():
            yield from value
        case Mapping():
            for item in cast("Mapping[object, object]", value).values():
                yield from _in(item)
        case _:
            pass
