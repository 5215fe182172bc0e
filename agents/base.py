"""What every agent is: a client of the gateway, skills with handlers, a beginning and an end.

    class GreetingAgent(A2AAgent):
        kind = "greeting"
        description = "Greets customers by name."

        def __init__(self, agent_id: str, mcp_config: McpConfig) -> None:
            super().__init__(agent_id, mcp_config)
            self.add_handler(Skill("greet", "Greet", "Greets a customer.", tags=("demo",)), self.greet)

`agents.a2a` serves it to any A2A client.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, cast

from pydantic import BaseModel

from agents.client import ClientConfig, MCPClient
from agents.errors import (
    BackendUnavailable,
    CallFailed,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    GatewayFailed,
    MalformedAnswer,
    NotFound,
    TooManyRequests,
)
from agents.transports import JsonObject

McpConfig = str | Sequence[str] | Mapping[str, Any] | ClientConfig
"""As `MCPClient` takes it."""

_AGENT_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_T = TypeVar("_T")
_U = TypeVar("_U")

_HEALTH_CHECK_SECONDS = 2.0
_OUTAGES = (
    BackendUnavailable,
    CallTimeout,
    ConnectionFailed,
    ConnectionLost,
    GatewayFailed,
    MalformedAnswer,
    TooManyRequests,
)
"""Failures that say nothing against what was asked: an agent goes on without the part that is missing."""


class Step(BaseModel):
    """One thing that an agent does for an answer, as those who watch hear of it."""

    name: str
    state: Literal["started", "done", "failed"]
    text: str
    """What is being done, or what came of it."""
    data: JsonObject = {}
    seconds: float = 0.0


class Degradation(BaseModel):
    """A step that failed and without which the answer was given."""

    step: str
    code: str
    message: str


Report = Callable[[Step], Awaitable[None]]


async def no_report(step: Step) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Skill:
    """Something that an agent can do, as its agent card shows it."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentRequest:
    """What an agent is asked."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments, such as `customer_id`; `skill` names the skill that is wanted."""
    earlier: Sequence[str] = ()
    """What the same task was told before, where the agent had asked back."""
    report: Report = no_report


@dataclass(frozen=True)
class AgentReply:
    """What an agent answers."""

    text: str
    data: JsonObject = field(default_factory=dict[str, Any])
    state: Literal["completed", "input_required", "rejected"] = "completed"


Handler = Callable[[AgentRequest], Awaitable[AgentReply]]


class Answering(Protocol):
    """Whoever can be asked: an agent of this process, or a remote one."""

    async def handle(self, request: AgentRequest) -> AgentReply: ...


class AgentHealth(BaseModel):
    """How an agent is."""

    agent_id: str
    agent_type: str
    running: bool
    servers: dict[str, str]
    """Of each server that it needs: `ok`, or the code of the failure to reach it."""
    handled: int
    """Requests answered since the start."""
    failed: int
    """Requests that ended in a failure."""

    @property
    def ok(self) -> bool:
        """Whether it can do its work."""
        return self.running and all(state == "ok" for state in self.servers.values())


@dataclass
class StepOutcome:
    """Filled by the block inside `A2AAgent.step`."""

    text: str
    data: JsonObject = field(default_factory=dict[str, Any])


