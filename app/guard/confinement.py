"""Whoever is bound to one customer reaches nothing of another's, whatever it asks for and however it spells that.

What can't be confined is refused here, in the pipeline that all passes: so what nobody has thought of is closed. That
listings leave it out (`Catalogue`) is a courtesy.
"""

from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel

from app.errors import ArgumentRefused, NotConfined, NotFound
from app.guard.principal import Principal
from app.guard.rules import Rule
from app.servers.confining import Confinement
from app.servers.operations import Operation

_LONGEST_ID = 64
"""Characters of a customer's id, as the database has it."""
BINDING = "binding"
"""The rule that a session for one customer reaches nothing of another's, as metrics name it."""
_IDEMPOTENCY_KEY = "idempotency_key"
"""What the argument is called in each tool that has one."""


def confine(operation: Operation, customer: str, arguments: Any, *, ruled: bool) -> Any:
    """Return the arguments with which an operation keeps to one customer.

    Args:
        operation: what is to be done.
        customer: to whom its caller is bound.
        arguments: as they were parsed, a model or a dictionary of ours; the customer is written into it.
        ruled: whether rules are held against them as well, as some operations need.

    Raises:
        NotConfined: it can't be confined.
        NotFound: it is about another customer, of whom there is nothing here, whether there is such a customer or not.
        ArgumentRefused: an argument is the staff's to give.
    """
    confinement = operation.confinement
    if confinement is None or (confinement.rule_on is not None and not ruled):
        raise not_confined(operation.name)
    if not 1 <= len(customer) <= _LONGEST_ID or "\0" in customer:
        raise not_confined(operation.name)
    if confinement.argument is not None:
        _fill_in(confinement.argument, customer, arguments)
    for name in confinement.staff_only:
        _refuse_given(name, arguments)
    return arguments


def keeps_to_customer(rules: Sequence[Rule], confinement: Confinement | None) -> bool:
    """Tell whether the rules of a grant are enough for a caller that is bound to a customer."""
    if confinement is None or confinement.rule_on is None:
        return confinement is not None
    on = [rule for rule in rules if rule.argument == confinement.rule_on]
    return any(rule.names_customer for rule in on) if confinement.rule_names_customer else bool(on)


def not_confined(name: str) -> NotConfined:
    """Return the refusal of what can't be confined to one customer."""
    told = f"{name} can't be confined to one customer, and this session is for one. Use what is listed."
    return NotConfined(told).by(BINDING)


def with_own_key(arguments: Any, principal: Principal) -> Any:
    """Let an idempotency key be the principal's own. Tools that are known at run time have keys of their servers."""
    if not isinstance(arguments, BaseModel) or (key := arguments.__dict__.get(_IDEMPOTENCY_KEY)) is None:
        return arguments
    own = principal.own_key(key)
    return arguments if own == key else arguments.model_copy(update={_IDEMPOTENCY_KEY: own})


def _refuse_given(name: str, arguments: Any) -> None:
    if isinstance(arguments, BaseModel):
        given = getattr(arguments, name) != type(arguments).model_fields[name].get_default(call_default_factory=True)
    else:
        given = name in arguments
    if given:
        raise ArgumentRefused(f"{name}: only the staff may give it, and this session is a customer's. Leave it out.")


def _fill_in(name: str, customer: str, arguments: Any) -> None:
    values = cast("dict[str, Any]", arguments if isinstance(arguments, dict) else arguments.__dict__)
    if values.get(name) not in (None, customer):
        told = f"{name}: there is nothing of that customer here. This session is for one; leave {name} out."
        raise NotFound(told).by(BINDING)
    values[name] = customer
    if isinstance(arguments, BaseModel):
        arguments.model_fields_set.add(name)
