"""Who may call at all, as far as variables say it."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.guard.key_file import read_first_key
from app.guard.limits import Rate


def _first_key(text: str) -> str:
    read_first_key(text)
    return text


def _rate(text: str) -> str:
    Rate.read(text)
    return text


class IdentitySettings(BaseSettings):
    """Read from variables named `SWITCHBOARD_…`."""

    model_config = SettingsConfigDict(
        env_prefix="SWITCHBOARD_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    first_key: Annotated[str, AfterValidator(_first_key)] | None = Field(
        default=None,
        description="A key that is taken beside those of the store: <id>:<hash>, and its roles, as"
        " `switchboard keys create --as-variable` prints it.",
    )
    key_file: Path | None = Field(
        default=None,
        description="File that keys are kept in, by their hashes; else DATABASE_URL's database keeps them.",
    )
    failed_keys: Annotated[str, AfterValidator(_rate)] = Field(
        default="60/min", description="How many bad keys one address may show; beyond it 429."
    )
    allow_anonymous: bool = Field(
        default=False, description="Serve everybody who can reach the port, on any address and without a key."
    )
    token: SecretStr | None = Field(default=None, description="The key of whoever launches `switchboard stdio`.")

    @property
    def names_keys(self) -> bool:
        """Whether a variable says that there are keys, so that callers are asked for one whatever the policy says."""
        return self.first_key is not None or self.key_file is not None
