"""The coordinator: one address for all agents. It finds the right one and passes answers on."""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal
from uuid import uuid4

from agents.base import (
    A2AAgent,
    AgentReply,
    AgentRequest,
    Answering,
    Degradation,
    McpConfig,
    Skill,
    unless_down,
)
from agents.client import MCPClient
from agents.response import AGENT_RESPONSES, AgentResponse
from agents.transports import JsonObject

Role = Literal["query", "knowledge", "response"]

_CUSTOMER = re.compile(
    r"\b(?:customer|client)(?:\s+(?:id|number|no\.?))?\s*[:#]?\s*(?P<id>[\w-]*\d[\w-]*)", re.IGNORECASE
)
_SKILLS: dict[str, Role] = {
    "process_query": "query",
    "answer_question": "knowledge",
    "process_responses": "response",
}
_PUBLISH_SECONDS = 8.0


class CoordinatorAgent(A2AAgent):
    """Routes requests between agents.

    A request that names a skill goes to the agent that has it; one that names a customer goes to the query
    agent, whose answer is then published to `agent-responses` for the response agent; any other is a question
    for the knowledge agent.

    Args:
        peers: who plays which role, in this process or elsewhere.
    """

    kind = "coordinator"
    description: ClassVar[str] = "Finds the agent that can answer, and passes answers on."
    servers: ClassVar[tuple[str, ...]] = ("kafka",)

    def __init__(
        self,
        agent_id: str,
        agent_type: str | McpConfig | None = None,
        mcp_config: McpConfig | None = None,
        *,
        peers: Mapping[Role, Answering],
        client: MCPClient | None = None,
    ) -> None:
        super().__init__(agent_id, agent_type, mcp_config, client=client)
        self._peers = dict(peers)
        self.add_handler(
            Skill(
                "route",
                "Route a request",
                "Passes a request to the agent that can answer it. Name the customer in the text or as `customer_id`, "
                "or name the `skill` that is wanted, in a data part.",
                tags=("support", "routing"),
                examples=("Customer 12345: how do I reset my password?", "How long does a refund take?"),
            ),
            self._route,
        )

    async def handle(self, request: AgentRequest) -> AgentReply:
        """Answer a request, or let the agent answer whose skill it names."""
        if request.data.get("skill") in _SKILLS:
            # Whose skill it is, is the handler's business: to the base class it would be an unknown one.
            return await super().handle(_with(request, skill="route", wanted=request.data["skill"]))
        return await super().handle(request)

    @staticmethod
    def role_for(request: AgentRequest) -> tuple[Role, JsonObject]:
        """Return who has to answer, and the arguments for them."""
        arguments = {name: value for name, value in request.data.items() if name not in ("skill", "wanted")}
        wanted = str(request.data.get("wanted", ""))
        if wanted in _SKILLS:
            return _SKILLS[wanted], arguments
        if "customer_id" not in arguments and (named := _CUSTOMER.search(request.text)):
            arguments["customer_id"] = named["id"]
        return ("query" if "customer_id" in arguments else "knowledge"), arguments

    async def _route(self, request: AgentRequest) -> AgentReply:
        role, arguments = self.role_for(request)
        peer = self._peers.get(role)
        if peer is None:
            return AgentReply(f"No {role} agent is at hand.", state="rejected")
        async with self.step(request.report, "route", "Finding the right agent") as outcome:
            outcome.text = f"The {role} agent answers"
            outcome.data = {"role": role}
        text = _CUSTOMER.sub("", request.text).strip(" :,;-") if role == "query" else request.text
        forwarded = AgentRequest(text or request.text, arguments, request.earlier, request.report)
        reply = await peer.handle(forwarded)
        if role != "query" or reply.state != "completed":
            return AgentReply(reply.text, {**reply.data, "answered_by_agent": role}, reply.state)
        degraded: list[Degradation] = []
        handed_on = await unless_down(self._hand_on(reply, request), "hand_on", degraded)
        missing = [*reply.data.get("degraded", ()), *(entry.model_dump() for entry in degraded)]
        data = {**reply.data, "answered_by_agent": role, "handed_on": handed_on, "degraded": missing}
        return AgentReply(reply.text, data)

    async def _hand_on(self, reply: AgentReply, request: AgentRequest) -> JsonObject:
        """Publish an answer for the response agent."""
        interaction_id = reply.data.get("interaction_id")
        response = AgentResponse(
            customer_id=str(reply.data["customer_id"]),
            response=reply.text,
            query_id=str(reply.data.get("query_id") or uuid4().hex),
            agent_id=self.agent_id,
            interaction_id=int(interaction_id) if interaction_id is not None else None,
        )
        async with self.step(request.report, "hand_on", f"Publishing the answer to {AGENT_RESPONSES}") as outcome:
            stored = await self.publish(
                AGENT_RESPONSES,
                response.model_dump(mode="json"),
                key=response.customer_id,
                idempotency_key=f"response-{response.query_id}",
                timeout=_PUBLISH_SECONDS,
            )
            outcome.data = {name: stored[name] for name in ("topic", "partition", "offset")}
            outcome.text = "{topic}, partition {partition}, offset {offset}".format(**outcome.data)
        return outcome.data


def _with(request: AgentRequest, **data: object) -> AgentRequest:
    return AgentRequest(request.text, {**request.data, **data}, request.earlier, request.report)
