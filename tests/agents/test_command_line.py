"""`python -m agents` finds its gateway and its variables where an operator, or `make run`, leaves them."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from app.local.process import free_port

_PROJECT = Path(__file__).parents[2]
_OURS = ("GATEWAY_", "ANSWER_")


async def demo(directory: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run the demo on a gateway that does not answer; return its status and what it says, which names the address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environment = {**kept, "PYTHONPATH": str(_PROJECT), **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents", "demo", *arguments, cwd=directory, env=environment, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
def addresses() -> list[str]:
    return [f"http://127.0.0.1:{free_port()}" for _ in range(3)]


async def test_the_gateways_address_comes_from_where_it_is_left(tmp_path: Path, addresses: list[str]) -> None:
    local, own, named = addresses
    (tmp_path / ".switchboard").mkdir()
    (tmp_path / ".switchboard" / "env").write_text(f"GATEWAY_URL={local}\nDATABASE_URL=postgresql://u:p@h/d\n")
    assert local in (await demo(tmp_path))[1]
    (tmp_path / ".env").write_text(f"GATEWAY_URL={own}\n")
    assert own in (await demo(tmp_path))[1]
    (tmp_path / "variables").write_text(f"GATEWAY_URL={named}\n")
    assert named in (await demo(tmp_path, "--env-file", "variables"))[1]
    assert local in (await demo(tmp_path, "--env-file", "variables", GATEWAY_URL=local))[1]
    assert own in (await demo(tmp_path, "--gateway", own, GATEWAY_URL=local))[1]


async def test_a_mistake_is_said_in_a_line(tmp_path: Path) -> None:
    status, output = await demo(tmp_path, "--env-file", "nowhere")
    assert (status, "there is no file 'nowhere'" in output) == (2, True)
    status, output = await demo(tmp_path, GATEWAY_URL="localhost:8000")
    assert (status, "GATEWAY_URL: 'localhost:8000'" in output) == (2, True)
    assert "Traceback" not in output
