"""What stands in an address, as the arguments of a method."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.errors import InvalidArguments, failures_of

_DIGITS = re.compile("-?[0-9]+")


def parse_variables(arguments: type[BaseModel], given: Mapping[str, str]) -> dict[str, Any]:
    """Check variables, which are texts, against the parameters that take them.

    A whole number is written in decimal digits alone: pydantic takes `5_7`, `+57` and ` 57.0` for 57, too, and what
    answers at many addresses can't be told to be one thing.

    Raises:
        InvalidArguments: each refused variable is named.
    """
    odd = [name for name, value in given.items() if _is_whole(arguments, name) and not _DIGITS.fullmatch(value)]
    if odd:
        raise InvalidArguments.at(((name,), "must be a whole number in decimal digits, such as 57") for name in odd)
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


def _is_whole(arguments: type[BaseModel], name: str) -> bool:
    """Tell whether a parameter takes whole numbers, and no text beside them."""
    field = arguments.model_fields.get(name)
    if field is None:
        return False
    kinds = {*(get_args(field.annotation) or (field.annotation,))}
    return kinds - {type(None)} == {int}
