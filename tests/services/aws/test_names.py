"""Names by AWS's rules, and lists that name what is allowed."""

from difflib import SequenceMatcher
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.services.aws import names
from app.services.aws.names import (
    BucketName,
    FunctionName,
    ObjectKey,
    ParameterAllowlist,
    ParameterName,
    ParameterPath,
    Qualifier,
    those_that_are,
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BucketName, "abc"),
        (BucketName, "my.bucket-1"),
        (BucketName, "b" * 63),
        (BucketName, "my-access-point-1a4n8yjrb3kda96f67zwrwiiuse1a-s3alias"),
        (ObjectKey, "k"),
        (ObjectKey, "☃" * 341),
        (FunctionName, "process-customer-feedback"),
        (FunctionName, "name_1:prod"),
        (FunctionName, "name:$LATEST"),
        (FunctionName, "123456789012:function:name"),
        (FunctionName, "arn:aws:lambda:eu-central-1:123456789012:function:name:7"),
        (FunctionName, "arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:name"),
        (Qualifier, "$LATEST"),
        (Qualifier, "7"),
        (ParameterName, "plain"),
        (ParameterName, "/a/b.c/d_e-f"),
        (ParameterName, "/a/b:3"),
        (ParameterName, "/a/b:label"),
        (ParameterName, "/" + "/".join("a" * 15)),
        (ParameterName, "arn:aws:ssm:us-east-1:123456789012:parameter/a/b"),
        (ParameterPath, "/"),
        (ParameterPath, "/a/b/"),
        (ParameterPath, "/a"),
    ],
)
def test_a_name_of_aws_is_taken(kind: object, name: str) -> None:
    assert TypeAdapter[str](kind).validate_python(name) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BucketName, "ab"),
        (BucketName, "b" * 64),
        (BucketName, "Upper"),
        (BucketName, "under_score"),
        (BucketName, "-hyphen"),
        (BucketName, "hyphen-"),
        (BucketName, "two..dots"),
        (BucketName, "192.168.1.1"),
        (BucketName, "bucket/key"),
        (BucketName, "bucket?acl"),
        (BucketName, "bucket\n"),
        (BucketName, "..."),
        (ObjectKey, ""),
        (ObjectKey, "☃" * 342),
        (ObjectKey, "\ud800"),
        (FunctionName, ""),
        (FunctionName, "n" * 65),
        (FunctionName, "name/other"),
        (FunctionName, "name:"),
        (FunctionName, "name\n"),
        (FunctionName, "arn:aws:s3:::bucket"),
        (Qualifier, "a b"),
        (Qualifier, "$OLDEST"),
        (ParameterName, ""),
        (ParameterName, "/"),
        (ParameterName, "/a//b"),
        (ParameterName, "/a/"),
        (ParameterName, "/a b"),
        (ParameterName, "/a\n"),
        (ParameterName, "/" + "/".join("a" * 16)),
        (ParameterPath, "a/b"),
        (ParameterPath, "/a/*"),
    ],
)
def test_a_name_that_breaks_the_rules_is_refused_without_being_repeated(kind: object, name: str) -> None:
    with pytest.raises(ValidationError) as failure:
        TypeAdapter[str](kind).validate_python(name)  # type: ignore[arg-type]

    if len(name) > 2:
        assert name not in str(failure.value.errors(include_input=False, include_url=False))


@pytest.mark.parametrize(
    ("entry", "name", "shown"),
    [
        ("/app", "/app", True),
        ("/app", "/app/plan", True),
        ("/app/", "/app/plan:3", True),
        ("/app", "/apple", False),
        ("/app/plan", "/app", False),
        ("plain", "plain", True),
        ("plain", "/plain", True),
        ("/app", "/other/app", False),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/app", "/app/plan", False),
        (
            "arn:aws:ssm:us-east-1:123456789012:parameter/app",
            "arn:aws:ssm:us-east-1:123456789012:parameter/app/plan",
            True,
        ),
    ],
)
def test_an_entry_covers_whole_levels(entry: str, name: str, shown: bool) -> None:
    assert ParameterAllowlist([entry]).shows(name) is shown


def test_names_are_compared_by_no_more_than_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty names of a thousand letters took half a minute, in which nobody was answered."""
    compared: list[int] = []

    def matcher(junk: Any, a: str, b: str) -> SequenceMatcher[str]:
        compared.append(max(len(a), len(b)))
        return SequenceMatcher(junk, a, b)

    monkeypatch.setattr(names, "SequenceMatcher", matcher)
    told = those_that_are([f"/app/{n}{'ab' * 500}" for n in range(50)] + ["/app/plan"], "/app/plans" + "/ab" * 600)
    assert len(compared) == 51
    assert max(compared) <= 64
    assert told.startswith(" Those that may be used: /app/")
    assert those_that_are(["/app/crm", "/app/plan"], "/app/plans") == " Those that may be used: /app/plan, /app/crm."
