"""Acknowledgements: what a caller hands back when the messages of a group are dealt with.

A token says which offsets of which member and generation it stands for, so that any gateway with the
same key can commit it, also one that never saw the messages.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from app.errors import InvalidArguments

_SIGNATURE_BYTES = 32


class Ack(BaseModel):
    """What a token says."""

    model_config = ConfigDict(extra="forbid")

    group: str = Field(alias="g")
    topic: str = Field(alias="t")
    member: str = Field(alias="m")
    generation: int = Field(alias="n")
    lease: str = Field(alias="i")
    expires: float = Field(alias="x")
    """Seconds since 1970. Another gateway than the member's own does not commit after this."""
    owner: str = Field(default="", alias="p")
    """Whose it is: of the caller's tenant and customer."""
    offsets: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = Field(alias="o")
    """Offset after the last message, by partition."""


class AckSigner:
    """Writes tokens and reads its own back.

    Args:
        keys: the first signs, all are accepted; gateways that share groups have the same.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def write(self, ack: Ack) -> str:
        """Return a signed token."""
        payload = to_json(ack, by_alias=True)
        return base64.urlsafe_b64encode(_signature(self._keys[0], payload) + payload).rstrip(b"=").decode()

    def read(self, token: str, *, group_id: str, topic: str, owner: str = "") -> Ack:
        """Return what a token says.

        Raises:
            InvalidArguments: it is not ours or not its owner's, or is for another group or topic.
        """
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
            if not any(hmac.compare_digest(signature, _signature(key, payload)) for key in self._keys):
                raise ValueError("forged")
            ack = Ack.model_validate_json(payload)
            if ack.owner != owner:
                raise ValueError("another's")
        except (ValidationError, binascii.Error, ValueError):
            raise InvalidArguments.of(
                "ack",
                "was not signed by this gateway; take it as it is, and give gateways that share groups the same "
                "SWITCHBOARD_SECRET. The messages come again unless they are acknowledged",
            ) from None
        if (ack.group, ack.topic) != (group_id, topic):
            raise InvalidArguments.of("ack", "is for another group or topic")
        return ack


def _signature(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, b"switchboard ack 1\0" + payload, hashlib.sha256)
