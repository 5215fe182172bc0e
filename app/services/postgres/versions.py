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
def newest_version() -> str:
    """Return the version of the tables that this code needs. Versions are numbered in their order."""
    return max(path.name.partition("_")[0] for path in (migrations_folder() / "versions").glob("[0-9]*_*.py"))
