"""One call: what is known of it while it runs and afterwards, and how it is interrupted."""

import logging
import re
from typing import Any

from starlette.types import Receive, Scope, Send

from app.errors import Interrupted, NotFound
from app.faces.console.door import Viewer, send_json, send_nothing
from app.faces.console.sight import Sights
from app.gateway import Gateway
from app.logs import events_of
from app.telemetry.activity import Activity, PastCall, RunningCall

_log = logging.getLogger("MCP")
_STAGE = re.compile(r"operation=(?P<operation>\S+) stage='(?P<name>[^']*)' ms=(?P<ms>[0-9.]+)")


class Calls:
    """Shows calls, and interrupts them.

    Args:
        gateway: whose calls they are.
        activity: keeps account of them.
        sights: what each viewer sees.
    """

    def __init__(self, gateway: Gateway, activity: Activity, sights: Sights) -> None:
        self._gateway = gateway
        self._activity = activity
        self._sights = sights

    async def show(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Answer with a call, its stages as far as the log tells them, and what the log has of its request."""
        call = self._found(scope["path_params"]["id"], viewer)
        if isinstance(call, RunningCall):
            can_cancel = viewer.may_act and call.call in self._gateway.late
            shown = {**call.shown(can_cancel=can_cancel), "running": True}
        else:
            shown = {**call.shown(), "running": False}
        events = events_of(str(shown["request_id"]))
        if not self._sights.of(viewer.principal).everything:
            # What else its request has done may be what this viewer does not see.
            own = f"server={shown['server']} operation={shown['operation']} face="
            events = [event for event in events if own in event]
        await send_json(scope, send, {**shown, "stages": _stages(events, shown), "log": events})

    async def cancel(self, scope: Scope, receive: Receive, send: Send, viewer: Viewer) -> None:
        """Interrupt a call that runs, and write down who did."""
        call = self._found(scope["path_params"]["id"], viewer)
        admission = self._gateway.late.get(call.call) if isinstance(call, RunningCall) else None
        if admission is None or not isinstance(call, RunningCall):
            raise NotFound("This call has ended, or has only just begun. Look again.")
        started = call.call
        _log.warning(
            "interrupted: server=%s operation=%s principal=%s call=%s by=%s address=%s request_id=%s",
            started.server,
            started.operation,
            started.context.principal.id,
            started.context.request_id,
            viewer.principal.id,
            scope["state"]["address"],
            scope["state"]["request_id"],
        )
        admission.interrupt(Interrupted())
        await send_nothing(scope, send)

    def _found(self, call_id: str, viewer: Viewer) -> PastCall | RunningCall:
        """Return a call.

        Raises:
            NotFound: there is none of that id that the viewer sees.
        """
        sight = self._sights.of(viewer.principal)
        for running in self._activity.running(older_than=0.0):
            if running.id == call_id and sight.sees(running.call.server, running.call.operation):
                return running
        past = self._activity.past(call_id)
        if past is None or not sight.sees(past.server, past.operation):
            raise NotFound("There is no such call, or it is forgotten: the newest calls are remembered.")
        return past


def _stages(events: list[str], shown: dict[str, Any]) -> list[dict[str, object]]:
    """Return the stages that the log tells of a call, which it does where its server's level is DEBUG."""
    found = [stage for event in events if (stage := _STAGE.search(event))]
    own = [stage for stage in found if stage["operation"] == shown["operation"]]
    return [{"name": stage["name"], "ms": float(stage["ms"])} for stage in own]
