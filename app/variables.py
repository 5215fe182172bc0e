"""What this process was told by variables, and where each value comes from: for people, so without secrets."""

import os
import re
from collections.abc import Iterator
from typing import Any, cast

from pydantic import SecretBytes, SecretStr
from pydantic.aliases import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from app.env_files import from_file

_SECRET = re.compile(r"(SECRET|PASSWORD|TOKEN|CREDENTIAL|_KEY)(_|$)|FIRST_KEY|ACCESS_KEY")
_NO_SECRET = re.compile(r"_(FILE|LOCATION)$")
_QUERY = re.compile(r"\?[^\s,]*")
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


def told(settings: BaseSettings) -> Iterator[dict[str, Any]]:
    """Iterate over the variables of some settings: name, value, whether it is hidden, source, what it is for."""
    prefix = settings.model_config.get("env_prefix", "")
    for field, about in type(settings).model_fields.items():
        names = [name.upper() for name in _names(field, about, prefix)]
        given = next((name for name in names if os.environ.get(name)), None)
        value = getattr(settings, field)
        hidden = value is not None and is_secret(names[0], value)
        if field not in settings.model_fields_set:
            source = "default"
        elif given is None:
            source = "at start"
        else:
            source = str(from_file.get(given, "environment"))
        yield {
            "name": names[0],
            "value": None if hidden else _plain(value),
            "hidden": hidden,
            "source": source,
            "about": about.description or "",
        }


def is_secret(name: str, value: object) -> bool:
    """Tell whether a value is nobody's to see; by its type, and by its name where somebody forgot the type."""
    if isinstance(value, (SecretStr, SecretBytes)):
        return True
    return isinstance(value, (str, bytes)) and bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


def _names(field: str, about: FieldInfo, prefix: str) -> list[str]:
    alias = about.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias] if isinstance(alias, str) else [f"{prefix}{field}"]


def _plain(value: object) -> Any:
    """Return a value as JSON has it, without what addresses may hold beside where something is."""
    plain = to_jsonable_python(value, fallback=str)
    if isinstance(plain, list):
        return [_without_secrets(each) for each in cast("list[object]", plain)]
    return _without_secrets(plain)


def _without_secrets(value: object) -> object:
    if not isinstance(value, str) or "://" not in value:
        return value
    return _QUERY.sub("?…", _USERINFO.sub("…@", value))
