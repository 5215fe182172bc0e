import pytest

from app.services.aws.clients import Connection
from app.services.aws.service import AwsService
from tests.fixtures.aws import SMALLEST_PART, settings_for_aws


@pytest.fixture
def small_parts(aws_connection: Connection) -> AwsService:
    """Objects under the smallest parts and a limit that tests reach quickly."""
    return AwsService(aws_connection, settings_for_aws(None, s3_part_bytes=SMALLEST_PART, s3_max_inline_bytes=1000))
