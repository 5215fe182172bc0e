"""SSM: parameters are read, secret ones masked unless the caller asks for them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from app.results import Result
from app.services.aws.clients import Connection
from app.services.aws.failures import aws_failures, naming_others
from app.services.aws.names import ParameterAllowlist
from app.services.aws.settings import AwsSettings

if TYPE_CHECKING:
    from types_aiobotocore_ssm.type_defs import ParameterHistoryTypeDef, ParameterMetadataTypeDef, ParameterTypeDef

MASK = "********"
"""Stands for a SecureString that was not decrypted; not even its ciphertext is passed on."""


class Parameter(BaseModel):
    """A parameter and its value."""

    name: str
    type: str = Field(description="StringList is comma-separated.")
    value: str = Field(description=f"{MASK} for a SecureString that was not decrypted.")
    masked: bool = Field(description="Ask again with_decryption.")
    version: int
    last_modified: datetime
    data_type: str
    arn: str


class ParameterValue(Parameter, Result):
    """A parameter and its value, as a tool's result."""


class ParametersByPath(Result):
    """One page of the parameters under a path."""

    path: str
    parameters: list[Parameter]
    next_token: str | None = Field(description="Null on the last page; a page may be empty.")


class ParameterSummary(BaseModel):
    """One parameter of a listing, without its value."""

    name: str
    type: str
    version: int
    description: str
    last_modified: datetime | None
    uri: str = Field(description="The resource that describes the parameter.")


class ParameterList(Result):
    """One page of the parameters that the gateway may read: names and types, no values."""

    parameters: list[ParameterSummary]
    next_cursor: str | None


class ParameterVersions(Result):
    """One parameter, with a page of its versions and no values."""

    name: str
    versions: list[ParameterSummary]
    next_cursor: str | None


class Parameters:
    """The parameters that the gateway may read."""

    def __init__(self, connection: Connection, settings: AwsSettings) -> None:
        self._connection = connection
        self._allowed = ParameterAllowlist(settings.allowed_parameter_paths)

    async def get(self, name: str, *, with_decryption: bool = False) -> ParameterValue:
        """Return a parameter.

        Raises:
            NotFound: it, or the version or label in its name, does not exist.
        """
        self._allowed.check(name)
        clients = await self._connection.clients()
        async with naming_others(name, self._names):
            with aws_failures(_action("ssm:GetParameter", with_decryption), missing=_no_parameter(name)):
                answer = await clients.parameters.get_parameter(Name=name, WithDecryption=with_decryption)
                return ParameterValue(**_read(answer["Parameter"], with_decryption))

    async def get_by_path(
        self, path: str, *, recursive: bool, with_decryption: bool, max_results: int, next_token: str | None
    ) -> ParametersByPath:
        """Return a page of the parameters under a path.

        Args:
            recursive: those below further levels too.
            max_results: 1 to 10, which is AWS's limit.
        """
        self._allowed.check(path)
        clients = await self._connection.clients()
        with aws_failures(_action("ssm:GetParametersByPath", with_decryption)):
            page = await clients.parameters.get_parameters_by_path(
                Path=path,
                Recursive=recursive,
                WithDecryption=with_decryption,
                MaxResults=max_results,
                **_token(next_token),
            )
            return ParametersByPath(
                path=path,
                parameters=[Parameter(**_read(found, with_decryption)) for found in page["Parameters"]],
                next_token=page.get("NextToken"),
            )

    async def list(self, cursor: str | None, limit: int) -> ParameterList:
        """Return a page of the parameters that callers may read; it may be short before the last."""
        clients = await self._connection.clients()
        with aws_failures("ssm:DescribeParameters"):
            page = await clients.parameters.describe_parameters(MaxResults=limit, **_token(cursor))
            found = [_summary(parameter) for parameter in page["Parameters"]]
        shown = [parameter for parameter in found if self._allowed.shows(parameter.name)]
        return ParameterList(parameters=shown, next_cursor=page.get("NextToken"))

    async def _names(self) -> Iterable[str]:
        page = await self.list(None, 50)
        return (parameter.name for parameter in page.parameters)

    async def describe(self, name: str, cursor: str | None, limit: int) -> ParameterVersions:
        """Return a page of a parameter's versions.

        Raises:
            NotFound: it does not exist.
        """
        self._allowed.check(name)
        clients = await self._connection.clients()
        async with naming_others(name, self._names):
            with aws_failures("ssm:GetParameterHistory", missing=_no_parameter(name)):
                page = await clients.parameters.get_parameter_history(
                    Name=name, WithDecryption=False, MaxResults=limit, **_token(cursor)
                )
                versions = [_summary(version) for version in page["Parameters"]]
        return ParameterVersions(name=name, versions=versions, next_cursor=page.get("NextToken"))


def _read(parameter: "ParameterTypeDef", decrypted: bool) -> dict[str, Any]:
    kind = parameter.get("Type", "String")
    masked = kind == "SecureString" and not decrypted
    return {
        "name": parameter.get("Name", ""),
        "type": kind,
        "value": MASK if masked else parameter.get("Value", ""),
        "masked": masked,
        "version": parameter.get("Version", 0),
        "last_modified": _time(parameter.get("LastModifiedDate")) or datetime.fromtimestamp(0, UTC),
        "data_type": parameter.get("DataType", "text"),
        "arn": parameter.get("ARN", ""),
    }


def _summary(parameter: "ParameterMetadataTypeDef | ParameterHistoryTypeDef") -> ParameterSummary:
    name = parameter.get("Name", "")
    return ParameterSummary(
        name=name,
        type=parameter.get("Type", "String"),
        version=parameter.get("Version", 0),
        description=parameter.get("Description", ""),
        last_modified=_time(parameter.get("LastModifiedDate")),
        uri=f"aws://ssm/parameters/{quote(name, safe='')}",
    )


def _time(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value else None


def _action(action: str, with_decryption: bool) -> str:
    return f"{action} (or kms:Decrypt)" if with_decryption else action


def _token(token: str | None) -> dict[str, Any]:
    return {"NextToken": token} if token else {}


def _no_parameter(name: str) -> str:
    return f"There is no parameter {name!r}."
