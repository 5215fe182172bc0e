"""What every test may ask for. Backends are real: each file under `tests/fixtures` runs one of the local stack."""

import pytest

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.kafka", "tests.fixtures.aws", "tests.fixtures.gateway"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
