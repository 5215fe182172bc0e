"""What the customers of the demo world write about, read from `topics.toml`."""

import tomllib
from pathlib import Path

from pydantic import BaseModel


class Topic(BaseModel):
    """One kind of ticket. `{device}`, `{order}`, `{amount}`, `{days}` and `{name}` are filled in."""

    language: str
    weight: int
    """How often it comes up, beside the others."""
    hours: float
    """Working time until it is solved, as a rule."""
    urgent: float
    """Share that is urgent or high."""
    subjects: list[str]
    messages: list[str]
    answers: list[str]
    note: str


class Script(BaseModel):
    """All that is said at the support desk."""

    topics: list[Topic]
    follow_ups: list[str]
    closings: list[str]
    thanks: list[str]


def read_script() -> Script:
    """Return what the demo world is written from."""
    return Script.model_validate(tomllib.loads((Path(__file__).parent / "topics.toml").read_text(encoding="utf-8")))
