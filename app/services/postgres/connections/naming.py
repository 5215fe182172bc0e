"""What PostgreSQL is told of the call that it works for, where that is traced: pg_stat_activity and its log show it."""

from app.stages import current_traceparent


def application_name() -> str | None:
    """Return the assignment of `application_name` that names the trace of the running call; None if there is none.

    A traceparent and more would not fit the 63 bytes that PostgreSQL keeps. Its characters need no quoting.
    """
    traceparent = current_traceparent()
    return None if traceparent is None else f"application_name = 'switchboard {traceparent.split('-')[1]}'"
