"""A cluster with TLS and logins, by the settings that docs/kafka.md shows."""

import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.errors import BackendUnavailable
from app.local.kafka import LocalKafka
from app.local.process import free_port
from app.services.kafka import KafkaService
from app.services.kafka.settings import KafkaSettings
from tests.fixtures.apache_kafka import run_apache_kafka
from tests.fixtures.kafka import settings_for_kafka
from tests.services.kafka.conftest import browse, values, work

_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True)
class SecuredCluster:
    """A broker that wants TLS and a login, and the certificate to trust."""

    broker: LocalKafka
    certificate: Path

    def settings(self, **changes: Any) -> KafkaSettings:
        return settings_for_kafka(
            self.broker,
            **{
                "security_protocol": "SASL_SSL",
                "sasl_username": "switchboard",
                "sasl_password": "a secret",
                "ssl_ca_location": self.certificate,
                **changes,
            },
        )


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a key for 127.0.0.1; return the broker's store and the certificate to trust."""
    store, certificate = directory / "store.p12", directory / "certificate.pem"
    of_store = ["-alias", "kafka", "-keystore", str(store), "-storepass", "changeit"]
    make = ["keytool", "-genkeypair", "-keyalg", "RSA", "-dname", "CN=localhost", "-ext", "SAN=ip:127.0.0.1"]
    subprocess.run([*make, "-storetype", "PKCS12", *of_store], check=True, capture_output=True)
    export = ["keytool", "-exportcert", "-rfc", "-file", str(certificate)]
    subprocess.run([*export, *of_store], check=True, capture_output=True)
    return store, certificate


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[SecuredCluster]:
    directory = tmp_path_factory.mktemp("secured")
    store, certificate = make_certificate(directory)
    port, controller_port = free_port(), free_port()
    properties = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            f'{_PLAIN} required username="broker" password="b" user_broker="b" user_switchboard="a secret";'
        ),
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
        "ssl.keystore.location": str(store),
        "ssl.keystore.password": "changeit",
        "ssl.keystore.type": "PKCS12",
        "ssl.truststore.location": str(certificate),
        "ssl.truststore.type": "PEM",
    }
    users = ["--add-scram", "SCRAM-SHA-512=[name=switchboard,password=a secret]"]
    async with run_apache_kafka(directory / "kafka", port=port, properties=properties, format_options=users) as broker:
        yield SecuredCluster(broker, certificate)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_everything_works_behind_a_login(
    secured: SecuredCluster, mechanism: str, topic_name: str, group_id: str
) -> None:
    async with KafkaService.open(secured.settings(sasl_mechanism=mechanism)) as kafka:
        await kafka.topics.create(topic_name, num_partitions=1)
        await kafka.publish(topic_name, "kept secret")
        assert values(await browse(kafka, topic_name)) == ["kept secret"]
        page = await work(kafka, topic_name, group_id)
        await work(kafka, topic_name, group_id, max_messages=0, ack=page.ack)
        assert (await kafka.groups.lag(group_id)).total_lag == 0


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_told_and_not_repeated(secured: SecuredCluster, mechanism: str) -> None:
    settings = secured.settings(sasl_mechanism=mechanism, sasl_password="not the secret")
    async with KafkaService.open(settings) as kafka:
        with pytest.raises(BackendUnavailable, match="login") as refused:
            await kafka.ping()
    assert "not the secret" not in refused.value.detail


async def test_a_certificate_that_is_not_trusted_is_refused(secured: SecuredCluster) -> None:
    async with KafkaService.open(secured.settings(ssl_ca_location=None)) as kafka:
        with pytest.raises(BackendUnavailable):
            await kafka.ping()
