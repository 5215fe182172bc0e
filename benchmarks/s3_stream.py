"""How much memory the gateway takes to move one large object through its streams, there and back.

    python -m benchmarks.s3_stream [--mebibytes 1024]

The gateway runs as a process of its own over the local stack. Its peak is the kernel's (`VmHWM`), reset
once a small object has gone through. ministack holds the object in memory more than once: have
about five times its size free.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from app.local.aws import run_aws
from app.local.process import accepts_connections, child_process, free_port
from app.services.aws.demo.seeding import DEMO_BUCKET

_MIB = 1024 * 1024
_CHUNK = os.urandom(_MIB)
_BOUND_MIB = 64
_GATEWAY = """
import sys
from app.cli.running import run
from app.main import create_app
from app.routers.aws import AWSMCPServer
from app.serving.process import serve
from app.settings import Settings
settings = Settings(port=int(sys.argv[1]))
run(lambda: serve(create_app([AWSMCPServer], settings), settings))
"""


def memory(pid: int, field: str) -> float:
    """Return a figure of a process's memory in MiB: VmRSS now, VmHWM at its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def forget_peak(pid: int) -> None:
    """Let the kernel measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def body(mebibytes: int) -> AsyncIterator[bytes]:
    """Yield an object whose every MiB differs."""
    for number in range(mebibytes):
        yield number.to_bytes(8, "big") + _CHUNK[8:]


async def digest_of(chunks: AsyncIterator[bytes]) -> str:
    """Return the SHA-256 of a stream."""
    digest = hashlib.sha256()
    async for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


async def move(http: httpx.AsyncClient, pid: int, mebibytes: int) -> None:
    """Write an object through the gateway, read it back, and print what that cost."""
    path = f"/mcp/aws/s3/{DEMO_BUCKET}/benchmark.bin"
    before = memory(pid, "VmRSS")
    forget_peak(pid)
    started = time.perf_counter()
    written = await http.post(path, content=body(mebibytes), headers={"content-length": str(mebibytes * _MIB)})
    written.raise_for_status()
    up = time.perf_counter() - started
    peak_up = memory(pid, "VmHWM")
    forget_peak(pid)
    started = time.perf_counter()
    async with http.stream("GET", path) as read:
        read.raise_for_status()
        same = await digest_of(read.aiter_bytes()) == await digest_of(body(mebibytes))
    down = time.perf_counter() - started
    growth = max(peak_up, memory(pid, "VmHWM")) - before
    print(
        f"{mebibytes} MiB: up {up:.1f} s, down {down:.1f} s, resident before {before:.1f} MiB, growth at the peak "
        f"{peak_up - before:.1f} MiB up and {memory(pid, 'VmHWM') - before:.1f} MiB down, "
        f"bytes {'equal' if same else 'DIFFER'}"
    )
    if not same or growth >= _BOUND_MIB:
        raise SystemExit(f"failed: at most {_BOUND_MIB} MiB of growth and equal bytes were expected")


async def main(mebibytes: int) -> None:
    """Run the local stack and a gateway over it, and move one small and one large object."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()

        async def is_ready() -> bool:
            return await accepts_connections(port)

        async with (
            run_aws(Path(directory) / "aws", durable=False) as stack,
            child_process(
                [sys.executable, "-c", _GATEWAY, str(port)],
                log=Path(directory) / "gateway.log",
                is_ready=is_ready,
                environment=stack.environment,
            ) as gateway,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=900) as http,
        ):
            await move(http, gateway.pid, 16)
            await move(http, gateway.pid, mebibytes)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Measure the memory of S3 streams.")
    arguments.add_argument("--mebibytes", type=int, default=1024)
    asyncio.run(main(arguments.parse_args().mebibytes))
