"""The local stack: on loopback only, with demo content, and what was changed is found again."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from app.local.aws import LocalAws, run_aws
from app.services.aws.demo.process_customer_feedback import handler, score
from app.services.aws.demo.seeding import DEMO_BUCKET, DEMO_FUNCTION
from app.services.aws.service import AwsService, open_aws
from tests.fixtures.aws import clients_of, settings_for_aws


def listening_addresses(pid: int) -> set[str]:
    """Return the addresses, in the kernel's notation, that a process and its children listen at."""
    pids = {pid} | {
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/stat")
        if _read(status).rpartition(")")[2].split()[1:2] == [str(pid)]
    }
    sockets = {
        link.readlink().name
        for process in pids
        for link in Path(f"/proc/{process}/fd").glob("*")
        if str(link.readlink()).startswith("socket:")
    }
    listening: set[str] = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if f"socket:[{columns[9]}]" in sockets and (columns[3] == "0A" or table.startswith("udp")):
                listening.add(columns[1])
    return listening


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


async def test_it_listens_on_loopback_and_nowhere_else(aws_stack: LocalAws, aws: AwsService) -> None:
    assert sys.platform == "linux"
    await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "good"})

    assert listening_addresses(aws_stack.process.pid) == {f"0100007F:{aws_stack.port:04X}"}


async def test_it_brings_documents_of_the_demo_customers_a_function_and_parameters(aws: AwsService) -> None:
    documents = await aws.buckets.list_objects(DEMO_BUCKET, prefix="customers/12345/")
    parameters = await aws.parameters.get_by_path(
        "/switchboard/", recursive=True, with_decryption=False, max_results=10, next_token=None
    )

    assert len(documents.objects) >= 3
    assert {parameter.type for parameter in parameters.parameters} == {"String", "StringList", "SecureString"}


async def test_what_was_changed_is_found_again_and_not_overwritten(tmp_path: Path) -> None:
    name = "customers/12345/profile.json"
    async with run_aws(tmp_path) as stack, clients_of(stack) as clients:
        await clients.s3.put_object(Bucket=DEMO_BUCKET, Key=name, Body=b"changed", ContentType="text/x-mine")
        await clients.s3.put_object(Bucket=DEMO_BUCKET, Key="new", Body=bytes(range(256)))
        await clients.ssm.put_parameter(Name="/switchboard/support/email", Value="changed", Overwrite=True)

    async with run_aws(tmp_path) as stack, open_aws(settings_for_aws(stack)) as aws, clients_of(stack) as clients:
        kept = await aws.objects.download(DEMO_BUCKET, name)
        assert (kept.content, kept.content_type) == ("changed", "text/x-mine")
        assert await clients.body(DEMO_BUCKET, "new") == bytes(range(256))
        assert (await aws.parameters.get("/switchboard/support/email")).value == "changed"
        answer = await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "good", "customer_id": "1"})
        assert answer.function_error is None


async def test_nothing_runs_on_after_it_was_stopped(tmp_path: Path) -> None:
    async with run_aws(tmp_path, durable=False) as stack:
        async with open_aws(settings_for_aws(stack)) as aws:
            await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "good"})
        assert _processes_that_mention(tmp_path)

    async with asyncio.timeout(30):
        while _processes_that_mention(tmp_path):
            await asyncio.to_thread(os.sched_yield)


def _processes_that_mention(directory: Path) -> list[str]:
    return [command.parent.name for command in Path("/proc").glob("[0-9]*/cmdline") if str(directory) in _read(command)]


@pytest.mark.parametrize(
    ("feedback", "least", "most"),
    [
        ("I love it, excellent service!", 0.5, 1.0),
        ("The worst support ever, I am furious.", -1.0, -0.5),
        ("The parcel arrived on Monday.", 0.0, 0.0),
        ("not good", -0.5, -0.1),
        ("I don't like waiting", -0.6, -0.1),
        ("Not cheap. But great support", 0.3, 1.0),
        ("very good", score("good") + 0.01, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_feedback_is_scored_by_its_words(feedback: str, least: float, most: float) -> None:
    assert least <= score(feedback) <= most


def test_feedback_that_is_missing_is_an_error_of_the_function() -> None:
    for event in [{}, {"feedback": " "}, {"feedback": 7}]:
        with pytest.raises(ValueError, match="feedback must be a text"):
            handler(event, None)
