"""The agents at work on the whole gateway: a demo database, a broker, and what is left when one is down."""

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agents.answers import NOTHING_REACHED, phrases_for
from agents.base import A2AAgent, AgentReply, AgentRequest, Degradation, Skill, Step, side_by_side, unless_down
from agents.client import MCPClient
from agents.coordinator import CoordinatorAgent
from agents.errors import BackendUnavailable, CallFailed, ConnectionFailed, NotFound, ToolNotFound
from agents.knowledge import KnowledgeAgent
from agents.query import CUSTOMER_QUERIES, QueryAgent
from agents.response import AgentResponse, Delivered, DeliveryFailed, ResponseAgent
from tests.agents.faults import FakeTime
from tests.fixtures.gateway import Served

QUESTION = "how do i reset my pasword"


class Steps:
    """Keeps what an agent reports."""

    def __init__(self) -> None:
        self.seen: list[Step] = []

    async def __call__(self, step: Step) -> None:
        self.seen.append(step)

    def ends(self) -> dict[str, str]:
        return {step.name: step.state for step in self.seen if step.state != "started"}


async def test_the_query_agent_answers_with_sources_and_keeps_it_on_record(support_gateway: Served) -> None:
    steps = Steps()
    async with QueryAgent("query-1", support_gateway.url) as agent:
        result = await agent.process_query(QUESTION, "12345", report=steps)
        assert result.degraded == []
        assert "Forgot password?" in result.answer
        assert result.answered_by == "articles"
        assert result.sources[0].slug == "reset-your-password"
        assert result.customer is not None
        assert result.answer.startswith(f"Hello {result.customer['name'].split()[0]},")

        assert result.published is not None
        consumed = await agent.call_mcp_tool(
            "mcp_kafka",
            "consume_messages",
            {
                "topic": CUSTOMER_QUERIES,
                "partition": result.published.partition,
                "start": {"offset": result.published.offset},
                "max_messages": 1,
            },
        )
        [message] = consumed["messages"]
        assert message["key"] == "12345"
        assert (message["value"]["query"], message["value"]["query_id"]) == (QUESTION, result.query_id)
        assert message["value"]["articles"][0] == "reset-your-password"

        row = await agent.client.get_resource("mcp_database", f"db://interactions/{result.interaction_id}")
        stored = row["interaction"]
        assert (stored["query_text"], stored["agent_response"]) == (QUESTION, result.answer)
        assert (stored["agent_id"], stored["direction"], stored["internal"]) == ("query-1", "inbound", False)
        assert stored["metadata"]["query_id"] == result.query_id
    assert set(steps.ends()) == {"context", "articles", "publish", "answer", "save"}
    assert set(steps.ends().values()) == {"done"}
    begun = [(step.name, step.state) for step in steps.seen[:2]]
    assert sorted(begun) == [("articles", "started"), ("context", "started")], "the first two run side by side"


async def test_an_unknown_customer_is_no_outage(support_gateway: Served) -> None:
    async with QueryAgent("query-1", support_gateway.url) as agent:
        with pytest.raises(NotFound, match="99999999"):
            await agent.process_query(QUESTION, "99999999")


async def test_without_kafka_the_question_is_answered_and_the_answer_says_what_is_missing(
    gateway_without_kafka: Served,
) -> None:
    steps = Steps()
    async with QueryAgent("query-1", gateway_without_kafka.url) as agent:
        result = await agent.process_query(QUESTION, "12345", report=steps)
    assert "Forgot password?" in result.answer
    assert result.interaction_id is not None
    assert result.published is None
    [missing] = result.degraded
    assert missing.step == "publish"
    assert missing.message
    assert steps.ends()["publish"] == "failed"


