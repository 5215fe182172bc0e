"""`switchboard doctor` says how things are, a line each, what to do where they are not well, and ends with 1 then."""

import asyncio
import re
from pathlib import Path

import pytest

from app.local.aws import LocalAws
from app.local.kafka import LocalKafka
from app.local.postgres import LocalPostgres
from app.local.process import free_port
from app.main import create_app
from app.routers.kafka import KafkaMCPServer
from app.services.postgres.migrations import migrate
from app.services.postgres.versions import versions
from app.settings import Settings
from tests.fixtures.embedding_endpoint import answer, run_endpoint
from tests.fixtures.gateway import serve
from tests.fixtures.kafka import settings_for_kafka
from tests.fixtures.pgbouncer import run_pgbouncer
from tests.fixtures.postgres import TestDatabase, cloned_database
from tests.test_cli import invoke, switchboard

_LINE = re.compile(r"(ok|off|warning|broken) +(\w+) +(.+)")


async def doctor(**variables: str) -> tuple[int, dict[tuple[str, str], list[str]]]:
    """Run it where nothing listens; return its status and its lines by state and subject."""
    variables = {"PORT": str(free_port()), "AWS_EC2_METADATA_DISABLED": "true", **variables}
    status, output = await invoke("doctor", **variables)
    found: dict[tuple[str, str], list[str]] = {}
    for line in output.splitlines():
        match = _LINE.fullmatch(line)
        assert match, output
        found.setdefault((match[1], match[2]), []).append(match[3])
    assert status == (1 if any(state == "broken" for state, _ in found) else 0), output
    return status, found


async def test_all_is_well(demo_database: TestDatabase, kafka_broker: LocalKafka, aws_stack: LocalAws) -> None:
    status, found = await doctor(
        DATABASE_URL=demo_database.url,
        DATABASE_PROCESSES="1",
        KAFKA_BOOTSTRAP_SERVERS=kafka_broker.bootstrap_servers,
        AWS_ALLOWED_BUCKETS="switchboard-demo",
        AWS_ALLOWED_FUNCTIONS="process-customer-feedback",
        AWS_ALLOWED_PARAMETER_PATHS="/switchboard",
        **aws_stack.environment,
    )
    assert {state for state, _ in found} == {"ok", "off"}, found
    assert status == 0
    database = "\n".join(found["ok", "database"])
    for said in ("PostgreSQL 18", "login postgres", "version 0", "switchboard_reader_", "be heard", "there is room"):
        assert said in database
    assert "1 broker answered: 127.0.0.1" in found["ok", "kafka"][0]
    assert {text.partition(":")[0] for text in found["ok", "aws"][1:]} == {
        "bucket switchboard-demo",
        "function process-customer-feedback",
        "parameters /switchboard",
    }
    [clients] = found["off", "clients"]
    assert "switchboard serve" in clients
    assert {name: "not tried" in found["off", name][-1] for name in ("kafka", "aws")} == {"kafka": True, "aws": True}


async def test_each_mistake_in_a_setting_is_a_line_and_hides_no_other_server(kafka_broker: LocalKafka) -> None:
    status, found = await doctor(
        DATABASE_READ_POOL_SIZE="0", DATABASE_POOLER="none", KAFKA_BOOTSTRAP_SERVERS=kafka_broker.bootstrap_servers
    )
    assert status == 1
    wrong = [line.partition(":")[0] for line in found["broken", "database"]]
    assert wrong == ["DATABASE_POOLER", "DATABASE_READ_POOL_SIZE"]
    assert found["ok", "kafka"]
    status, found = await doctor(LOG_LEVEL="loud")
    assert (status, found["broken", "settings"][0].partition(":")[0]) == (1, "LOG_LEVEL")


async def test_a_backend_that_is_named_as_nobody_can_follow_is_broken_and_not_merely_off() -> None:
    status, found = await doctor(
        DATABASE_URL="postgresql://desk@127.0.0.1/desk?schema=public", KAFKA_BOOTSTRAP_SERVERS="broker"
    )
    assert status == 1
    assert "`schema` is an option of Prisma" in found["broken", "database"][0]
    assert "expected host:port" in found["broken", "kafka"][0]
    assert "AWS is not configured" in found["off", "aws"][0]


async def test_what_turns_text_into_vectors_is_tried(demo_database: TestDatabase) -> None:
    address = {"DATABASE_URL": demo_database.url, "SERVERS": "database"}
    _, found = await doctor(**address)
    assert any("EMBEDDINGS names a model" in text for text in found["off", "database"])
    _, found = await doctor(**address, EMBEDDINGS="e5-small", EMBEDDINGS_TIMEOUT="30")
    assert any(re.match(r"embeddings: e5-small answers a question in \d+ ms", text) for text in found["ok", "database"])
    async with demo_database.connect() as connection:
        made = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'vectors%'")
        queued = await connection.fetchval("SELECT count(*) FROM embedding_queue")
        assert (made, queued) == (0, 0)  # it looks, and begins nothing
    async with run_endpoint() as endpoint:
        endpoint.behave = lambda _: answer({"error": {"code": "invalid_api_key"}}, 401)
        asked = {"EMBEDDINGS": endpoint.url, "EMBEDDINGS_MODEL": "m", "EMBEDDINGS_KEY": "sk-very-secret"}
        status, found = await doctor(**address, **asked)
    assert status == 1
    assert any("refuses EMBEDDINGS_KEY (401 invalid_api_key)" in text for text in found["broken", "database"])
    assert "sk-very-secret" not in str(found)


