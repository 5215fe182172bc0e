"""Settings of the process. Each service has its own settings class beside it."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

PATH_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
"""What may stand before our paths where a proxy serves us below a path of its own."""


_HOST = r"(?:\[[0-9a-f:.]+\]|[^\s/@:*\[\]]+)(?::(?:\*|[0-9]{1,5}))?"
_HOSTS = re.compile(rf"\*|{_HOST}", re.IGNORECASE)
_ORIGINS = re.compile(rf"\*|null|[a-z][a-z0-9+.-]*://{_HOST}", re.IGNORECASE)


def _host(name: str) -> str:
    if not _HOSTS.fullmatch(name):
        raise ValueError("expected names such as support.example, support.example:8000 or [::1], or `*` alone for any")
    return name


def _origin(name: str) -> str:
    if not _ORIGINS.fullmatch(name):
        raise ValueError("expected origins such as https://support.example, without a path, or `*` alone for any")
    return name


def _collector(address: str) -> str:
    if not re.fullmatch(r"https?://\S+", address):
        raise ValueError("expected an address such as http://127.0.0.1:4318")
    return address


def _path_prefix(path: str) -> str:
    path = path.rstrip("/")
    if path and not PATH_PREFIX.fullmatch(path):
        raise ValueError("expected a path such as /gateway")
    return path


def _network(name: str) -> str:
    if name != "*":
        ip_network(name)
    return name


class Settings(BaseSettings):
    """Read from the environment; `.env.example` explains each variable to operators."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    servers: Annotated[list[str], NoDecode] = Field(
        default=[], description="Servers to offer, by name with commas; all if left out."
    )
    switchboard_config: Path | None = Field(
        default=None, description="The policy's file; switchboard.toml in the working directory, if it is there."
    )
    log_level: LogLevel = "INFO"
    log_levels: Annotated[dict[str, LogLevel], NoDecode] = Field(
        default={}, description="Levels of single loggers, as NAME=LEVEL with commas; NAME is a server or a logger."
    )
    log_format: Literal["text", "json"] = "text"

    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        default=None, description="Collector that gets traces, by OTLP over HTTP; wants the extra `otel`."
    )

    tool_timeout: Seconds = Field(default=30.0, description="Seconds a tool may take unless it says otherwise itself.")
    max_request_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Largest request body and WebSocket message."
    )
    max_unfinished_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="What all callers together have sent of unfinished bodies."
    )
    max_unsent_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Answers, all together, that callers have not taken yet."
    )
    head_timeout: Seconds = Field(default=10.0, description="Seconds in which the head of a request is complete.")
    idle_timeout: Seconds = Field(
        default=30.0, description="Seconds in which a caller sends, or takes, more of what is under way."
    )
    body_timeout: Seconds = Field(
        default=120.0, description="Seconds in which a request's body, or a WebSocket's message, is complete."
    )
    mcp_output_schemas: bool = Field(
        default=True, description="Listings say what results look like, which half of their size is for."
    )
    hide_unconfigured: bool = Field(
        default=True, description="MCP's listings leave out servers whose backend no setting names."
    )
    backend_check_interval: float = Field(
        default=15.0, ge=0, description="Seconds between two looks at each backend, for the log; 0 for none."
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of 127.0.0.1 on which /metrics asks nobody for a key."
    )
    max_calls_in_flight: int = Field(default=256, ge=1, description="Calls that one server works on at a time.")
    max_streams: int = Field(
        default=128, ge=1, description="Streams, such as those of S3 objects, that one server carries at a time."
    )
    max_streams_per_caller: int = Field(
        default=32, ge=1, description="Those of one caller: of a principal, of an address before one is known."
    )
    stream_idle_timeout: Seconds = Field(
        default=20.0, description="Seconds that a stream waits for its caller to send, or to take, the next bytes."
    )
    max_batch_calls: int = Field(default=50, ge=1, description="Calls in one batch.")
    max_subscriptions: int = Field(
        default=1024, ge=0, description="Subscriptions to resources that the process serves."
    )
    max_subscriptions_per_caller: int = Field(
        default=256, ge=0, description="Subscriptions of one caller: of a principal, of an address before one is known."
    )
    websocket_compression: bool = Field(
        default=False, description="Compress WebSocket messages for clients that offer it."
    )
    shutdown_delay: float = Field(
        default=0.0, ge=0, description="Seconds from the signal to stop, when `/ready` turns, to the end of new calls."
    )
    shutdown_grace: Seconds = Field(default=5.0, description="Seconds that running calls get when the gateway stops.")

    allowed_hosts: Annotated[list[Annotated[str, AfterValidator(_host)]], NoDecode] = Field(
        default=["localhost:*", "127.0.0.1:*", "[::1]:*"], description="Host headers that are answered; `*` for any."
    )
    allowed_origins: Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode] = Field(
        default=["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"],
        description="Browser origins that may call.",
    )

    root_path: Annotated[str, AfterValidator(_path_prefix)] = Field(
        default="", description="Prefix that callers put before our paths, and that the proxy in front takes off."
    )
    trusted_proxies: Annotated[list[Annotated[str, AfterValidator(_network)]], NoDecode] = Field(
        default=[], description="Proxies whose X-Forwarded-* headers are believed: addresses, networks, `*` for any."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_levels", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """Take `NAME=LEVEL,NAME=LEVEL`."""
        if not isinstance(value, str):
            return value
        pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
        if any(not (name.strip() and equals) for name, equals, _ in pairs):
            raise ValueError("expected NAME=LEVEL,NAME=LEVEL, such as MCP.Kafka MCP Server=DEBUG")
        return {name.strip(): level.strip().upper() for name, _, level in pairs}

    @field_validator("servers", "allowed_hosts", "allowed_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Operators write lists with commas."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
