"""S3, Lambda and SSM on loopback, from the `ministack` wheel, with content to try them on.

It keeps objects in memory while it runs and takes a single PUT in quadratic time, so it is for
development and tests.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.errors import GatewayError
from app.local.process import StartFailed, accepts_connections, child_process, free_port
from app.services.aws.demo.seeding import seed
from app.services.aws.settings import AwsSettings

_REGION = "us-east-1"
_ACCESS_KEY = "local"
_SECRET_KEY = "local-secret"  # noqa: S105 - any login is accepted, on loopback
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
    def settings(self) -> AwsSettings:
        """Settings as the gateway would read them from `environment`."""
        names = {name.removeprefix("AWS_").lower(): value for name, value in self.environment.items()}
        return AwsSettings.model_validate(names)

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
    try:
        await seed(stack.settings)
    except GatewayError as error:
        raise StartFailed(f"ministack took no demo content: {error}") from error
