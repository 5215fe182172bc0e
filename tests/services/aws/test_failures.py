"""What goes wrong at AWS, in the gateway's words; and what a client does about it."""

import asyncio
import logging
from pathlib import Path

import pytest
from botocore import exceptions as boto

from app.errors import (
    BackendNotConfigured,
    BackendTimeout,
    BackendUnavailable,
    Conflict,
    Forbidden,
    GatewayError,
    InvalidArguments,
    NotFound,
    RangeNotSatisfiable,
    TooManyRequests,
)
from app.local.aws import run_aws
from app.local.process import free_port
from app.services.aws.demo.seeding import DEMO_BUCKET, DEMO_FUNCTION
from app.services.aws.failures import MissingBucket, aws_failures
from app.services.aws.service import open_aws
from app.services.aws.settings import AwsSettings
from tests.fixtures.aws import clients_of, deploy, http_answer, s3_error, scripted_aws, settings_for_aws

SECRET = "AKIAXXXX-hidden"


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchBucket", 404, MissingBucket),
        ("NoSuchKey", 404, NotFound),
        ("ResourceNotFoundException", 404, NotFound),
        ("ParameterNotFound", 400, NotFound),
        ("AccessDenied", 403, Forbidden),
        ("AccessDeniedException", 400, Forbidden),
        ("ExpiredToken", 400, BackendUnavailable),
        ("ExpiredTokenException", 403, BackendUnavailable),
        ("InvalidAccessKeyId", 403, BackendUnavailable),
        ("SignatureDoesNotMatch", 403, BackendUnavailable),
        ("UnrecognizedClientException", 403, BackendUnavailable),
        ("SlowDown", 503, TooManyRequests),
        ("ThrottlingException", 400, TooManyRequests),
        ("TooManyRequestsException", 429, TooManyRequests),
        ("InternalError", 500, BackendUnavailable),
        ("ServiceUnavailable", 503, BackendUnavailable),
        ("PreconditionFailed", 412, Conflict),
        ("InvalidObjectState", 403, Conflict),
        ("InvalidRange", 416, RangeNotSatisfiable),
        ("RequestTooLargeException", 413, InvalidArguments),
        ("SomethingNew", 400, InvalidArguments),
    ],
)
def test_what_aws_answers_is_translated(code: str, status: int, expected: type[GatewayError]) -> None:
    answer = {
        "Error": {"Code": code, "Message": f"User arn:aws:iam::1:user/x with {SECRET}"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "7"}},
    }

    with pytest.raises(expected) as failure, aws_failures("s3:GetObject", missing="There is no x.", bucket="b"):
        raise boto.ClientError(answer, "GetObject")  # type: ignore[arg-type]

    assert type(failure.value) is expected
    assert SECRET not in failure.value.detail
    if failure.value.status in (429, 503) and "redentials" not in failure.value.detail:
        assert failure.value.retry_after == 7


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (boto.NoCredentialsError(), BackendNotConfigured),
        (boto.PartialCredentialsError(provider="env", cred_var=SECRET), BackendNotConfigured),
        (boto.NoRegionError(), BackendNotConfigured),
        (boto.ProfileNotFound(profile=SECRET), BackendNotConfigured),
        (boto.CredentialRetrievalError(provider="x", error_msg=SECRET), BackendUnavailable),
        (boto.UnauthorizedSSOTokenError(), BackendUnavailable),
        (boto.ReadTimeoutError(endpoint_url=SECRET), BackendTimeout),
        (boto.ConnectTimeoutError(endpoint_url=SECRET), BackendTimeout),
        (boto.EndpointConnectionError(endpoint_url=SECRET), BackendUnavailable),
        (boto.ConnectionClosedError(endpoint_url=SECRET), BackendUnavailable),
        (boto.SSLError(endpoint_url=SECRET, error=OSError(SECRET)), BackendUnavailable),
        (boto.ResponseStreamingError(error=SECRET), BackendUnavailable),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), BackendUnavailable),
        (boto.FlexibleChecksumError(error_msg=SECRET), BackendUnavailable),
        (boto.ParamValidationError(report=SECRET), InvalidArguments),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_botocore_raises_is_translated_and_nothing_of_it_is_told(
    error: Exception, expected: type[GatewayError], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(expected) as failure, aws_failures("s3:GetObject"):
        raise error

    assert type(failure.value) is expected
    assert SECRET not in failure.value.detail
    assert SECRET not in caplog.text


# No AWS to speak to


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment in which no credentials are to be found."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"region": "eu-central-1"}, "AWS_ACCESS_KEY_ID"),
        ({}, "AWS_REGION"),
        ({"region": "eu-central-1", "profile": "nowhere"}, "AWS_PROFILE"),
        ({"region": "eu-central-1", "access_key_id": SECRET}, "AWS_SECRET_ACCESS_KEY"),
        (
            {"region": "x-1", "access_key_id": "a", "secret_access_key": "b", "endpoint_url": "nonsense"},
            "AWS_ENDPOINT_URL",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_not_configured_is_named_at_each_call_and_not_at_start(
    settings: dict[str, object], named: str
) -> None:
    async with open_aws(settings_for_aws(None, **settings)) as aws:
        for call in [aws.ping(), aws.objects.download("bucket", "key"), aws.functions.invoke("name", {})]:
            with pytest.raises(BackendNotConfigured, match=named) as failure:
                await call
            assert SECRET not in failure.value.detail


@pytest.mark.usefixtures("no_environment")
async def test_the_usual_chain_of_credentials_is_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[team]\naws_access_key_id = AKIATEAM\naws_secret_access_key = x\n")
    (tmp_path / "config").write_text("[profile team]\nregion = eu-west-3\n")
    async with open_aws(settings_for_aws(None, profile="team")) as aws:
        url = (await aws.objects.presign("bucket", "key", "GET", 60)).url
    assert "AKIATEAM" in url
    assert "eu-west-3" in url

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "sa-east-1")
    monkeypatch.setenv("AWS_ALLOWED_BUCKETS", "bucket/a, other")
    settings = AwsSettings.model_validate({})
    async with open_aws(settings) as aws:
        assert "AKIAENV" in (await aws.objects.presign("bucket", "a/key", "GET", 60)).url
        with pytest.raises(Forbidden):
            await aws.objects.presign("bucket", "b/key", "GET", 60)


@pytest.mark.usefixtures("no_environment")
async def test_credentials_that_come_late_need_no_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.services.aws.clients._RETRY_LOOKUP_AFTER", 0.0)
    async with open_aws(settings_for_aws(None, region="eu-central-1")) as aws:
        with pytest.raises(BackendNotConfigured):
            await aws.objects.presign("bucket", "key", "GET", 60)

        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = AKIALATE\naws_secret_access_key = x\n")

        assert "AKIALATE" in (await aws.objects.presign("bucket", "key", "GET", 60)).url


@pytest.mark.usefixtures("no_environment")
async def test_a_silent_metadata_service_delays_start_and_calls_by_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted_aws(lambda before, line: None) as (silent, seen):
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", str(silent.endpoint_url))
        async with asyncio.timeout(20), open_aws(settings_for_aws(None, region="eu-central-1")) as aws:
            with pytest.raises(BackendUnavailable, match="credentials"):
                await aws.ping()

    assert seen


async def test_an_aws_that_is_not_there_answers_503() -> None:
    nowhere = settings_for_aws(
        None,
        endpoint_url=f"http://127.0.0.1:{free_port()}",
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        max_attempts=2,
    )
    async with open_aws(nowhere) as aws:
        for call in [aws.ping(), aws.buckets.list_objects("bucket"), aws.functions.invoke("name", {})]:
            with pytest.raises(BackendUnavailable, match="can't be reached"):
                await call


async def test_calls_work_again_once_aws_is_back_without_a_restart(tmp_path: Path) -> None:
    port = free_port()
    async with run_aws(tmp_path / "one", port=port, durable=False) as stack:
        settings = settings_for_aws(stack, max_attempts=1)
        async with open_aws(settings) as aws:
            await aws.ping()
            stack.process.kill()
            await stack.process.wait()
            with pytest.raises(BackendUnavailable):
                await aws.buckets.list_objects(DEMO_BUCKET)

            async with run_aws(tmp_path / "two", port=port, durable=False):
                assert (await aws.buckets.list_objects(DEMO_BUCKET)).objects
                assert (await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "good"})).status_code == 200


