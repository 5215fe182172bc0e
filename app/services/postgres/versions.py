"""Where the migrations are and which is the newest; without Alembic, which only those who migrate need."""

from functools import cache
from pathlib import Path

_APP = Path(__file__).resolve().parents[2]
_PLACES = (_APP / "alembic", _APP.parent / "alembic")
"""In an installed package, and in a checkout."""


def migrations_folder() -> Path:
    """Return the folder with Alembic's `env.py`."""
    return next(place for place in _PLACES if (place / "env.py").is_file())


@cache
def versions() -> tuple[str, ...]:
    """Return the versions of the tables, which are numbered in their order; first is `base`, without any."""
    found = (path.name.partition("_")[0] for path in (migrations_folder() / "versions").glob("[0-9]*_*.py"))
    return ("base", *sorted(found))


def newest_version() -> str:
    """Return the version of the tables that this code needs."""
    return versions()[-1]
