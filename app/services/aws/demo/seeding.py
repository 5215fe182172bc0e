"""What the demo has in AWS: a bucket, a function and parameters, for an emulator to try the tools on."""

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from app.services.aws.clients import open_connection
from app.services.aws.demo import process_customer_feedback
from app.services.aws.failures import aws_failures
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_lambda.client import LambdaClient
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_ssm.client import SSMClient
    from types_aiobotocore_ssm.literals import ParameterTypeType

DEMO_BUCKET = "switchboard-demo"
DEMO_FUNCTION = "process-customer-feedback"

_ROLE = "arn:aws:iam::000000000000:role/switchboard-demo"


async def seed(settings: AwsSettings) -> None:
    """Create what is missing; what somebody has changed since stays as it is.

    Args:
        settings: where the emulator is.

    Raises:
        GatewayError: it can't be reached, or takes none of it.
    """
    async with open_connection(settings) as connection:
        clients = await connection.clients()
        with aws_failures("s3:PutObject"):
            await _bring_documents(clients.s3)
        with aws_failures("lambda:CreateFunction"):
            await _bring_function(clients.functions)
        with aws_failures("ssm:PutParameter"):
            await _bring_parameters(clients.parameters)


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
