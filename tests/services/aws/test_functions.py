"""Lambda: functions really run, and their failures are results."""

import asyncio
import json

import pytest
from pydantic import JsonValue

from app.errors import Forbidden, InvalidArguments, NotFound
from app.services.aws.clients import Connection
from app.services.aws.demo.seeding import DEMO_FUNCTION
from app.services.aws.functions import Functions
from app.services.aws.service import AwsService, open_aws
from tests.fixtures.aws import AwsBehindTheGateway, deploy, http_answer, scripted_aws, settings_for_aws


async def test_the_demo_function_scores_feedback(aws: AwsService) -> None:
    for feedback, sentiment in [
        ("The agent was kind and solved it quickly, thank you!", "positive"),
        ("Not good: slow, rude and the invoice was wrong.", "negative"),
        ("The parcel arrived on Monday.", "neutral"),
    ]:
        answer = await aws.functions.invoke(DEMO_FUNCTION, {"feedback": feedback, "customer_id": "12345"})

        assert isinstance(answer.payload, dict)
        assert set(answer.payload) == {"sentiment", "score", "customer_id"}
        assert (answer.payload["sentiment"], answer.payload["customer_id"]) == (sentiment, "12345")
        assert (answer.status_code, answer.function_error, answer.payload_encoding) == (200, None, "json")
        assert answer.executed_version == "$LATEST"


async def test_a_handler_that_fails_is_a_result(aws: AwsService) -> None:
    answer = await aws.functions.invoke(DEMO_FUNCTION, {"feedback": ""})

    assert answer.status_code == 200
    assert answer.function_error == "Unhandled"
    assert isinstance(answer.payload, dict)
    assert "feedback must be a text" in str(answer.payload["errorMessage"])


async def test_the_log_tail_is_decoded(aws: AwsService) -> None:
    answer = await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "great", "customer_id": "12345"}, log_type="Tail")

    assert answer.log_result is not None
    assert "customer 12345: positive" in answer.log_result
    assert (await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "great"})).log_result is None
    with pytest.raises(InvalidArguments, match="log_type"):
        await aws.functions.invoke(DEMO_FUNCTION, {}, invocation_type="Event", log_type="Tail")


async def test_an_event_is_taken_and_a_dry_run_runs_nothing(aws: AwsService) -> None:
    event = await aws.functions.invoke(DEMO_FUNCTION, {"feedback": "good"}, invocation_type="Event")
    dry = await aws.functions.invoke(DEMO_FUNCTION, {}, invocation_type="DryRun")

    assert (event.status_code, event.payload, event.payload_encoding) == (202, None, None)
    assert (dry.status_code, dry.payload) == (204, None)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ü"]}, [1, 2], 7, True, None], ids=repr)
async def test_any_json_comes_back(aws: AwsService, behind: AwsBehindTheGateway, value: JsonValue, bucket: str) -> None:
    # ministack runs functions on objects only; what they return may be anything.
    await deploy(behind, bucket, "def handler(event, context):\n    return event['value']\n")

    answer = await aws.functions.invoke(bucket, {"value": value})

    assert answer.payload == value
    assert answer.payload_encoding == "json"


