"""One secret of the installation, from which each use has keys of its own.

Whoever learns what one use signs learns nothing of the others, and operators keep one variable instead of six.
"""

import hashlib
import hmac
import secrets
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_SHORTEST = 32
_OF_THIS_PROCESS = secrets.token_urlsafe(32)
"""In place of a secret that nobody has given: what is signed with it is understood here alone, until the end."""


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret) < _SHORTEST:
        raise ValueError(f"expected at least {_SHORTEST} characters; `openssl rand -base64 32` makes such a secret")
    return secret


_Given = Annotated[SecretStr, AfterValidator(_long_enough)]


class SecretSettings(BaseSettings):
    """Read from variables named `SWITCHBOARD_…`."""

    model_config = SettingsConfigDict(
        env_prefix="SWITCHBOARD_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    secret: _Given | None = Field(
        default=None,
        description=f"At least {_SHORTEST} characters, the same for all processes (`openssl rand -base64 32`); random,"
        " and known to one process alone, if left out.",
    )
    secret_previous: _Given | None = Field(
        default=None, description="The secret before this one, while what was signed with it is still about."
    )


class Secret:
    """Derives keys of 32 bytes, one for each use (HKDF-SHA256, RFC 5869).

    Args:
        current: signs, and is accepted; a random one of this process if it is None.
        previous: is accepted.
    """

    def __init__(self, current: str | None = None, previous: str | None = None) -> None:
        self._secrets = [current or _OF_THIS_PROCESS, *([previous] if previous else [])]

    @classmethod
    def of(cls, settings: SecretSettings) -> Self:
        """Return the secret that settings name."""
        return cls(_text(settings.secret), _text(settings.secret_previous))

    def keys(self, use: str) -> tuple[bytes, ...]:
        """Return the keys of a use: the first signs, all of them are accepted."""
        return tuple(hkdf(secret.encode(), b"switchboard " + use.encode()) for secret in self._secrets)


def _text(given: SecretStr | None) -> str | None:
    return None if given is None else given.get_secret_value()


def hkdf(secret: bytes, info: bytes, salt: bytes = bytes(hashlib.sha256().digest_size)) -> bytes:
    """Return 32 bytes, which is one block of HKDF-SHA256."""
    return hmac.digest(hmac.digest(salt, secret, hashlib.sha256), info + b"\x01", hashlib.sha256)
