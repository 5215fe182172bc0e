"""`.env.example` names every variable that `switchboard serve` reads, and what is commented out shows its default."""

import re
from collections.abc import Iterator, Mapping

import pytest
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from app.catalogue import SERVERS, load_servers
from app.guard.secret import SecretSettings
from app.guard.settings import IdentitySettings
from app.serving.addresses import address_class
from app.settings import Settings
from tests.documents.blocks import ROOT

TEXT = (ROOT / ".env.example").read_text()
SHOWN: Mapping[str, str] = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(\S*)", TEXT, re.MULTILINE))
NEEDED: Mapping[str, str] = dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(\S+)$", TEXT, re.MULTILINE))
"""Variables without which a server has no backend: they are no comments, and a newcomer edits them."""
OF_AGENTS = {"GATEWAY_URL", "GATEWAY_TOKEN", "ANSWER_MODEL", "ANSWER_MODEL_URL", "ANSWER_MODEL_KEY"}


def kinds() -> Iterator[type[BaseSettings]]:
    """Yield every class that `serve` reads variables into."""
    yield Settings
    yield SecretSettings
    yield IdentitySettings
    yield from map(address_class, SERVERS)
    for server in load_servers(SERVERS):
        yield from server.all_settings().values()


def variables() -> dict[str, FieldInfo]:
    """Return the field of each variable that `serve` reads."""
    return {
        f"{kind.model_config.get('env_prefix', '')}{name}".upper(): field
        for kind in kinds()
        for name, field in kind.model_fields.items()
    }


def written(value: object) -> str:
    """Return a default as it is written in the file."""
    if isinstance(value, list | dict):
        return ",".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_variable_is_there_and_no_other() -> None:
    assert SHOWN.keys() | NEEDED.keys() == variables().keys() | OF_AGENTS
    assert not SHOWN.keys() & NEEDED.keys()
    assert len(re.findall(r"^#? ?[A-Z][A-Z0-9_]*=", TEXT, re.MULTILINE)) == len(SHOWN) + len(NEEDED)


@pytest.mark.parametrize("name", sorted(SHOWN.keys() - OF_AGENTS))
def test_what_is_commented_out_shows_its_default(name: str) -> None:
    field = variables()[name]
    of_the_machine = field.default_factory is not None
    assert SHOWN[name] == written(None if of_the_machine else field.default)


def test_the_file_as_it_is_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in kinds():
        for name, value in {**SHOWN, **NEEDED}.items():
            monkeypatch.setenv(name, value)
        as_shown = kind()
        for name in SHOWN:
            monkeypatch.delenv(name, raising=False)
        assert kind() == as_shown
