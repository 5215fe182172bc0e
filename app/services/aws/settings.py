"""Where AWS is, under which login, and how much of it callers may reach."""

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=3600)]

_MIB = 1024 * 1024


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Words = Annotated[list[str], NoDecode, BeforeValidator(_comma_separated)]
"""A list that is written in one variable, with commas."""


class AwsSettings(BaseSettings):
    """Read from variables named `AWS_…`, the ones that every AWS tool reads and a few of our own.

    What is not set here is left to the usual chain: shared files, profiles, web identity, container and
    instance roles.
    """

    model_config = SettingsConfigDict(
        env_prefix="AWS_",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    profile: str | None = Field(None, validation_alias=AliasChoices("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))
    region: str | None = Field(None, validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))
    endpoint_url: str | None = Field(None, description="Address of anything compatible, in place of AWS itself.")
    endpoint_url_s3: str | None = None
    endpoint_url_lambda: str | None = None
    endpoint_url_ssm: str | None = None

    allowed_buckets: Words = Field(
        [], description="Buckets that callers may use, each as `bucket` or `bucket/prefix`; none named means all."
    )
    allowed_functions: Words = Field(
        [], description="Lambda functions that callers may invoke, by name or ARN; none named means all."
    )
    allowed_parameter_paths: Words = Field(
        [], description="Parameters, or paths above them, that callers may read; none named means all."
    )

    s3_max_inline_bytes: int = Field(
        _MIB, ge=1, le=64 * _MIB, description="Largest content that a tool takes or returns; streams know no limit."
    )
    s3_part_bytes: int = Field(
        8 * _MIB, ge=5 * _MIB, le=512 * _MIB, description="Size of a stream's parts; an upload holds three in memory."
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        None, description="How a bucket is named in an address; path for an AWS_ENDPOINT_URL, auto for AWS."
    )
    s3_presign_max_seconds: int = Field(
        3600, ge=1, le=604_800, description="Longest time that an address of s3_presign_url is good for."
    )
    max_connections: int = Field(
        50, ge=1, le=1000, description="Pooled connections of each client; streams have connections of their own."
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts in all at a call that is safe to repeat.")
    connect_timeout: Seconds = Field(3.0, description="Seconds that opening a connection may take.")
    read_timeout: Seconds = Field(60.0, description="Seconds without a byte after which an answer is given up.")
    lambda_timeout: Seconds = Field(60.0, description="Seconds that a function may take to answer.")

    def endpoint(self, service: Literal["s3", "lambda", "ssm"]) -> str | None:
        """Return the address that a service is reached at, or None for AWS itself."""
        own = {"s3": self.endpoint_url_s3, "lambda": self.endpoint_url_lambda, "ssm": self.endpoint_url_ssm}
        return own[service] or self.endpoint_url
