"""What every test may ask for. Backends are real: each file under `tests/fixtures` runs one of the local stack."""

import pytest

pytest_plugins = [
    "tests.longest_first",
    "tests.fixtures.debian",
    "tests.fixtures.postgres",
    "tests.fixtures.kafka",
    "tests.fixtures.aws",
    "tests.fixtures.gateway",
    "tests.fixtures.browser",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
