"""The A2A face: agents as any client of the Agent2Agent protocol (version 1) meets them.

Each agent has its card at `/.well-known/agent-card.json` and JSON-RPC at its own address: sending, streaming,
tasks and their cancellation. A request is a task: its steps are status updates, its answer is an artifact.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers import (
    get_artifact_text,
    get_data_parts,
    get_message_text,
    new_data_part,
    new_message,
    new_task_from_user_message,
    new_text_part,
)
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import ParseError
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from agents.base import A2AAgent, AgentReply, AgentRequest, Report, Step
from agents.errors import CallFailed, CallTimeout, ConnectionFailed, ConnectionLost
from agents.tasks import OneTaskAMessage

_VERSION = "0.1.0"
_STREAM_GRACE = 1.0
"""Seconds that open streams get when the server stops."""
_ANSWER_SECONDS = 120.0
_UNFORESEEN = "Something went wrong in the agent. Its operator finds the cause in its log, by the task's id."
_LARGEST_BODY = 1024 * 1024
_BODY_SECONDS = 30.0
_log = logging.getLogger(__name__)


def agent_card(agent: A2AAgent, url: str) -> AgentCard:
    """Return what an agent says of itself.

    Args:
        agent: whom to describe.
        url: where its JSON-RPC is.
    """
    return AgentCard(
        name=agent.agent_id,
        description=agent.description,
        version=_VERSION,
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain", "application/json"],
        skills=[
            AgentSkill(
                id=skill.id,
                name=skill.name,
                description=skill.description,
                tags=list(skill.tags),
                examples=list(skill.examples),
            )
            for skill in agent.skills
        ],
    )


class AgentTask(AgentExecutor):
    """Runs an agent's requests as A2A tasks."""

    def __init__(self, agent: A2AAgent) -> None:
        self._agent = agent

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        assert message is not None, "a request without a message is refused before"
        task = context.current_task
        earlier: list[str] = []
        data = _objects(message.parts)
        if task is None:
            task = new_task_from_user_message(message)
            await event_queue.enqueue_event(task)
        else:
            said_before = [
                said for said in task.history if said.role == Role.ROLE_USER and said.message_id != message.message_id
            ]
            earlier = [get_message_text(said) for said in said_before]
            data = {**_objects(part for said in said_before for part in said.parts), **data}
        updater = TaskUpdater(event_queue, task.id, task.context_id)

        async def report(step: Step) -> None:
            parts = [new_text_part(step.text), new_data_part(step.model_dump(mode="json"))]
            await updater.start_work(updater.new_agent_message(parts))

        await updater.start_work()
        request = AgentRequest(get_message_text(message), data, earlier, report)
        try:
            reply = await self._agent.handle(request)
        except CallFailed as failure:
            problem = {"success": False, "code": failure.code, "request_id": failure.request_id}
            parts = [new_text_part(failure.message), new_data_part(problem)]
            await updater.failed(updater.new_agent_message(parts))
            return
        except Exception:
            _log.exception("%s: the task %s broke off", self._agent.agent_id, task.id)
            parts = [new_text_part(_UNFORESEEN), new_data_part({"success": False, "code": "internal_error"})]
            await updater.failed(updater.new_agent_message(parts))
            return
        said = updater.new_agent_message([new_text_part(reply.text)])
        if reply.state == "input_required":
            await updater.requires_input(said)
        elif reply.state == "rejected":
            await updater.reject(said)
        else:
            answer = [new_text_part(reply.text), new_data_part(reply.data)]
            await updater.add_artifact(answer, name="answer", last_chunk=True)
            await updater.complete(said)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Mark the task as cancelled; the SDK has cancelled `execute`, and with it the calls under way."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class RemoteAgent:
    """An agent at another address, asked over A2A.

    Args:
        url: its base URL, below which its card is.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def handle(self, request: AgentRequest) -> AgentReply:
        """Ask the agent; its steps are reported as they happen.

        Raises:
            ConnectionFailed: it can't be reached.
            ConnectionLost: it broke off, or said what no agent says.
            CallTimeout: it did not come to an end in time, whatever it has sent.
            CallFailed: it failed, for the reason in the message.
        """
        parts = [new_text_part(request.text)] if request.text.strip() else []
        if request.data:
            parts.append(new_data_part(dict(request.data)))
        message = new_message(parts, role=Role.ROLE_USER)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), httpx.AsyncClient(timeout=_ANSWER_SECONDS) as http:
                task = await self._ask(http, message, request.report)
        except TimeoutError as error:
            raise CallTimeout(f"The agent at {self._url} did not answer within {_ANSWER_SECONDS:.0f} s.") from error
        return self._reply(task)

    async def _ask(self, http: httpx.AsyncClient, message: Message, report: Report) -> Task:
        try:
            client = await ClientFactory(ClientConfig(httpx_client=http)).create_from_url(self._url)
        except (A2AClientError, ValueError, RecursionError) as error:
            raise ConnectionFailed(f"No agent answers at {self._url}.") from error
        task = Task()
        try:
            async for event in client.send_message(SendMessageRequest(message=message)):
                await self._follow(event, task, report)
        except (A2AClientError, httpx.HTTPError) as error:
            raise ConnectionLost(f"The agent at {self._url} broke off.") from error
        except A2AError as error:
            raise CallFailed(f"The agent at {self._url} refuses: {error}", code="agent_refused") from error
        except (ParseError, ValueError, RecursionError) as error:
            raise ConnectionLost(f"The agent at {self._url} answered what no agent says.") from error
        return task

    async def _follow(self, event: Any, task: Task, report: Report) -> None:
        if event.HasField("task"):
            task.CopyFrom(event.task)
        elif event.HasField("artifact_update"):
            task.artifacts.append(event.artifact_update.artifact)
        elif event.HasField("status_update"):
            status = event.status_update.status
            task.status.CopyFrom(status)
            if status.state == TaskState.TASK_STATE_WORKING:
                for data in get_data_parts(status.message.parts):
                    with suppress(ValidationError):  # another kind of agent tells of its work in words of its own
                        await report(Step.model_validate(data))

    def _reply(self, task: Task) -> AgentReply:
        said = get_message_text(task.status.message)
        match task.status.state:
            case TaskState.TASK_STATE_COMPLETED:
                text = "\n".join(get_artifact_text(artifact) for artifact in task.artifacts)
                data: dict[str, Any] = {}
                for artifact in task.artifacts:
                    data.update(_objects(artifact.parts))
                return AgentReply(text, data)
            case TaskState.TASK_STATE_INPUT_REQUIRED:
                return AgentReply(said, state="input_required")
            case TaskState.TASK_STATE_REJECTED:
                return AgentReply(said, state="rejected")
            case _:
                raise CallFailed(said or f"The agent at {self._url} did not finish.", code="agent_failed")


def serve_agents(agents: Mapping[str, A2AAgent], url: str, *, allowed_hosts: Sequence[str] = ()) -> Starlette:
    """Return the ASGI application of agents, which starts and stops them.

    Args:
        agents: by the path below which each is, such as `/query`; an empty path is the root.
        url: where the application is, as its clients see it.
        allowed_hosts: further names that it answers for.
    """
    handlers: list[OneTaskAMessage] = []
    routes: list[BaseRoute] = [Route("/health", _health(agents), methods=["GET"])]
    # The root comes last: it would take what belongs to the others.
    for path, agent in sorted(agents.items(), reverse=True):
        card = agent_card(agent, f"{url}{path}/")
        handler = OneTaskAMessage(AgentTask(agent), card)
        handlers.append(handler)
        own: list[BaseRoute] = [
            *create_agent_card_routes(card),
            *create_jsonrpc_routes(handler, "/", shutdown_grace_period=_STREAM_GRACE),
        ]
        routes += [Mount(path, routes=own)] if path else own

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for agent in agents.values():
                await stack.enter_async_context(agent)
            for handler in handlers:
                stack.push_async_callback(handler.aclose)
            yield

    app = Starlette(routes=routes, lifespan=lifespan)
    hosts = {urlsplit(url).hostname or "", "127.0.0.1", "localhost", "::1", *allowed_hosts}
    app.add_middleware(_WholeBodiesOnly)
    app.add_middleware(_OwnCallersOnly, hosts=hosts)
    return app


class _OwnCallersOnly:
    """Refuses browser pages of other sites: they could reach an agent on loopback, and an agent writes."""

    def __init__(self, app: ASGIApp, *, hosts: set[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers: dict[bytes, str] = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = _host_of(f"//{headers.get(b'host', '')}"), headers.get(b"origin")
            if host not in self._hosts or (origin and _host_of(origin) not in self._hosts):
                refusal = PlainTextResponse("This agent does not answer for that Host or Origin.\n", 403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _WholeBodiesOnly:
    """Hands on bodies that are JSON, of a size that anybody needs, and that came in time.

    The SDK reads whatever comes to its end, keeps it, and tells callers how its parser failed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                more = True
                while more and len(body) <= _LARGEST_BODY:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            await _refusal(408, -32600, "The body did not come in time.")(scope, receive, send)
            return
        if len(body) > _LARGEST_BODY:
            await _refusal(413, -32600, f"The body is larger than {_LARGEST_BODY:,} bytes.")(scope, receive, send)
            return
        try:
            from_json(body)
        except ValueError:
            await _refusal(400, -32700, "The body is no JSON, or nested too deeply.")(scope, receive, send)
            return
        read = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> AsgiMessage:
            return read.pop() if read else await receive()

        await self._app(scope, replay, send)


def _refusal(status: int, code: int, message: str) -> JSONResponse:
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}, status)


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _health(agents: Mapping[str, A2AAgent]) -> Any:
    async def health(_: Request) -> JSONResponse:
        states = [await agent.health() for agent in agents.values()]
        ok = all(state.ok for state in states)
        body = {"success": ok, "agents": [state.model_dump() for state in states]}
        return JSONResponse(body, 200 if ok else 503)

    return health


def _objects(parts: Iterable[Part]) -> dict[str, Any]:
    """Return what data parts say, as one object; parts that are none are passed over."""
    data: dict[str, Any] = {}
    for part in get_data_parts(list(parts)):
        if isinstance(part, dict):
            data.update(_whole_numbers(cast("dict[str, Any]", part)))
    return data


def _whole_numbers(value: Any) -> Any:
    """Undo what A2A's data parts do to whole numbers, which travel as floating-point ones."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in cast("list[Any]", value)]
    return value
