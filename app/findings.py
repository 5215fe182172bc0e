"""What `switchboard doctor` finds: each check says in a line how things are and, if they are not well, what to do."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

from app.errors import Forbidden, GatewayError

State = Literal["ok", "off", "warning", "broken"]
"""Well; not in use; something is missing that not everybody needs; something can't work."""

_CHECKED_WITHIN = 10.0
"""Seconds that one check may take."""


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    state: State
    text: str
    """How things are and, where they are not well, the remedy. No secret."""


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: `1 bucket`, `2 buckets`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


async def checked(work: Awaitable[str], *, subject: str = "", otherwise: State = "broken") -> Finding:
    """Return what a check says if it succeeds, and else its failure, whose message says what to do.

    Args:
        work: the check; it returns how things are.
        subject: what it is about, where a failure's message does not say.
        otherwise: the state if it fails. What is forbidden is a warning: not every gateway needs every right.
    """
    prefix = f"{subject}: " if subject else ""
    try:
        async with asyncio.timeout(_CHECKED_WITHIN):
            return Finding("ok", prefix + await work)
    except Forbidden as error:
        return Finding("warning", prefix + error.detail)
    except GatewayError as error:
        return Finding(otherwise, prefix + error.detail)
    except TimeoutError:
        return Finding(otherwise, f"{prefix}no answer within {_CHECKED_WITHIN:g} s; look for overload and firewalls")
