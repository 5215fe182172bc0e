"""What turns text into vectors, for the search by meaning."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EmbeddingSettings(BaseSettings):
    """Read from `EMBEDDINGS` and variables named `EMBEDDINGS_…`; `docs/search.md` says which model is for whom."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    embeddings: Literal["none"] = Field(default="none", description="What turns text into vectors; `none` for nothing.")
