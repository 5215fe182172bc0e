"""What turns text into vectors, for the search by meaning."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.services.embeddings.installed import LOCAL_MODELS, objection_to

NONE = "none"

MOST_NUMBERS = 4000
"""Numbers of a vector: what pgvector can index as `halfvec`."""


def _known(value: str) -> str:
    """Take a model's name or `none`, whatever their capitals, or an endpoint's address."""
    if (name := value.lower()) == NONE:
        return name
    if name in LOCAL_MODELS:
        if (objection := objection_to(name)) is not None:
            raise ValueError(objection)
        return name
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"expected {NONE}, {', '.join(LOCAL_MODELS)}, or an address such as https://api.openai.com/v1")
    try:
        address = urlsplit(value)
        _ = address.port
    except ValueError:
        raise ValueError("expected an address such as https://api.openai.com/v1") from None
    if address.username is not None or address.password is not None:
        raise ValueError("a key does not belong into the address: set EMBEDDINGS_KEY")
    if not address.hostname or address.query or address.fragment or not value.isprintable() or " " in value:
        raise ValueError("expected an address such as https://api.openai.com/v1, without `?` and `#`")
    return value.rstrip("/").removesuffix("/embeddings")


def _sendable(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ValueError("expected letters, digits and signs of ASCII without spaces, as a header can hold them")
    return key


class EmbeddingSettings(BaseSettings):
    """Read from `EMBEDDINGS` and variables named `EMBEDDINGS_…`; `docs/search.md` says which model is for whom."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    embeddings: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000), AfterValidator(_known)] = (
        Field(
            default=NONE,
            description="What turns text into vectors: none, bge-small-en, e5-small, or the address of an endpoint"
            " of OpenAI's embeddings API, such as http://127.0.0.1:11434/v1.",
        )
    )
    embeddings_timeout: float = Field(
        default=0.3,
        gt=0,
        le=30,
        description="Seconds that the vector of a question may take, before the search goes by words alone.",
    )
    embeddings_model: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] | None = Field(
        default=None, description="The endpoint's model, such as text-embedding-3-small."
    )
    embeddings_key: Annotated[SecretStr, AfterValidator(_sendable)] | None = Field(
        default=None, description="The endpoint's key, sent as a bearer token; none if left out."
    )
    embeddings_dimension: int | None = Field(
        default=None,
        ge=8,
        le=MOST_NUMBERS,
        description="Numbers of a vector that the endpoint is asked for; its model's own if left out.",
    )
    embeddings_question_prefix: Annotated[str, StringConstraints(max_length=1000)] = Field(
        default="", description="What the endpoint's model wants in front of a question, such as `query: `."
    )
    embeddings_passage_prefix: Annotated[str, StringConstraints(max_length=1000)] = Field(
        default="", description="What it wants in front of a passage, such as `passage: `."
    )
    embeddings_batch_size: int = Field(
        default=16, ge=1, le=64, description="Passages that the endpoint is sent at a time."
    )

    @property
    def is_endpoint(self) -> bool:
        """Whether `EMBEDDINGS` is an address."""
        return self.embeddings != NONE and self.embeddings not in LOCAL_MODELS

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.is_endpoint and not self.embeddings_model:
            raise ValueError("EMBEDDINGS is an address: set EMBEDDINGS_MODEL to the model that it shall use")
        return self
