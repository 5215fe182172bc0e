"""`alembic upgrade head && alembic check` on a fresh database of the local stack, for `make check`."""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from app.local.postgres import run_postgres


async def main() -> int:
    """Return alembic's exit status."""
    with tempfile.TemporaryDirectory() as directory:
        async with run_postgres(Path(directory) / "postgres", durable=False) as server:
            environment = {**os.environ, "DATABASE_URL": server.url()}
            alembic = [sys.executable, "-m", "alembic"]
            for command in (["upgrade", "head"], ["check"]):
                running = await asyncio.create_subprocess_exec(
                    *alembic, *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                output, _ = await running.communicate()
                print(f"alembic {' '.join(command)}: {'ok' if running.returncode == 0 else 'failed'}")
                if running.returncode:
                    print(output.decode())
                    return running.returncode
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