async def test_a_call_that_aws_dies_in_answers_503(tmp_path: Path) -> None:
    running = tmp_path / "running"
    source = "import time\ndef handler(event, context):\n    open(event['tell'], 'w').close()\n    time.sleep(60)\n"
    async with run_aws(tmp_path / "stack", durable=False) as stack, clients_of(stack) as behind:
        await deploy(behind, "slow", source)
        async with open_aws(settings_for_aws(stack)) as aws:
            call = asyncio.create_task(aws.functions.invoke("slow", {"tell": str(running)}))
            async with asyncio.timeout(30):
                while not running.exists():
                    await asyncio.wait([call], timeout=0.01)
            stack.process.kill()
            with pytest.raises(BackendUnavailable) as failure:
                await call

    assert failure.value.status in (503, 504)


# An AWS that answers as a test wants it to


async def test_a_read_is_repeated_after_a_failure_of_aws() -> None:
    listing = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"

    def answer(before: int, line: str) -> str:
        return http_answer("200 OK", listing) if before else http_answer("500 Error", s3_error("InternalError"))

    async with scripted_aws(answer) as (settings, seen), open_aws(settings) as aws:
        assert (await aws.buckets.list_objects("bucket")).objects == []

    assert len(seen) == 2


@pytest.mark.parametrize("kind", ["RequestResponse", "Event"])
async def test_an_invocation_is_never_repeated(kind: str) -> None:
    def answer(before: int, line: str) -> str:
        return http_answer("500 Error", "{}", "x-amzn-errortype: ServiceException\r\n")

    async with scripted_aws(answer) as (settings, seen), open_aws(settings) as aws:
        with pytest.raises(BackendUnavailable):
            await aws.functions.invoke("name", {}, invocation_type=kind)  # type: ignore[arg-type]

    assert len(seen) == 1


