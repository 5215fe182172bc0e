"""What stands in an address, as the arguments of a method."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from app.errors import InvalidArguments, failures_of


def parse_variables(arguments: type[BaseModel], given: Mapping[str, str]) -> dict[str, Any]:
    """Check variables, which are texts, against the parameters that take them.

    Raises:
        InvalidArguments: each refused variable is named.
    """
    try:
        return dict(arguments.model_validate_strings(dict(given)).__dict__)
    except ValidationError as error:
        raise InvalidArguments.from_validation(failures_of(error)) from None


def change_variables(
    arguments: type[BaseModel], parsed: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return checked variables with others in place of some, checked again.

    Raises:
        InvalidArguments: as for `parse_variables`.
    """
    try:
        return dict(arguments.model_validate({**parsed, **changes}).__dict__)
    except ValidationError as error:
        raise InvalidArguments.from_validation(failures_of(error)) from None
