"""S3, Lambda and SSM on loopback, from the `ministack` wheel, with content to try them on.

It keeps objects in memory while it runs and takes a single PUT in quadratic time, so it is for
development and tests.
"""

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from app.local import process_customer_feedback
from app.local.process import StartFailed, accepts_connections, child_process, free_port

if TYPE_CHECKING:
    from types_aiobotocore_lambda.client import LambdaClient
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_ssm.client import SSMClient
    from types_aiobotocore_ssm.literals import ParameterTypeType

DEMO_BUCKET = "switchboard-demo"
DEMO_FUNCTION = "process-customer-feedback"

_REGION = "us-east-1"
_ACCESS_KEY = "local"
_SECRET_KEY = "local-secret"  # noqa: S105 - any login is accepted, on loopback
_ROLE = "arn:aws:iam::000000000000:role/switchboard-demo"
_STOP_WITHIN = 20.0
"""Seconds; at its end ministack writes what it keeps for the next run."""


@dataclass(frozen=True)
class LocalAws:
    """A running stack and how to reach it."""

    port: int
    process: asyncio.subprocess.Process
    region: str = _REGION
    access_key_id: str = _ACCESS_KEY
    secret_access_key: str = _SECRET_KEY

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the gateway, or any AWS tool, finds this stack."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }


@asynccontextmanager
async def run_aws(
    data_dir: Path, *, port: int | None = None, durable: bool = True, demo: bool = True
) -> AsyncGenerator[LocalAws]:
    """Run the stack, on 127.0.0.1 only.

    Args:
        data_dir: holds what a later run finds again, and the log.
        port: a free one if left out.
        durable: keep objects, functions and parameters on disk. ministack stores an object under its key as
            a path, so keys that are one path (`a//b` and `a/b`) or a file and its folder (`a` and `a/b`)
            get in each other's way; False keeps everything in memory, for tests.
        demo: bring the demo bucket, function and parameters wherever they are missing.

    Raises:
        StartFailed: it did not come up; the message ends with the tail of its log.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir = data_dir.resolve()
    port = port or free_port()

    async def is_ready() -> bool:
        return await accepts_connections(port)

    command = [sys.executable, "-m", "ministack"]
    environment = _environment(data_dir, port, durable)
    process = None
    try:
        async with child_process(
            command, log=data_dir / "log", is_ready=is_ready, stop_within=_STOP_WITHIN, environment=environment
        ) as process:
            stack = LocalAws(port=port, process=process)
            if demo:
                await _bring_demo_content(stack)
            yield stack
    finally:
        if process is not None:
            _end_workers(process.pid)


def _end_workers(leader: int) -> None:
    """End the functions' processes, which would notice only later that ministack is gone."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _environment(data_dir: Path, port: int, durable: bool) -> dict[str, str]:
    scratch = data_dir / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    keep = "1" if durable else "0"
    return {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3,lambda,ssm,sts,iam,logs",
        # Each of these would open a port of its own.
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "PERSIST_STATE": keep,
        "S3_PERSIST": keep,
        "STATE_DIR": str(data_dir / "state"),
        "S3_DATA_DIR": str(data_dir / "s3"),
        "TMPDIR": str(scratch),
        "LOG_LEVEL": "INFO",
        # The functions inherit these. A developer's real login has no business here.
        "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
        "AWS_SESSION_TOKEN": "",
        "AWS_PROFILE": "",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MINISTACK_REGION": _REGION,
    }


async def _bring_demo_content(stack: LocalAws) -> None:
    """Create what is missing; what somebody has changed since stays as it is."""
    session: Any = get_session()  # half typed: the stubs of three services of hundreds are there
    options = {
        "endpoint_url": stack.endpoint_url,
        "region_name": stack.region,
        "aws_access_key_id": stack.access_key_id,
        "aws_secret_access_key": stack.secret_access_key,
        "config": AioConfig(connect_timeout=2, read_timeout=30, s3={"addressing_style": "path"}),
    }
    try:
        async with AsyncExitStack() as clients:
            s3: S3Client = await clients.enter_async_context(session.create_client("s3", **options))
            functions: LambdaClient = await clients.enter_async_context(session.create_client("lambda", **options))
            ssm: SSMClient = await clients.enter_async_context(session.create_client("ssm", **options))
            await _bring_documents(s3)
            await _bring_function(functions)
            await _bring_parameters(ssm)
    except ClientError as error:
        raise StartFailed(f"ministack took no demo content: {error}") from error


