"""Messages of callers that are bound to one customer."""

from collections.abc import Mapping

from app.errors import ArgumentRefused

CUSTOMER_HEADER = "switchboard-customer"
"""Says to whom the session was bound that has sent a message."""


def key_of(customer: str, given: str | None) -> str:
    """Return the key of a customer's messages: the customer's id if a rule of the policy has set it to that."""
    return customer if given == customer else f"customer-{customer}"


def refuse_pretence(headers: Mapping[str, str] | None, partition: int | None) -> None:
    """Refuse what would let a bound caller's message pass for another customer's.

    Raises:
        ArgumentRefused: there is such a thing.
    """
    for name in headers or ():
        if not name.isascii():
            raise ArgumentRefused("headers: names are of ASCII letters here, so that none looks like another one.")
        if _CUSTOMER in _letters(name):
            raise ArgumentRefused(
                f"headers: {CUSTOMER_HEADER} is written by the gateway, for the customer of this session."
            )
    if partition is not None:
        raise ArgumentRefused("partition: the messages of this session go where its customer's key leads.")


def _letters(name: str) -> str:
    """Return the letters of a header's name, those that look alike as one.

    Some readers don't tell capitals or hyphens apart, end a name at NUL, or take the first of two headers.
    """
    letters = "".join(filter(str.isalnum, name.casefold().translate(_ALIKE)))
    return letters.replace("rn", "m").replace("vv", "w")


_ALIKE = str.maketrans("013457l|!@$", "oieastiiias")
_CUSTOMER = _letters(CUSTOMER_HEADER)
