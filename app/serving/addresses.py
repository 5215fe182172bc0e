"""Where a server listens that has an address to itself."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServerAddress(BaseSettings):
    """Read from variables named `<NAME>_MCP_…`."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one.")


class DatabaseAddress(ServerAddress):
    """Read from variables named `DB_MCP_…`."""

    model_config = SettingsConfigDict(env_prefix="DB_MCP_")

    port: int = Field(8001, ge=0, le=65535, description="Port to listen on.")


class KafkaAddress(ServerAddress):
    """Read from variables named `KAFKA_MCP_…`."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_MCP_")

    port: int = Field(8002, ge=0, le=65535, description="Port to listen on.")


class AwsAddress(ServerAddress):
    """Read from variables named `AWS_MCP_…`."""

    model_config = SettingsConfigDict(env_prefix="AWS_MCP_")

    port: int = Field(8003, ge=0, le=65535, description="Port to listen on.")


_KNOWN = {"database": DatabaseAddress, "kafka": KafkaAddress, "aws": AwsAddress}


def address_class(server_id: str) -> type[ServerAddress]:
    """Return the settings of a server's own address: of ours with a port that is known, of others by their name."""
    if (known := _KNOWN.get(server_id)) is not None:
        return known

    class Address(ServerAddress):
        model_config = SettingsConfigDict(env_prefix=f"{server_id.upper()}_MCP_")

    return Address