class A2AAgent:
    """A program that answers requests with the tools of a gateway.

    Args:
        agent_id: its name, which the gateway's log and the stored interactions repeat.
        agent_type: what kind it is, such as "query"; the class's own word may be left out, and the configuration
            stands in its place then.
        mcp_config: where the gateway or its servers are, as `MCPClient` takes it.
        client: a client to use instead of one of its own; its owner closes it.

    Raises:
        TypeError: neither a configuration nor a client is given.
    """

    kind: ClassVar[str] = "agent"
    """What `agent_type` is unless somebody says otherwise."""
    description: ClassVar[str] = ""
    servers: ClassVar[tuple[str, ...]] = ()
    """The servers that it can't work without."""

    def __init__(
        self,
        agent_id: str,
        agent_type: str | McpConfig | None = None,
        mcp_config: McpConfig | None = None,
        *,
        client: MCPClient | None = None,
    ) -> None:
        if mcp_config is None and not (isinstance(agent_type, str) and _AGENT_TYPE.fullmatch(agent_type)):
            agent_type, mcp_config = None, agent_type
        if mcp_config is None and client is None:
            raise TypeError(f"{type(self).__name__}: mcp_config is missing; give the gateway's address")
        self.agent_id = agent_id
        self.agent_type = agent_type if isinstance(agent_type, str) else self.kind
        self.mcp_config = mcp_config
        self.client = client or MCPClient(cast("McpConfig", mcp_config), name=agent_id)
        self.log = logging.getLogger(f"agents.{self.agent_type}")
        self._owns_client = client is None
        self._handlers: dict[str, tuple[Skill, Handler]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._handled = self._failed = 0

    # Beginning and end

    async def start(self) -> None:
        """Begin work. The gateway need not be up."""
        self._running = True
        self.log.info("%s started", self.agent_id)

    async def stop(self) -> None:
        """End background work and close the connections. A stopped agent stays stopped."""
        self._running = False
        await self.end_background_work()
        if self._owns_client:
            await self.client.close()
        self.log.info("%s stopped", self.agent_id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as the agent runs. If it fails, the agent is no longer healthy."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._background_work_ended)

    async def end_background_work(self) -> None:
        """Cancel what runs beside and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _background_work_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._running = False
            self.log.error("%s has stopped working", self.agent_id, exc_info=error)

    async def health(self) -> AgentHealth:
        """Return how the agent is; asks each server that it needs."""

        async def reach(server: str) -> str:
            try:
                await self.client.list_tools(server, timeout=_HEALTH_CHECK_SECONDS)
            except CallFailed as failure:
                return failure.code
            return "ok"

        states = await asyncio.gather(*(reach(server) for server in self.servers))
        return AgentHealth(
            agent_id=self.agent_id,
            agent_type=self.agent_type,
            running=self._running,
            servers=dict(zip(self.servers, states, strict=True)),
            handled=self._handled,
            failed=self._failed,
        )

    # Requests

    @property
    def skills(self) -> list[Skill]:
        """What it can do; the first is done where a request names none."""
        return [skill for skill, _ in self._handlers.values()]

    def add_handler(self, skill: Skill, handler: Handler) -> None:
        """Let a handler answer the requests for a skill.

        Raises:
            ValueError: the skill has a handler already.
        """
        if skill.id in self._handlers:
            raise ValueError(f"{self.agent_id} has a handler for {skill.id!r} already")
        self._handlers[skill.id] = (skill, handler)

    async def handle(self, request: AgentRequest) -> AgentReply:
        """Answer a request by the handler of the skill that it names, or of the first one.

        Raises:
            CallFailed: the gateway refused or failed what no answer can do without.
        """
        wanted = str(request.data.get("skill") or next(iter(self._handlers), ""))
        if wanted not in self._handlers:
            return AgentReply(f"I have no skill {wanted!r}. Skills: {', '.join(self._handlers)}.", state="rejected")
        _, handler = self._handlers[wanted]
        try:
            reply = await handler(request)
        except CallFailed as failure:
            self._failed += 1
            self.log.warning("%s failed: %s (%s)", wanted, failure.message, failure.code)
            raise
        self._handled += 1
        return reply

    # Work

    async def call_mcp_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - handed to the client, whose limit spans repeats
    ) -> JsonObject:
        """Run a tool of the gateway, as `MCPClient.call_tool`."""
        return await self.client.call_tool(server, tool, arguments, timeout=timeout)

    async def publish(
        self,
        topic: str,
        message: Mapping[str, Any],
        *,
        key: str,
        idempotency_key: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> JsonObject:
        """Publish a message, and create its topic if there is none yet.

        Returns:
            Where it is stored: `topic`, `partition`, `offset`.
        """
        arguments = {"topic": topic, "message": message, "key": key, "idempotency_key": idempotency_key}
        try:
            return await self.call_mcp_tool("kafka", "publish_message", arguments, timeout=timeout)
        except NotFound:
            await self.create_topic(topic)
            return await self.call_mcp_tool("kafka", "publish_message", arguments, timeout=timeout)

    async def create_topic(self, topic: str) -> None:
        """Create a topic unless it exists."""
        await self.call_mcp_tool("kafka", "create_topic", {"topic": topic, "if_not_exists": True})

    @asynccontextmanager
    async def step(self, report: Report, name: str, text: str) -> AsyncGenerator[StepOutcome]:
        """Report the beginning of a step and, with its time, its end."""
        await report(Step(name=name, state="started", text=text))
        started = time.perf_counter()
        outcome = StepOutcome(text)
        try:
            yield outcome
        except CallFailed as failure:
            seconds = time.perf_counter() - started
            data = {"code": failure.code}
            await report(Step(name=name, state="failed", text=failure.message, data=data, seconds=seconds))
            raise
        seconds = time.perf_counter() - started
        await report(Step(name=name, state="done", text=outcome.text, data=outcome.data, seconds=seconds))


async def side_by_side(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _U]) -> tuple[_T, _U]:
    """Run two things at the same time; if one fails, the other is stopped before the failure goes on."""
    tasks = asyncio.create_task(first), asyncio.create_task(second)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def unless_down(work: Awaitable[_T], step: str, degraded: list[Degradation]) -> _T | None:
    """Return what a step gives, or None if it failed by an outage, which is then noted.

    Raises:
        CallFailed: what was asked is refused; an answer without it would be a wrong one.
    """
    try:
        return await work
    except _OUTAGES as failure:
        degraded.append(Degradation(step=step, code=failure.code, message=failure.message))
        return None