async def test_a_conditional_write_is_never_repeated() -> None:
    def answer(before: int, line: str) -> str:
        return http_answer("500 Error", s3_error("InternalError"))

    async with scripted_aws(answer) as (settings, seen), open_aws(settings) as aws:
        with pytest.raises(BackendUnavailable):
            await aws.objects.upload("bucket", "key", "x", if_none_match=True)

    assert len(seen) == 1


async def test_a_write_that_aws_never_takes_answers_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.aws.s3.parts._WRITE_WITHIN", 0.5)
    async with (
        scripted_aws(lambda before, line: None, takes_bodies=False, waits=0.5) as (settings, _),
        open_aws(settings) as aws,
    ):
        with pytest.raises(BackendTimeout, match="s3:PutObject"):
            await aws.objects.upload("bucket", "key", "x")


async def test_silence_answers_504() -> None:
    async with scripted_aws(lambda before, line: None, waits=0.5) as (settings, _), open_aws(settings) as aws:
        with pytest.raises(BackendTimeout, match="lambda:InvokeFunction"):
            await aws.functions.invoke("name", {})


async def test_expired_credentials_answer_503_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def answer(before: int, line: str) -> str:
        return http_answer("400 Bad Request", s3_error("ExpiredToken"))

    async with scripted_aws(answer) as (settings, _), open_aws(settings) as aws:
        for call in [aws.ping(), aws.buckets.list_objects("bucket")]:
            with pytest.raises(BackendUnavailable, match="expired") as failure:
                await call
            assert failure.value.status == 503


