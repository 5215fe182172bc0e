"""Where Kafka is and how the gateway behaves towards it. The variables are Kafka's own property names."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import BackendNotConfigured
from app.guard.secret import Secret, SecretSettings

Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]


class KafkaSettings(BaseSettings):
    """Read from variables named `KAFKA_…`; `docs/kafka.md` shows a secured cluster."""

    model_config = SettingsConfigDict(
        env_prefix="KAFKA_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    bootstrap_servers: str | None = Field(None, description="host:port of one or more brokers, separated by commas.")
    client_id: str = Field("switchboard", description="Name of the gateway in the brokers' logs and quotas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = Field(None, description="PEM file of the CA; the system's CAs if left out.")
    ssl_certificate_location: Path | None = Field(None, description="PEM file of the client's certificate.")
    ssl_key_location: Path | None = Field(None, description="PEM file of the client's key.")
    ssl_key_password: SecretStr | None = None
    ssl_endpoint_identification_algorithm: Literal["https", "none"] = Field(
        "https", description="`none` skips the check that the certificate is for the host."
    )

    request_timeout_ms: Milliseconds = Field(10_000, description="How long one request to a broker may take.")
    delivery_timeout_ms: Milliseconds = Field(20_000, description="How long a publish waits for its acknowledgement.")
    metadata_max_age_ms: Milliseconds = Field(5_000, description="How long partitions and leaders are remembered.")
    max_request_size: int = Field(1_048_576, ge=1024, description="Largest message in bytes that is sent to a broker.")
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="`read_committed` hides messages of transactions that are open or were aborted."
    )
    allow_auto_create_topics: bool = Field(
        False, description="Create an unknown topic on publish, with the broker's defaults, instead of answering 404."
    )

    auto_offset_reset: Literal["earliest", "latest"] = Field(
        "earliest", description="Where a group without a committed offset begins."
    )
    session_timeout_ms: Milliseconds = Field(
        10_000, description="After how long a gateway that was killed loses its partitions to another."
    )
    heartbeat_interval_ms: Milliseconds = 1_000
    rebalance_timeout_ms: Milliseconds = Field(30_000, description="How long a rebalance waits for members to rejoin.")
    ack_signing_key: SecretStr | None = Field(
        None,
        description="Signs acknowledgements in place of what follows from SWITCHBOARD_SECRET.",
    )

    @property
    def ack_keys(self) -> tuple[bytes, ...]:
        """Keys for acknowledgements: the first signs, all are accepted."""
        if self.ack_signing_key is not None:
            return (self.ack_signing_key.get_secret_value().encode(),)
        return Secret.of(SecretSettings()).keys("acknowledgements of group work")

    def require_bootstrap_servers(self) -> list[tuple[str, int]]:
        """Return the addresses to begin with.

        Raises:
            BackendNotConfigured: they are missing or are not `host:port`.
        """
        if not self.bootstrap_servers:
            raise BackendNotConfigured(
                "KAFKA_BOOTSTRAP_SERVERS is not set; set it to host:port of the brokers",
                missing="KAFKA_BOOTSTRAP_SERVERS",
            )
        return [_host_and_port(server) for server in self.bootstrap_servers.split(",") if server.strip()]

    def unconfigured(self) -> BackendNotConfigured | None:
        """Return what is missing if nothing at all could work; None if something could."""
        try:
            self.require_bootstrap_servers()
        except BackendNotConfigured as error:
            return error
        return None

    def connection_options(self) -> dict[str, Any]:
        """Return what aiokafka wants to know of security and time limits.

        Raises:
            BackendNotConfigured: a login or a TLS file is missing or unreadable.
        """
        options: dict[str, Any] = {
            "client_id": self.client_id,
            "request_timeout_ms": self.request_timeout_ms,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL"):
            if self.sasl_username is None or self.sasl_password is None:
                raise BackendNotConfigured(
                    f"KAFKA_SECURITY_PROTOCOL is {self.security_protocol}: "
                    "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD too"
                )
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_location)
        except (OSError, ssl.SSLError):
            raise BackendNotConfigured("KAFKA_SSL_CA_LOCATION does not name a readable PEM file") from None
        if self.ssl_certificate_location is not None:
            password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else None
            try:
                context.load_cert_chain(self.ssl_certificate_location, self.ssl_key_location, password)
            except (OSError, ssl.SSLError):
                raise BackendNotConfigured(
                    "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION and KAFKA_SSL_KEY_PASSWORD "
                    "do not name a readable certificate with its key"
                ) from None
        if self.ssl_endpoint_identification_algorithm == "none":
            context.check_hostname = False
        return context


def _host_and_port(server: str) -> tuple[str, int]:
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BackendNotConfigured("KAFKA_BOOTSTRAP_SERVERS: expected host:port, several separated by commas")
    return host.strip("[]"), int(port)
