"""The stack that every document is read against."""

from collections.abc import AsyncGenerator

import pytest

from app.local.process import free_port
from tests.documents.checkout import PORTS, Checkout
from tests.documents.reader import serving
from tests.fixtures.postgres import cluster_directory


@pytest.fixture(scope="session")
async def stack() -> AsyncGenerator[Checkout]:
    """A checkout in which somebody has typed `make run`, and a moment later nothing else."""
    with cluster_directory() as directory:
        directory.chmod(0o755)  # the database of a root is another user's
        checkout = Checkout(directory, {port: str(free_port()) for port in PORTS})
        command = f"make run PORT={checkout.ports['8000']}"
        async with serving(command, directory, checkout.environment, int(checkout.ports["8000"]), checkout.log):
            yield checkout
