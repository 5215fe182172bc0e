"""The guard: what a principal may see, do and say. The gateway asks it at the stages of its pipeline.

It knows no face and no service. A gateway without one lets everybody do everything, as tests and programs of one's own
may want it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from app.catalogue import Catalogue, Offer
from app.errors import ArgumentRefused, BackendNotConfigured, GatewayError, InsufficientScope, RateLimited
from app.guard.confinement import keeps_to_customer, not_confined
from app.guard.limits import Rate, RateLimiter
from app.guard.policy import NarrowLimit, Permit, Policy, Rights
from app.guard.principal import ANONYMOUS, DEVELOPER, Principal
from app.guard.rules import Refused, Rule
from app.guard.vocabulary import PROMPT
from app.servers.operations import Operation

_AS_IT_IS = (None, "text")
"""What an argument says that tells how another is encoded, where that is not encoded at all."""
_READ = {"in": "is one of", "prefix": "begins with", "set": "is set to"}
_DEVELOPERS = frozenset({DEVELOPER})


class Guard:
    """Holds callers to a policy.

    Args:
        policy: what roles may do, compiled against what the gateway offers.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._limiter = RateLimiter()
        self._offered: dict[tuple[Catalogue, frozenset[str], bool], Catalogue] = {}
        """What is seen of all there is, by roles and by whether the principal is bound. There are as many as gateways
        in this process, times sets of roles that somebody has made keys with."""

    def offered_to(self, principal: Principal, whole: Catalogue) -> Catalogue:
        """Return what a principal may see of all that there is: what it may use. It is the same object each time.

        Args:
            principal: who looks.
            whole: all that there is; to who is bound to a customer, all that can be confined to one.
        """
        key = (whole, self._roles(principal), principal.customer is not None)
        seen = self._offered.get(key)
        if seen is None:
            rights = self._rights(principal)

            def allowed(offer: Offer[Any]) -> Offer[Any] | None:
                permit = rights.get((offer.kind.server_id, offer.name))
                granting = () if permit is None else permit.grants
                if principal.customer is not None:
                    granting = [each for each in granting if keeps_to_customer(each.rules, offer.declared.confinement)]
                return Offer(offer.kind, offer.declared, permit) if granting else None

            with_prompts = {server for server, name in rights if name.startswith(PROMPT)}
            seen = self._offered[key] = whole.restricted(allowed, allowed, with_prompts)
        return seen

    def allows(self, principal: Principal, server: str, name: str | None) -> bool:
        """Tell whether a role allows something of a server with some arguments at least, or anything without a name."""
        rights = self._rights(principal)
        return any(of == server for of, _ in rights) if name is None else (server, name) in rights

    def allows_prompts(self, principal: Principal, server: str) -> bool:
        """Tell whether a role allows some of the prompts of a server."""
        rights = self._rights(principal)
        return any((server, name) in rights for name in self.policy.prompts(server))

    def why_not(self, principal: Principal, server: str, name: str | None) -> GatewayError:
        """Return what to tell a principal of something that exists and that it may not use.

        Args:
            principal: who wanted it.
            server: the server's id.
            name: of a tool, a resource (its template) or `prompt/<name>`; None for the server itself.
        """
        what = self.policy.scope_of(server, name)
        if name is not None and (server, name) in self.policy.misfits:
            return self.turned_off(server)[name]
        if name is not None and (denied := self._denied(principal, server, name)):
            told = f"{what} is denied to the role {denied[0]}, whatever other roles allow."
            return InsufficientScope(told).by(f"deny {what}")
        scopes = self.policy.scopes_for(server, name)
        return InsufficientScope(
            f"{what} is not allowed to this caller. It takes {' or '.join(scopes)}.", scopes=scopes
        ).by(f"allow {what}")

    def turned_off(self, server: str) -> Mapping[str, GatewayError]:
        """Return the tools of a server that nobody may call, since a rule does not fit them, each with the reason."""
        return {
            tool: BackendNotConfigured(f"{tool} is turned off, for a rule does not fit it. {reason}")
            for (of, tool), reason in self.policy.misfits.items()
            if of == server
        }

    def permit(self, server: str, operation: Operation, principal: Principal) -> Permit | None:
        """Return a principal's leave to do something; None of what obeys no rules.

        Args:
            server: the id of the operation's server.
            operation: what is wanted.
            principal: who wants it.

        Raises:
            InsufficientScope: no role allows it.
        """
        if operation.obeys is None:
            return None
        permit = self._rights(principal).get((server, operation.obeys))
        if permit is None:
            raise self.why_not(principal, server, operation.obeys)
        return permit

    def leave(self, principal: Principal, server: str, name: str) -> Permit | None:
        """Return a principal's leave to do something of a server, or of what is for operators; None if it may not."""
        return self._rights(principal).get((server, name))

    def beyond(self, principal: Principal, roles: frozenset[str], *, bound: bool) -> str | None:
        """Return something that others of some roles may do and a principal may not; None if there is nothing.

        Rules are held to be the same only where they stand in the same line: what is narrower in another way is beyond.

        Args:
            principal: who is compared.
            roles: of the others.
            bound: whether these are bound to a customer.
        """
        own = self._rights(principal)
        for key, permit in self.policy.rights(roles, bound=bound).items():
            held = own.get(key)
            if held is None:
                return permit.what
            for grant in permit.grants if held.ruled is not None else ():
                if not any(set(rules) <= set(grant.rules) for rules in held.ruled or ()):
                    return f"{permit.what} with any arguments"
        return None

    def admit(
        self, server: str, operation: Operation, principal: Principal, permit: Permit | None = None
    ) -> Permit | None:
        """Let a principal begin an operation, and return its leave. That costs a token of its limit.

        Args:
            server: as for `permit`.
            operation: as for `permit`.
            principal: as for `permit`.
            permit: its leave, where that was found with what it wants.

        Raises:
            InsufficientScope: no role allows it.
            RateLimited: the limit is used up for now.
        """
        if permit is None and (permit := self.permit(server, operation, principal)) is None:
            return None
        if (rate := permit.rate) is not None and (wait := self._limiter.take(principal.id, rate)):
            told = f"This caller may make {rate} calls. Repeat in {wait:.3g} s."
            raise RateLimited(told, retry_after=wait).by("limit")
        if permit.narrow:
            self._take_of(permit.narrow, principal, [] if rate is None else [(principal.id, rate)])
        return permit

    def _take_of(self, narrow: Sequence[NarrowLimit], principal: Principal, taken: list[tuple[object, Rate]]) -> None:
        """Take a token of each of several limits, or none of any, nor of those that were taken of before.

        Raises:
            RateLimited: one of them is used up.
        """
        for limit in narrow:
            bucket = ("all" if limit.shared else principal.id, limit.scope, limit.shared)
            if wait := self._limiter.take(bucket, limit.rate):
                for full, rate in taken:
                    self._limiter.take(full, rate, -1)
                who = "All callers together" if limit.shared else "This caller"
                told = f"{who} may make {limit.rate} calls of {limit.scope}. Repeat in {wait:.3g} s."
                raise RateLimited(told, retry_after=wait).by(f"limit {limit.scope}")
            taken.append((bucket, limit.rate))

    def judge(self, permit: Permit, operation: Operation, principal: Principal, arguments: Any) -> Any:
        """Hold parsed arguments against the rules on them; return those with which the operation is run.

        Args:
            permit: the principal's leave to do it.
            operation: what is wanted.
            principal: who wants it.
            arguments: what `Operation.parse` has made of what was given.

        Raises:
            ArgumentRefused: no role that allows the operation allows it with these.
            NotConfined: none of these roles has a rule that keeps it to the customer that the principal is bound to.
        """
        ruled, confinement = permit.ruled, operation.confinement
        if principal.customer is not None and confinement is not None and confinement.rule_on is not None:
            ruled = tuple(each.rules for each in permit.grants if keeps_to_customer(each.rules, confinement))
            if not ruled:
                raise not_confined(operation.name)
        if ruled is not None:
            arguments = self._ruled(ruled, permit.what, operation, principal, arguments)
        return arguments

    def _ruled(
        self, ruled: Sequence[Sequence[Rule]], what: str, operation: Operation, principal: Principal, arguments: Any
    ) -> Any:
        """Return arguments as the first of the roles has them whose rules they pass."""
        refusals: list[str] = []
        broken = ""
        for rules in ruled:
            try:
                changes = _changes(rules, arguments, principal)
            except Refused as error:
                refusals.append(str(error))
                broken = broken or error.argument
            else:
                return operation.with_arguments(arguments, changes) if changes else arguments
        raise ArgumentRefused("; or ".join(dict.fromkeys(refusals))).by(f"tool {what} {broken}")

    def explain(self, principal: Principal, server: str, name: str, arguments: Any = None) -> Iterator[str]:
        """Iterate over what decides whether a principal may do something: a line each, with the file's own.

        Args:
            principal: who would do it.
            server: the id of its server.
            name: what it would do, as the policy knows it (`Operation.obeys`).
            arguments: parsed ones; None leaves the rules out that hold for some of them.
        """
        roles = self._roles(principal)
        if denied := self._denied(principal, server, name):
            yield f"the role {denied[0]} denies it ({denied[1]})"
        if principal.customer is None:
            for role, place in self.policy.unbound(roles):
                yield f"the role {role} is for callers who are bound to a customer ({place})"
        for role in sorted(roles - self.policy.roles.keys()):
            yield f"there is no role {role}"
        permit = self._rights(principal).get((server, name))
        for grant in () if permit is None else permit.grants:
            yield f"the role {grant.role} allows {grant.scope} ({grant.place})"
            for rule in grant.rules:
                values = ", ".join(map(repr, rule.values))
                try:
                    if arguments is not None:
                        _changes([rule], arguments, principal)
                except Refused as error:
                    yield f"  but {error} ({rule.place})"
                else:
                    yield f"  where {rule.argument} {_READ[rule.kind]} {values} ({rule.place})"

    def _denied(self, principal: Principal, server: str, name: str) -> tuple[str, str] | None:
        bound = principal.customer is not None
        return self.policy.denied_by(self._roles(principal), server, name, bound=bound)

    def _rights(self, principal: Principal) -> Rights:
        return self.policy.rights(self._roles(principal), bound=principal.customer is not None)

    def _roles(self, principal: Principal) -> frozenset[str]:
        """Return the roles of a principal; where nobody is asked who he is, everybody develops."""
        return _DEVELOPERS if principal is ANONYMOUS and not self.policy.has_auth else principal.roles


def _changes(rules: Sequence[Rule], arguments: Any, principal: Principal) -> Mapping[str, JsonValue]:
    """Return what rules change of arguments.

    Raises:
        Refused: an argument breaks one of them.
    """
    changes: dict[str, JsonValue] = {}
    for rule in rules:
        if rule.encoding is not None and _value(arguments, rule.encoding) not in _AS_IT_IS:
            raise Refused(rule.encoding, f"must be left out here, for a rule holds for {rule.argument}")
        given = changes.get(rule.argument, _value(arguments, rule.argument))
        if (judged := rule.judge(given, principal.customer)) is not given:
            changes[rule.argument] = judged
    return changes


def _value(arguments: Any, name: str) -> JsonValue:
    """Return an argument, None if it was left out and has no default."""
    given = cast("Mapping[str, Any]", arguments if isinstance(arguments, dict) else arguments.__dict__)
    value = given.get(name)
    return value if type(value) in (str, int) else to_jsonable_python(value)