async def test_a_payload_that_is_no_json_is_kept_as_text(
    aws: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    # ministack passes a text on as it is, as a custom runtime may.
    await deploy(behind, bucket, "def handler(event, context):\n    return 'plain words'\n")

    answer = await aws.functions.invoke(bucket, {})

    assert (answer.payload, answer.payload_encoding) == ("plain words", "text")


@pytest.mark.parametrize(
    "answer",
    ['{"n":1e999}', '{"n":0.1234567890123456789012}', '{"n":1,"n":2}', "[NaN]", "[" * 101 + "]" * 101, "[" * 5000],
    ids=lambda text: text[:20],
)
async def test_an_answer_that_would_lose_by_decoding_comes_as_text(answer: str) -> None:
    async with scripted_aws(lambda _, __: http_answer("200 OK", answer)) as (settings, _), open_aws(settings) as aws:
        invoked = await aws.functions.invoke("name", {})
    assert (invoked.payload, invoked.payload_encoding) == (answer, "text")


@pytest.mark.parametrize("answer", ["1", "1.5", '{"n":12345678901234567890123}', "[" * 100 + "]" * 100, '"\\u00e4"'])
async def test_an_answer_that_loses_nothing_is_decoded(answer: str) -> None:
    async with scripted_aws(lambda _, __: http_answer("200 OK", answer)) as (settings, _), open_aws(settings) as aws:
        invoked = await aws.functions.invoke("name", {})
    assert (invoked.payload, invoked.payload_encoding) == (json.loads(answer), "json")


async def test_what_is_no_json_is_refused(aws: AwsService) -> None:
    with pytest.raises(InvalidArguments, match="payload"):
        await aws.functions.invoke(DEMO_FUNCTION, {"score": float("nan")})


async def test_what_is_missing_is_named(aws: AwsService) -> None:
    with pytest.raises(NotFound, match="'no-such-function'"):
        await aws.functions.invoke("no-such-function", {})
    with pytest.raises(NotFound, match=r"'process-customer-feedback' with the qualifier '77'"):
        await aws.functions.invoke(DEMO_FUNCTION, {}, qualifier="77")
    with pytest.raises(NotFound, match="'no-such-function'"):
        await aws.functions.describe("no-such-function", None, 10)
    with pytest.raises(InvalidArguments, match="qualifier"):
        await aws.functions.invoke(f"{DEMO_FUNCTION}:1", {}, qualifier="2")


async def test_a_version_is_invoked_and_listed(aws: AwsService, behind: AwsBehindTheGateway, bucket: str) -> None:
    await deploy(behind, bucket, "def handler(event, context):\n    return context.function_version\n")
    for _ in range(2):
        async with asyncio.timeout(10):
            await behind.functions.publish_version(FunctionName=bucket)

    by_qualifier = await aws.functions.invoke(bucket, {}, qualifier="1")
    by_name = await aws.functions.invoke(f"{bucket}:1", {})

    assert (by_qualifier.executed_version, by_name.executed_version) == ("1", "1")
    described = await aws.functions.describe(bucket, None, 50)
    assert {version.version for version in described.versions} >= {"$LATEST", "1"}
    assert described.function.runtime == "python3.12"
    assert "hunter2" not in described.model_dump_json()


async def test_functions_are_listed_page_by_page_without_their_environment(
    aws: AwsService, behind: AwsBehindTheGateway, bucket: str
) -> None:
    await deploy(behind, bucket, "def handler(event, context):\n    return 1\n")

    names: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page = await aws.functions.list(cursor, 1)
        assert len(page.functions) <= 1
        assert "hunter2" not in page.model_dump_json()
        names += [function.function_name for function in page.functions]
        cursor, pages = page.next_cursor, pages + 1

    assert {DEMO_FUNCTION, bucket} <= set(names)
    assert len(names) == len(set(names))


async def test_only_listed_functions_may_be_invoked(aws_connection: Connection) -> None:
    functions = Functions(aws_connection, settings_for_aws(None, allowed_functions=[DEMO_FUNCTION]))

    assert (await functions.invoke(DEMO_FUNCTION, {"feedback": "good"})).function_error is None
    assert [found.function_name for found in (await functions.list(None, 50)).functions] == [DEMO_FUNCTION]
    for refused in [
        "other",
        f"{DEMO_FUNCTION}-2",
        f"arn:aws:lambda:us-east-1:999999999999:function:{DEMO_FUNCTION}",
        f"999999999999:function:{DEMO_FUNCTION}",
    ]:
        for call in [functions.invoke(refused, {}), functions.describe(refused, None, 5)]:
            with pytest.raises(Forbidden, match="AWS_ALLOWED_FUNCTIONS"):
                await call