async def _bring_documents(s3: "S3Client") -> None:
    try:
        await s3.create_bucket(Bucket=DEMO_BUCKET)
    except ClientError as error:
        _unless(error, "BucketAlreadyOwnedByYou", "BucketAlreadyExists")
    for key, (content_type, body) in _DOCUMENTS.items():
        try:
            await s3.put_object(
                Bucket=DEMO_BUCKET, Key=key, Body=body.encode(), ContentType=content_type, IfNoneMatch="*"
            )
        except ClientError as error:
            _unless(error, "PreconditionFailed")


async def _bring_function(functions: "LambdaClient") -> None:
    code = _zipped(Path(process_customer_feedback.__file__))
    try:
        await functions.create_function(
            FunctionName=DEMO_FUNCTION,
            Runtime="python3.12",
            Role=_ROLE,
            Handler="process_customer_feedback.handler",
            Description="Scores the sentiment of a customer's feedback.",
            Code={"ZipFile": code},
            Timeout=10,
            MemorySize=128,
        )
    except ClientError as error:
        _unless(error, "ResourceConflictException")
        await functions.update_function_code(FunctionName=DEMO_FUNCTION, ZipFile=code)


async def _bring_parameters(ssm: "SSMClient") -> None:
    for name, (kind, value, description) in _PARAMETERS.items():
        try:
            await ssm.put_parameter(Name=name, Type=kind, Value=value, Description=description)
        except ClientError as error:
            _unless(error, "ParameterAlreadyExists")


def _unless(error: ClientError, *codes: str) -> None:
    if error.response.get("Error", {}).get("Code") not in codes:
        raise error


def _zipped(source: Path) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.write(source, source.name)
    return archive.getvalue()


_DOCUMENTS = {
    "customers/12345/profile.json": (
        "application/json",
        json.dumps({"customer_id": "12345", "preferred_language": "en", "time_zone": "Europe/Berlin"}, indent=2) + "\n",
    ),
    "customers/12345/contract.md": (
        "text/markdown",
        """\
# Service agreement, customer 12345

- Support: every day, first answer within four hours.
- Term: twelve months, renewed unless cancelled thirty days before its end.
""",
    ),
    "customers/12345/invoices/2026-10.csv": (
        "text/csv",
        "line,description,quantity,unit_price_eur\n1,Seats,25,19.00\n2,Extra storage (100 GB),2,8.50\n",
    ),
    "customers/12345/notes/onboarding-call.txt": (
        "text/plain",
        "Wants single sign-on before the wider rollout. Asked twice where invoices are found.\n",
    ),
    "customers/10001/profile.json": (
        "application/json",
        json.dumps({"customer_id": "10001", "preferred_language": "de", "time_zone": "Europe/Vienna"}, indent=2) + "\n",
    ),
    "customers/10001/notes/renewal.txt": ("text/plain", "Renewal is due in March; compares us with two others.\n"),
    "reports/feedback-summary.md": (
        "text/markdown",
        """\
# What customers said last month

1. Password resets are now easy to find.
2. The export of invoices is slow for large accounts.
""",
    ),
}
_PARAMETERS: dict[str, tuple["ParameterTypeType", str, str]] = {
    "/switchboard/support/email": ("String", "support@example.com", "Where customers write to."),
    "/switchboard/support/hours": ("String", "Mon-Fri 08:00-18:00 CET", "When people answer."),
    "/switchboard/support/languages": ("StringList", "en,de,fr", "Languages that the team speaks."),
    "/switchboard/features/sentiment": ("String", "enabled", "Whether feedback is scored."),
    "/switchboard/crm/api-key": ("SecureString", "demo-crm-key-7f3a91", "A stand-in for a secret of another system."),
}
