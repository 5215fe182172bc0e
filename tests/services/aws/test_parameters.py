"""SSM: parameters are read, and a secret shows only where it was asked for."""

import logging

import pytest

from app.errors import Forbidden, GatewayError, NotFound
from app.services.aws.clients import Connection
from app.services.aws.parameters import MASK, Parameters, ParameterSummary
from app.services.aws.service import AwsService
from tests.fixtures.aws import AwsBehindTheGateway, settings_for_aws

SECRET = "s3cr3t-that-nobody-may-see"
CIPHERTEXT = "ENCRYPTED:"


@pytest.fixture
async def path(behind: AwsBehindTheGateway, bucket: str) -> str:
    """A path of this test alone, with a parameter of each type and one a level below."""
    below = f"/{bucket}"
    for name, kind, value in [
        ("plain", "String", "x"),
        ("list", "StringList", "a,b"),
        ("secret", "SecureString", SECRET),
        ("deeper/one", "String", "y"),
    ]:
        await behind.ssm.put_parameter(Name=f"{below}/{name}", Type=kind, Value=value)
    return below


async def test_a_parameter_is_read(aws: AwsService, path: str) -> None:
    plain = await aws.parameters.get(f"{path}/plain")

    assert (plain.name, plain.type, plain.value, plain.version) == (f"{path}/plain", "String", "x", 1)
    assert not plain.masked
    assert plain.last_modified.tzinfo is not None


async def test_a_secret_is_masked_unless_it_is_asked_for(aws: AwsService, path: str) -> None:
    masked = await aws.parameters.get(f"{path}/secret")
    shown = await aws.parameters.get(f"{path}/secret", with_decryption=True)

    assert (masked.type, masked.value, masked.masked) == ("SecureString", MASK, True)
    assert (shown.value, shown.masked) == (SECRET, False)


async def test_parameters_under_a_path_are_read_page_by_page(aws: AwsService, path: str) -> None:
    found: dict[str, str] = {}
    token, pages = None, 0
    while pages == 0 or token:
        page = await aws.parameters.get_by_path(
            path, recursive=True, with_decryption=False, max_results=3, next_token=token
        )
        found |= {parameter.name: parameter.value for parameter in page.parameters}
        token, pages = page.next_token, pages + 1

    assert pages == 2
    assert found == {
        f"{path}/plain": "x",
        f"{path}/list": "a,b",
        f"{path}/secret": MASK,
        f"{path}/deeper/one": "y",
    }
    level = await aws.parameters.get_by_path(
        path, recursive=False, with_decryption=True, max_results=10, next_token=None
    )
    assert f"{path}/deeper/one" not in [parameter.name for parameter in level.parameters]
    assert SECRET in [parameter.value for parameter in level.parameters]


async def test_listings_tell_names_and_types_and_never_values(aws: AwsService, path: str) -> None:
    names: dict[str, str] = {}
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await aws.parameters.list(cursor, 3)
        assert not {SECRET, CIPHERTEXT, "value"} & set(page.model_dump_json().split('"'))
        names |= {parameter.name: parameter.type for parameter in page.parameters}
        cursor, pages = page.next_cursor, pages + 1
    described = await aws.parameters.describe(f"{path}/secret", None, 10)

    assert (names[f"{path}/secret"], names[f"{path}/plain"]) == ("SecureString", "String")
    assert pages > 1
    assert [version.version for version in described.versions] == [1]
    assert SECRET not in described.model_dump_json()
    assert CIPHERTEXT not in described.model_dump_json()


async def test_the_versions_of_a_parameter_are_paged(aws: AwsService, behind: AwsBehindTheGateway, path: str) -> None:
    for value in ("2", "3"):
        await behind.ssm.put_parameter(Name=f"{path}/plain", Type="String", Value=value, Overwrite=True)

    first = await aws.parameters.describe(f"{path}/plain", None, 2)
    second = await aws.parameters.describe(f"{path}/plain", first.next_cursor, 2)

    assert [version.version for version in (*first.versions, *second.versions)] == [1, 2, 3]
    assert second.next_cursor is None


async def test_a_missing_parameter_is_named(aws: AwsService) -> None:
    for call in [aws.parameters.get("/no/such"), aws.parameters.describe("/no/such", None, 5)]:
        with pytest.raises(NotFound, match="'/no/such'"):
            await call


async def test_only_parameters_under_listed_paths_may_be_read(aws_connection: Connection, path: str) -> None:
    parameters = Parameters(aws_connection, settings_for_aws(None, allowed_parameter_paths=[f"{path}/deeper/"]))

    assert (await parameters.get(f"{path}/deeper/one")).value == "y"
    assert [found.name for found in await _all(parameters)] == [f"{path}/deeper/one"]
    for refused in [
        f"{path}/plain",
        f"{path}/deeper-than",
        path,
        "/",
        f"arn:aws:ssm:us-east-1:999999999999:parameter{path}/deeper/one",
    ]:
        with pytest.raises(Forbidden, match="AWS_ALLOWED_PARAMETER_PATHS"):
            await parameters.get(refused)
    for refused in ["/", path, f"{path}/dee"]:
        with pytest.raises(Forbidden, match="AWS_ALLOWED_PARAMETER_PATHS"):
            await parameters.get_by_path(
                refused, recursive=True, with_decryption=False, max_results=10, next_token=None
            )


async def _all(parameters: Parameters) -> list[ParameterSummary]:
    found: list[ParameterSummary] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await parameters.list(cursor, 50)
        found += page.parameters
        cursor, pages = page.next_cursor, pages + 1
    return found


async def test_no_secret_reaches_the_log_or_an_error(
    aws: AwsService, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    await aws.parameters.get(f"{path}/secret")
    await aws.parameters.get(f"{path}/secret", with_decryption=True)
    await aws.functions.invoke("process-customer-feedback", {"feedback": SECRET})
    with pytest.raises(GatewayError) as failure:
        await aws.parameters.get(f"{path}/secret:77")

    assert SECRET not in failure.value.detail
    assert SECRET not in caplog.text
    assert CIPHERTEXT not in caplog.text
    assert "local-secret" not in caplog.text
