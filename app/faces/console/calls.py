"""One call: what is known of it while it runs and afterwards, and how it is interrupted."""

import logging
import time
from collections.abc import Iterator

from starlette.types import Receive, Scope, Send

from app.errors import Interrupted, NotFound
from app.faces.console.door import Viewer, send_json, send_nothing
from app.faces.console.sight import Sights
from app.gateway import Gateway
from app.logs import events_of
from app.telemetry.activity import Activity, PastCall, RunningCall

_log = logging.getLogger("MCP")


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
        """Answer with a call, its stages where they were taken down, and what the log has of its request."""
        call = self._found(scope["path_params"]["id"], viewer)
        if isinstance(call, RunningCall):
            can_cancel = viewer.may_act and call.call in self._gateway.late
            shown = {**call.shown(can_cancel=can_cancel), "running": True}
            stages = list(self._stages(call.call.at, running=True))
        else:
            shown = {**call.shown(), "running": False}
            stages = list(self._stages(call.call.at, running=False))
        events = events_of(str(shown["request_id"]))
        if not self._sights.of(viewer.principal).everything:
            # What else its request has done may be what this viewer does not see.
            own = "server={server} operation={operation} face={face} principal={principal} ".format_map(shown)
            events = [event for event in events if own in event]
        await send_json(scope, send, {**shown, "stages": stages, "log": events})

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
            call = running.call
            if running.id == call_id and sight.sees(call.server, call.operation, call.context.principal):
                return running
        past = self._activity.past(call_id)
        if past is None or not sight.sees(past.server, past.operation, past.principal):
            raise NotFound("There is no such call, or it is forgotten: the newest calls are remembered.")
        return past

    def _stages(self, at: float, *, running: bool) -> Iterator[dict[str, object]]:
        """Iterate over the stages of a call that were taken down; the last one of a call that runs is not over."""
        known = self._gateway.stages.of(at)
        for name, seconds in known:
            if seconds is not None:
                yield {"name": name, "ms": round(seconds * 1e3, 3)}
        if known and running:
            waiting = [name.replace("waited", "waits", 1) for name, seconds in known if seconds is None]
            rest = time.perf_counter() - at - sum(seconds or 0.0 for _, seconds in known)
            yield {"name": waiting[-1] if waiting else "runs", "ms": round(rest * 1e3, 3), "over": False}
