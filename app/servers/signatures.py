"""What the signature of a declared method says."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from app.guard.principal import Principal
from app.results import RawResult, Result
from app.servers.calls import CallContext


@dataclass(frozen=True)
class Signature:
    """The parameters of a method, and what it returns."""

    fields: dict[str, Any]
    """What callers give: types and defaults by name, as `create_model` takes them."""
    context_parameter: str | None
    principal_parameter: str | None
    """The parameters that the gateway fills, if the method has such parameters: `CallContext`, or `Principal` alone."""
    result: type[BaseModel]

    @classmethod
    def of(cls, method: Callable[..., Any]) -> Self:
        """Read it off a method.

        Raises:
            TypeError: a parameter has no type, or the method returns no `Result`.
        """
        name = method.__name__
        hints = get_type_hints(method, include_extras=True)
        filled: dict[Any, str] = {}
        fields: dict[str, Any] = {}
        _, *parameters = inspect.signature(method).parameters.values()
        for parameter in parameters:
            if parameter.name not in hints:
                raise TypeError(f"{name}: parameter {parameter.name!r} has no type")
            kind = hints[parameter.name]
            if kind is CallContext or kind is Principal:
                filled[kind] = parameter.name
            else:
                fields[parameter.name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
        return cls(fields, filled.get(CallContext), filled.get(Principal), _result_model(name, hints.get("return")))

    @property
    def tells_who_calls(self) -> bool:
        """Whether the method is told."""
        return self.context_parameter is not None or self.principal_parameter is not None


def _result_model(name: str, annotation: Any) -> type[BaseModel]:
    """Return the result model of a method: `Model` itself or the one in `RawResult[Model]`."""
    model = get_args(annotation)[0] if get_origin(annotation) is RawResult else annotation
    if not (isinstance(model, type) and issubclass(model, Result)):
        raise TypeError(f"{name}: the return type must be a Result model or RawResult of one, not {annotation!r}")
    return model


def title_of(name: str) -> str:
    """Return a name as people read it."""
    return name.replace("_", " ").capitalize()