async def test_an_answer_that_breaks_off_is_no_object() -> None:
    headers = "content-length: 100\r\netag: x\r\nlast-modified: Sun, 22 Nov 2026 14:22:49 GMT"

    async with (
        scripted_aws(lambda before, line: f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\nhalf") as (settings, _),
        open_aws(settings) as aws,
    ):
        with pytest.raises(BackendUnavailable, match="broke off"):
            await aws.objects.download("bucket", "key")


async def test_a_ping_needs_no_permission_at_all() -> None:
    def answer(before: int, line: str) -> str:
        return http_answer("403 Forbidden", s3_error("AccessDenied"))

    async with scripted_aws(answer) as (settings, _), open_aws(settings) as aws:
        await aws.ping()
        with pytest.raises(Forbidden, match="s3:ListBucket"):
            await aws.buckets.list_objects("bucket")


NO_AWS = ["<html>Please log in</html>", "<html><br>", "{}", "[]", '{"Parameter": null, "Parameters": null}', ""]


@pytest.mark.parametrize("body", NO_AWS)
async def test_what_answers_and_is_no_aws_is_told_as_a_setting_to_check(
    body: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A login page of a proxy, say, or AWS_ENDPOINT_URL names another server."""

    def answer(before: int, line: str) -> str:
        return http_answer("200 OK", "" if line.startswith("HEAD") else body, "content-type: text/html\r\n")

    async with scripted_aws(answer) as (settings, _), open_aws(settings) as aws:
        for call in [
            aws.buckets.list_objects("bucket"),
            aws.buckets.list_buckets(None, 10),
            aws.objects.download("bucket", "key"),
            aws.streams.look("bucket", "key"),
            aws.objects.upload("bucket", "key", "x"),
            aws.objects.upload("bucket", "key", "x", idempotency_key="k"),
            aws.functions.list(None, 10),
            aws.parameters.get("/a"),
            aws.parameters.get_by_path("/a", recursive=True, with_decryption=True, max_results=10, next_token=None),
            aws.parameters.list(None, 10),
        ]:
            # Where an answer of S3 is no XML, botocore itself takes it for a failure of S3.
            with pytest.raises(BackendUnavailable, match=r"AWS_ENDPOINT_URL|AWS failed"):
                await call
    assert "answer can't be read" in caplog.text
    assert "log in" not in caplog.text


async def test_headers_that_are_no_utf_8_are_told_as_such_and_not_as_an_outage() -> None:
    async with (
        scripted_aws(lambda before, line: http_answer("200 OK", "", "x-amz-meta-a: caf\udce9\r\n")) as (settings, _),
        open_aws(settings) as aws,
    ):
        with pytest.raises(BackendUnavailable, match="does not speak as AWS does"):
            await aws.objects.download("bucket", "key")


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [("400 Bad Request", "ExpiredToken", "expired"), ("403 Forbidden", "InvalidAccessKeyId", "refuses the gateway's")],
)
async def test_a_refusal_without_a_body_is_told_with_its_reason(status: str, code: str, reason: str) -> None:
    def answer(before: int, line: str) -> str:
        return http_answer(status, "" if line.startswith("HEAD") else s3_error(code))

    async with scripted_aws(answer) as (settings, _), open_aws(settings) as aws:
        for call in [
            aws.streams.look("bucket", "key"),
            aws.objects.upload("bucket", "key", "x", idempotency_key="k"),
        ]:
            with pytest.raises(BackendUnavailable, match=reason):
                await call


async def test_a_region_that_is_none_is_told_by_its_variable() -> None:
    settings = {"region": "eu central 1", "access_key_id": "a", "secret_access_key": "b"}
    async with open_aws(AwsSettings.model_validate(settings)) as aws:
        with pytest.raises(BackendNotConfigured, match="AWS_REGION"):
            await aws.buckets.list_objects("bucket")