async def test_mistakes_of_all_that_a_server_reads_are_told() -> None:
    _, found = await doctor(DATABASE_POOLER="none", EMBEDDINGS="bge", EMBEDDINGS_BATCH_SIZE="1000")
    wrong = [line.partition(":")[0] for line in found["broken", "database"]]
    assert wrong == ["DATABASE_POOLER", "EMBEDDINGS", "EMBEDDINGS_BATCH_SIZE"]
    _, found = await doctor(EMBEDDINGS="https://api.openai.com/v1")
    assert "set EMBEDDINGS_MODEL" in str(found["broken", "database"])


async def test_nothing_configured_is_not_well() -> None:
    status, found = await doctor()
    assert status == 1
    assert {subject for state, subject in found if state == "off"} == {"database", "kafka", "aws", "keys", "clients"}
    assert "DATABASE_URL" in found["off", "database"][0]
    assert "no server is configured" in found["broken", "settings"][0]


async def test_backends_that_are_away_are_named_with_what_to_do(aws_stack: LocalAws) -> None:
    status, found = await doctor(
        DATABASE_URL=f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d",
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        **{**aws_stack.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"},
    )
    assert status == 1
    assert "can't be reached" in found["broken", "database"][0]
    assert "KAFKA_BOOTSTRAP_SERVERS" in found["broken", "kafka"][0]
    assert "AWS_ENDPOINT_URL" in found["broken", "aws"][0]
    assert "hunter2" not in str(found)


async def test_what_is_wrong_behind_an_answer_is_found(postgres_server: LocalPostgres, aws_stack: LocalAws) -> None:
    async with cloned_database(postgres_server, None) as bare:
        status, found = await doctor(
            DATABASE_URL=bare.url,
            DATABASE_PROCESSES="1000",
            AWS_ALLOWED_BUCKETS="no-such-bucket",
            **aws_stack.environment,
        )
    assert status == 1
    assert "switchboard migrate" in found["broken", "database"][0]
    assert any("max_connections" in text for text in found["warning", "database"])
    assert "no-such-bucket" in found["broken", "aws"][0]


@pytest.mark.parametrize("version", versions()[1:-1])
async def test_a_database_that_is_half_migrated_is_told_with_what_to_run(
    postgres_server: LocalPostgres, version: str
) -> None:
    async with cloned_database(postgres_server, None) as half:
        await migrate(half.url, version)
        status, found = await doctor(DATABASE_URL=half.url)
    assert status == 1
    assert "switchboard migrate" in found["broken", "database"][0]


async def test_a_pooler_that_hides_changes_is_told_with_the_remedy(demo_database: TestDatabase) -> None:
    async with run_pgbouncer(demo_database.url, demo_database.reader_url, mode="transaction") as (url, reader_url):
        _, found = await doctor(DATABASE_URL=url, DATABASE_READER_URL=reader_url)
    assert "through a pooler" in found["ok", "database"][0]
    assert any("DATABASE_DIRECT_URL" in text for text in found["warning", "database"])


async def test_the_clients_view_is_asked_of_the_gateway_that_runs(kafka_broker: LocalKafka) -> None:
    servers = kafka_broker.bootstrap_servers
    async with serve(create_app([KafkaMCPServer], Settings(), [settings_for_kafka(kafka_broker)])) as served:
        _, found = await doctor(PORT=str(served.port), KAFKA_BOOTSTRAP_SERVERS=servers)
        assert f"shown {len(KafkaMCPServer.tools)} tools" in found["ok", "clients"][0]
    strict = Settings(allowed_hosts=["support.example"])
    async with serve(create_app([KafkaMCPServer], strict, [settings_for_kafka(kafka_broker)])) as served:
        _, found = await doctor(PORT=str(served.port), KAFKA_BOOTSTRAP_SERVERS=servers)
        assert "ALLOWED_HOSTS" in found["warning", "clients"][0]


async def test_another_program_on_the_port_is_told(kafka_broker: LocalKafka) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        status, found = await doctor(PORT=str(port), KAFKA_BOOTSTRAP_SERVERS=kafka_broker.bootstrap_servers)
    assert (status, "no Switchboard" in found["broken", "clients"][0]) == (1, True)


async def test_it_runs_as_a_command_and_names_the_file_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "misspelt").write_text("KAFKA_BOOTSTRAP_SERVER=127.0.0.1:1\n")
    _, output = await switchboard(tmp_path, "doctor", "--env-file", "misspelt")
    assert re.search(
        r"^warning +settings +KAFKA_BOOTSTRAP_SERVER of .* did you mean KAFKA_BOOTSTRAP_SERVERS\?$",
        output,
        re.MULTILINE,
    )
    (tmp_path / "variables").write_text("LOG_LEVEL=loud\n")
    status, output = await switchboard(tmp_path, "doctor", "--env-file", "variables")
    file, wrong = output.splitlines()
    assert status == 1
    assert file.startswith("ok")
    assert "variables" in file
    assert wrong.startswith("broken")
    assert "LOG_LEVEL" in wrong
