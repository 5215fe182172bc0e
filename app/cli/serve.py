"""`switchboard serve`: the gateway as operators run it."""

from collections.abc import Mapping

import click
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.cli.running import chosen_servers, read_service_settings, read_settings, run
from app.logs import set_up_logging
from app.main import create_app
from app.serving.process import PortInUse
from app.serving.process import serve as serve_app
from app.settings import Settings


class ServerAddress(BaseSettings):
    """Where a server listens that has a process to itself."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")


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


ADDRESSES: Mapping[str, type[ServerAddress]] = {
    "database": DatabaseAddress,
    "kafka": KafkaAddress,
    "aws": AwsAddress,
}
"""By the server's name."""


@click.command
@click.option("--host", default=None, help="Address to listen on; HOST.")
@click.option("--port", type=int, default=None, help="Port to listen on; PORT.")
@click.option(
    "--server", default=None, help="Offer this server only, on <NAME>_MCP_HOST and <NAME>_MCP_PORT (8001, 8002, 8003)."
)
def serve(host: str | None, port: int | None, server: str | None) -> None:
    """Serve on the backends that the environment names. Starts none itself."""
    settings = read_settings(Settings, host=host, port=port)
    kinds = chosen_servers([server] if server else [], settings)
    root_server = None
    if server:
        root_server = kinds[0].server_id
        address = read_settings(ADDRESSES.get(root_server, ServerAddress), host=host, port=port)
        settings = settings.model_copy(update=address.model_dump())
    service_settings = read_service_settings(kinds)
    set_up_logging(settings.log_level, settings.log_format)
    app = create_app(kinds, settings, service_settings, root_server=root_server)
    run(lambda: serve_app(app, settings), PortInUse, serves=True)
