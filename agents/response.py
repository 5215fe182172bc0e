"""The response agent: hands finished answers on, once each, and keeps them on record."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.base import A2AAgent, AgentReply, AgentRequest, McpConfig, Skill
from agents.client import MCPClient
from agents.errors import AckExpired, CallFailed, Conflict, InvalidArguments, NotFound
from agents.transports import JsonObject

AGENT_RESPONSES = "agent-responses"
RESPONSE_PROCESSORS = "response-processors"
"""The consumer group: any number of response agents share the work."""

_LONGEST_PAUSE = 30.0
"""Seconds between attempts while the gateway or a backend is down; begins at 1 and doubles."""


class AgentResponse(BaseModel):
    """A message of `agent-responses`: an answer that a customer is to get."""

    model_config = ConfigDict(extra="ignore")

    customer_id: str = Field(min_length=1)
    response: str = Field(min_length=1)
    query_id: str | None = None
    agent_id: str | None = None
    interaction_id: int | None = None
    """The interaction that holds it already; one is stored if there is none."""


class Delivered(BaseModel):
    """A response that was handed on."""

    partition: int
    offset: int
    customer_id: str
    interaction_id: int


class Rejected(BaseModel):
    """A message that can never be handed on."""

    partition: int
    offset: int
    reason: str


class ProcessedResponses(BaseModel):
    """What one round of work did."""

    success: bool = True
    delivered: list[Delivered] = []
    rejected: list[Rejected] = []


class DeliveryFailed(Exception):
    """An answer could not be brought to its customer now; the message says why."""


Deliver = Callable[[AgentResponse], Awaitable[None]]


class ResponseAgent(A2AAgent):
    """Consumes `agent-responses` in the group `response-processors`.

    Each message is acknowledged after it was dealt with, so that none is lost. One that comes again after a
    crash is stored once nevertheless, and delivered again.

    Args:
        deliver: brings an answer to its customer, by mail or chat; it may be called again for the same answer.
            It raises `DeliveryFailed` for the answer to come again. Left out, answers are only kept on record.
        topic: where the answers come from.
        group_id: the consumer group.
        lease_ms: how long a round of work may take before its messages go to another agent.
    """

    kind = "response"
    description: ClassVar[str] = "Hands finished answers on to customers and keeps them on record."
    servers: ClassVar[tuple[str, ...]] = ("database", "kafka")

    def __init__(
        self,
        agent_id: str,
        agent_type: str | McpConfig | None = None,
        mcp_config: McpConfig | None = None,
        *,
        deliver: Deliver | None = None,
        topic: str = AGENT_RESPONSES,
        group_id: str = RESPONSE_PROCESSORS,
        lease_ms: int = 60_000,
        client: MCPClient | None = None,
    ) -> None:
        super().__init__(agent_id, agent_type, mcp_config, client=client)
        self._deliver = deliver
        self._topic = topic
        self._group_id = group_id
        self._lease_ms = lease_ms
        self._ack: str | None = None
        self._one_at_a_time = asyncio.Lock()
        self.add_handler(
            Skill(
                "process_responses",
                "Process responses",
                "Hands on the answers that wait in agent-responses, and tells what became of each.",
                tags=("support", "kafka"),
                examples=("Process what is waiting.",),
            ),
            self._process_responses,
        )

    async def start(self) -> None:
        """Begin to consume."""
        await super().start()
        self.run_beside(self._run())

    async def stop(self) -> None:
        """Acknowledge what was dealt with, and end."""
        await self.end_background_work()
        async with self._one_at_a_time:
            if self._ack is not None:
                try:
                    await self._consume(max_messages=0, timeout_ms=0)
                except CallFailed as failure:
                    self.log.warning("the last acknowledgement failed, its messages come again: %s", failure.code)
        await super().stop()

    async def process_responses(self, max_messages: int = 10, wait_ms: int = 1000) -> ProcessedResponses:
        """Deal with what waits, in order; acknowledge what the round before has dealt with.

        Args:
            max_messages: at most so many.
            wait_ms: how long to wait for a first one.

        Raises:
            CallFailed: the gateway or a backend is down. Nothing of the round is acknowledged: it comes again.
            DeliveryFailed: likewise.
        """
        async with self._one_at_a_time:
            answer = await self._consume(max_messages=max_messages, timeout_ms=wait_ms)
            done = ProcessedResponses()
            for message in answer["messages"]:
                await self._deal_with(message, done)
            self._ack = answer.get("ack")
            return done

    async def _consume(self, *, max_messages: int, timeout_ms: int) -> JsonObject:
        arguments: JsonObject = {
            "topic": self._topic,
            "group_id": self._group_id,
            "max_messages": max_messages,
            "timeout_ms": timeout_ms,
            "lease_ms": self._lease_ms,
        }
        ack, self._ack = self._ack, None
        if ack is not None:
            try:
                return await self.call_mcp_tool("mcp_kafka", "consume_messages", {**arguments, "ack": ack})
            except AckExpired:
                self.log.warning("an acknowledgement came too late, its messages come again")
                if max_messages == 0:
                    return {"messages": []}
        try:
            return await self.call_mcp_tool("mcp_kafka", "consume_messages", arguments)
        except NotFound:
            await self.create_topic(self._topic)
            return await self.call_mcp_tool("mcp_kafka", "consume_messages", arguments)

    async def _deal_with(self, message: JsonObject, done: ProcessedResponses) -> None:
        place: dict[str, Any] = {"partition": message["partition"], "offset": message["offset"]}
        try:
            response = AgentResponse.model_validate(message["value"])
            interaction_id = response.interaction_id or await self._store(response, message)
        except ValidationError as error:
            reasons = [f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors()]
            done.rejected.append(Rejected(**place, reason="; ".join(reasons)))
        except (NotFound, InvalidArguments, Conflict) as failure:
            # It will never be otherwise: held back, the message would hold up all that come after it.
            done.rejected.append(Rejected(**place, reason=failure.message))
        else:
            if self._deliver is not None:
                await self._deliver(response)
            done.delivered.append(Delivered(**place, customer_id=response.customer_id, interaction_id=interaction_id))
            return
        self.log.warning("a response was rejected: %s", done.rejected[-1])

    async def _store(self, response: AgentResponse, message: JsonObject) -> int:
        """Keep a response on record; the message's own place makes sure that it is kept once."""
        place = f"{message['topic']}/{message['partition']}/{message['offset']}/{message['timestamp']}"
        interaction = {
            "customer_id": response.customer_id,
            "agent_response": response.response,
            "agent_id": response.agent_id or self.agent_id,
            "direction": "outbound",
            "metadata": {"query_id": response.query_id} if response.query_id else {},
            "idempotency_key": place[-200:],
        }
        saved = await self.call_mcp_tool("mcp_database", "save_interaction", interaction)
        return int(saved["interaction"]["id"])

    async def _run(self) -> None:
        pause = 1.0
        while True:
            try:
                await self.process_responses(wait_ms=5000)
                pause = 1.0
            except (CallFailed, DeliveryFailed) as failure:
                self.log.warning("consuming stopped for %.0f s: %s", pause, failure)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _process_responses(self, request: AgentRequest) -> AgentReply:
        async with self.step(request.report, "responses", "Processing what waits in agent-responses") as outcome:
            done = await self.process_responses(wait_ms=0)
            outcome.text = f"{len(done.delivered)} responses handed on, {len(done.rejected)} rejected"
        return AgentReply(outcome.text, done.model_dump(mode="json"))
