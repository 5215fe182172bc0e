"""How what a server offers is kept to one customer, for callers that are bound to one. Undeclared, it refuses them."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is declared of a tool, a resource, a route or a watch. Nothing of it means that it is for everybody."""

    argument: str | None = None
    """An argument that names a customer: it is filled in with the caller's own, which sees no such argument."""
    by_service: bool = False
    """The method is told who calls, and what it runs reaches nothing of other customers."""
    rule_on: str | None = None
    """An argument that the policy must have a rule on, or nobody who is bound may call."""
    staff_only: tuple[str, ...] = ()
    """Arguments of which who is bound can give nothing but the default, and sees none."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """The arguments that who is bound does not see."""
        return self.staff_only if self.argument is None else (self.argument, *self.staff_only)

    @property
    def rule_names_customer(self) -> bool:
        """Whether nothing but that rule confines it, so that it has to say `{customer}`."""
        return self.argument is None and not self.by_service

    @classmethod
    def declared(
        cls,
        name: str,
        *,
        confined_by: str | None,
        confined: Literal["service"] | None,
        public: bool,
        needs_rule: str | None = None,
        staff_only: Sequence[str] = (),
    ) -> Self | None:
        """Return what a declaration says; None if it says nothing.

        Raises:
            TypeError: it says two things of which one would be void.
        """
        said = [confined_by is not None, confined is not None, public]
        if sum(said) > 1 or (public and needs_rule is not None):
            raise TypeError(f"{name}: say one of confined_by=, confined=, public=; needs_rule= goes with the first two")
        if staff_only and not any(said):
            raise TypeError(f"{name}: staff_only= goes with confined_by=, confined= or public=")
        if not any(said) and needs_rule is None:
            return None
        return cls(confined_by, confined is not None, needs_rule, tuple(staff_only))


PUBLIC = Confinement()
"""Of what is the same for everybody."""


def check_confinement(
    name: str, confinement: Confinement | None, arguments: Container[str] | None, *, tells_who_calls: bool
) -> None:
    """Refuse a declaration that would confine nobody.

    Args:
        name: of what is declared.
        confinement: as declared.
        arguments: the names of its arguments; None where only a schema knows them.
        tells_who_calls: whether the method is told.

    Raises:
        TypeError: the message says what is missing.
    """
    if confinement is None:
        return
    for argument in (confinement.argument, confinement.rule_on, *confinement.staff_only):
        if argument is not None and arguments is not None and argument not in arguments:
            raise TypeError(f"{name}: it is confined by {argument!r}, and has no such argument")
    if confinement.by_service and not tells_who_calls:
        raise TypeError(f'{name}: confined="service" needs a parameter of type Principal, or how would it know?')