async def test_without_a_gateway_the_answer_is_honest(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    async with (
        MCPClient(url, retry=FakeTime().policy()) as client,
        QueryAgent("query-1", url, client=client) as agent,
    ):
        result = await agent.process_query(QUESTION, "12345")
        health = await agent.health()
    assert result.answer == f"{NOTHING_REACHED}\n\n{phrases_for('en').not_handed_over}"
    assert (result.needs_person, result.handed_over) == (True, False), "nobody will ever hear of it"
    assert [missing.step for missing in result.degraded] == ["context", "articles", "publish", "save"]
    assert {missing.code for missing in result.degraded} == {"connection_failed"}
    assert (result.sources, result.customer, result.published, result.interaction_id) == ([], None, None, None)
    assert health.servers == {"database": "connection_failed", "kafka": "connection_failed"}
    assert not health.ok


async def test_the_knowledge_agent_answers_without_knowing_who_asks(support_gateway: Served) -> None:
    async with KnowledgeAgent("knowledge-1", support_gateway.url) as agent:
        result = await agent.answer("how long does a refund take")
        assert result.sources[0].slug == "request-a-refund"
        assert "Cards take 5 to 10 working days" in result.answer
        reply = await agent.handle(AgentRequest("qwertzuiop asdfghjkl"))
        assert reply.data["sources"] == []
        assert reply.data["answered_by"] == "articles"


async def publish(client: MCPClient, topic: str, message: Any) -> None:
    await client.call_tool("kafka", "publish_message", {"topic": topic, "message": message})


async def test_the_response_agent_keeps_each_response_on_record_and_rejects_the_rest(
    support_gateway: Served, unused_topic: str
) -> None:
    delivered: list[AgentResponse] = []

    async def deliver(response: AgentResponse) -> None:
        delivered.append(response)

    async with MCPClient(support_gateway.url) as client:
        agent = ResponseAgent(
            "response-1", support_gateway.url, topic=unused_topic, group_id=unused_topic, client=client, deliver=deliver
        )
        assert (await agent.process_responses(wait_ms=0)).delivered == [], "the topic is created"
        good = {"customer_id": "12345", "response": "Your refund is on its way.", "query_id": "q-1"}
        for message in (good, "no object", {"customer_id": "12345"}, {**good, "customer_id": "99999999"}):
            await publish(client, unused_topic, message)
        await publish(client, unused_topic, {**good, "interaction_id": 1})
        delivered_places: list[Delivered] = []
        reasons: list[str] = []
        with anyio.fail_after(60):
            while len(delivered_places) + len(reasons) < 5:
                done = await agent.process_responses(wait_ms=2000)
                delivered_places += done.delivered
                reasons += [rejected.reason for rejected in done.rejected]
        assert [(place.customer_id, place.offset) for place in delivered_places] == [("12345", 0), ("12345", 4)]
        assert delivered_places[1].interaction_id == 1, "it was on record already"
        assert len(reasons) == 3
        assert "response" in reasons[1]
        assert "99999999" in reasons[2]
        row = await client.get_resource("database", f"db://interactions/{delivered_places[0].interaction_id}")
        stored = row["interaction"]
        assert (stored["agent_response"], stored["direction"]) == (good["response"], "outbound")
        assert [response.response for response in delivered] == [good["response"]] * 2

        await agent.stop()
        lag = await client.call_tool("kafka", "get_consumer_group_lag", {"group_id": unused_topic})
        assert lag["total_lag"] == 0, "the last round was acknowledged by the stop"


async def test_a_response_that_could_not_be_delivered_comes_again_and_is_stored_once(
    support_gateway: Served, unused_topic: str
) -> None:
    attempts: list[str] = []

    async def deliver(response: AgentResponse) -> None:
        attempts.append(response.response)
        if len(attempts) == 1:
            raise DeliveryFailed("The mail server is away.")

    async with MCPClient(support_gateway.url) as client:
        options: Any = {"topic": unused_topic, "group_id": unused_topic, "client": client, "deliver": deliver}
        agent = ResponseAgent("response-1", support_gateway.url, **options, lease_ms=1000)
        await agent.create_topic(unused_topic)
        await publish(client, unused_topic, {"customer_id": "12345", "response": "Done."})
        with anyio.fail_after(60):
            failures = 0
            delivered: list[Delivered] = []
            while not delivered:
                try:
                    delivered = (await agent.process_responses(wait_ms=2000)).delivered
                except DeliveryFailed:
                    failures += 1
        assert failures == 1
        assert attempts == ["Done.", "Done."]
        query = {
            "query": "SELECT count(*) AS stored FROM interactions WHERE idempotency_key LIKE $1",
            "params": [f"{unused_topic}/%"],
        }
        counted = await client.call_tool("database", "query_database", query)
        assert counted["rows"] == [{"stored": 1}]


async def test_a_running_response_agent_hands_on_what_comes(support_gateway: Served, unused_topic: str) -> None:
    arrived = asyncio.Event()

    async def deliver(response: AgentResponse) -> None:
        arrived.set()

    agent = ResponseAgent("response-1", support_gateway.url, topic=unused_topic, group_id=unused_topic, deliver=deliver)
    await agent.create_topic(unused_topic)
    async with agent:
        await publish(agent.client, unused_topic, {"customer_id": "12345", "response": "Done."})
        with anyio.fail_after(60):
            await arrived.wait()
        assert (await agent.health()).ok


class Peer:
    """Answers everything in one way and remembers what it was asked."""

    def __init__(self, reply: AgentReply) -> None:
        self.reply = reply
        self.asked: list[AgentRequest] = []

    async def handle(self, request: AgentRequest) -> AgentReply:
        self.asked.append(request)
        return self.reply


@pytest.mark.parametrize(
    ("text", "data", "role", "forwarded", "customer_id"),
    [
        ("How do refunds work?", {}, "knowledge", "How do refunds work?", None),
        ("How do refunds work?", {"customer_id": "12345"}, "query", "How do refunds work?", "12345"),
        ("Customer 12345: how do refunds work?", {}, "query", "how do refunds work?", "12345"),
        ("customer id C-77 asks where the parcel is", {}, "query", "asks where the parcel is", "C-77"),
        ("How do customers get 3 refunds?", {}, "knowledge", "How do customers get 3 refunds?", None),
        ("go on", {"skill": "process_responses"}, "response", "go on", None),
        ("Customer 5?", {"skill": "answer_question"}, "knowledge", "Customer 5?", None),
    ],
)
async def test_the_coordinator_finds_who_can_answer(
    unused_port: int, text: str, data: dict[str, Any], role: Any, forwarded: str, customer_id: str | None
) -> None:
    names: list[Any] = ["query", "knowledge", "response"]
    peers: Any = {name: Peer(AgentReply("asked back", state="input_required")) for name in names}
    agent = CoordinatorAgent("coordinator", f"http://127.0.0.1:{unused_port}", peers=peers)
    reply = await agent.handle(AgentRequest(text, data))
    assert reply.data["answered_by_agent"] == role
    [request] = peers[role].asked
    assert (request.text, request.data.get("customer_id")) == (forwarded, customer_id)
    assert sum(len(peer.asked) for peer in peers.values()) == 1
    await agent.stop()


async def test_the_coordinator_hands_answers_on_to_the_response_agent(support_gateway: Served) -> None:
    async with MCPClient(support_gateway.url) as client:
        peers: Any = {"query": QueryAgent("query-1", support_gateway.url, client=client)}
        agent = CoordinatorAgent("coordinator", support_gateway.url, peers=peers, client=client)
        reply = await agent.handle(AgentRequest(f"Customer 12345: {QUESTION}"))
        assert "Forgot password?" in reply.text
        assert reply.data["degraded"] == []
        place = reply.data["handed_on"]
        assert place["topic"] == "agent-responses"
        arguments = {"topic": place["topic"], "partition": place["partition"], "start": {"offset": place["offset"]}}
        [message] = (await client.call_tool("kafka", "consume_messages", {**arguments, "max_messages": 1}))["messages"]
        response = AgentResponse.model_validate(message["value"])
        assert response.response == reply.text
        assert response.interaction_id == reply.data["interaction_id"]
        rejected = await agent.handle(AgentRequest("How do refunds work?"))
        assert rejected.state == "rejected"


# Every agent


class Greeter(A2AAgent):
    """The smallest agent there is."""

    def __init__(self, url: str) -> None:
        super().__init__("greeter-1", "greeter", url)
        self.add_handler(Skill("greet", "Greet", "Greets."), self._greet)
        self.add_handler(Skill("fail", "Fail", "Fails."), self._fail)

    async def _greet(self, request: AgentRequest) -> AgentReply:
        return AgentReply(f"Hello {request.text}")

    async def _fail(self, request: AgentRequest) -> AgentReply:
        await self.call_mcp_tool("database", "no_such_tool")
        raise AssertionError

    async def break_down(self) -> None:
        raise RuntimeError("a bug")


async def test_an_agent_answers_by_skill_and_counts(support_gateway: Served) -> None:
    async with Greeter(support_gateway.url) as agent:
        assert (await agent.handle(AgentRequest("Ada"))).text == "Hello Ada"
        assert (await agent.handle(AgentRequest("x", {"skill": "sing"}))).state == "rejected"
        with pytest.raises(ToolNotFound):
            await agent.handle(AgentRequest("x", {"skill": "fail"}))
        with pytest.raises(ValueError, match="greet"):
            agent.add_handler(Skill("greet", "", ""), agent._greet)
        health = await agent.health()
        assert (health.ok, health.handled, health.failed) == (True, 1, 1)
    assert not (await agent.health()).running


async def test_an_agent_whose_background_work_broke_says_so(unused_port: int) -> None:
    async with Greeter(f"http://127.0.0.1:{unused_port}") as agent:
        agent.run_beside(agent.break_down())
        with anyio.fail_after(30):
            while (await agent.health()).running:
                await anyio.lowlevel.checkpoint()


async def test_only_outages_are_passed_over() -> None:
    async def fail(failure: CallFailed) -> None:
        raise failure

    degraded: list[Degradation] = []
    for outage in (BackendUnavailable("down"), ConnectionFailed("away")):
        assert await unless_down(fail(outage), "save", degraded) is None
    assert [entry.code for entry in degraded] == ["backend_unavailable", "connection_failed"]
    with pytest.raises(NotFound):
        await unless_down(fail(NotFound("nobody")), "save", degraded)


async def test_of_two_things_side_by_side_none_outlives_the_failure_of_the_other() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        await begun.wait()
        raise NotFound("nobody")

    with pytest.raises(NotFound):
        await side_by_side(fail(), wait())
    assert ended.is_set()


async def test_the_gateways_log_names_the_agent(support_gateway: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="MCP")
    async with Greeter(support_gateway.url) as agent:
        await agent.call_mcp_tool("database", "search_knowledge_base", {"search_term": "refund"})
    assert any("client=greeter-1" in record.getMessage() for record in caplog.records)
