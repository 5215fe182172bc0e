"""Agents as an official A2A client meets them, over a real socket."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from a2a.client import ClientConfig, create_client
from a2a.helpers import (
    get_artifact_text,
    get_data_parts,
    get_message_text,
    new_data_part,
    new_message,
    new_raw_part,
    new_text_part,
)
from a2a.server.context import ServerCallContext
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import A2AError

from agents import tasks
from agents.a2a import AgentTask, RemoteAgent, agent_card, serve_agents
from agents.base import A2AAgent, AgentReply, AgentRequest, Skill, Step
from agents.client import MCPClient
from agents.command_line import application, command_line
from agents.errors import CallFailed, ConnectionFailed
from agents.knowledge import KnowledgeAgent
from agents.query import QueryAgent
from agents.tasks import OneTaskAMessage, RecentTasks
from app.local.process import free_port
from tests.agents.faults import FakeTime
from tests.fixtures.gateway import Served

QUESTION = "how do i reset my pasword"


@contextlib.asynccontextmanager
async def serving(app: Any, port: int) -> AsyncGenerator[str]:
    """Serve agents on a port."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=5))
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.wait([running], timeout=0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@contextlib.asynccontextmanager
async def official_client(url: str, **options: Any) -> AsyncGenerator[Any]:
    async with httpx.AsyncClient(timeout=60) as http:
        yield await create_client(url, ClientConfig(httpx_client=http, **options))


def user_says(text: str, data: dict[str, Any] | None = None, **ids: Any) -> Any:
    parts = [new_text_part(text), *([new_data_part(data)] if data else [])]
    return new_message(parts, role=Role.ROLE_USER, **ids)


@pytest.fixture
async def query_agent(support_gateway: Served, unused_port: int) -> AsyncGenerator[str]:
    agent = QueryAgent("query-1", support_gateway.url)
    async with serving(serve_agents({"": agent}, f"http://127.0.0.1:{unused_port}"), unused_port) as url:
        yield url


async def test_the_card_is_at_its_well_known_address(query_agent: str) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        card = (await http.get(f"{query_agent}/.well-known/agent-card.json")).json()
    assert card["name"] == "query-1"
    assert card["supportedInterfaces"][0]["protocolBinding"] == "JSONRPC"
    assert card["supportedInterfaces"][0]["protocolVersion"] == "1.0"
    assert card["capabilities"]["streaming"] is True
    assert [skill["id"] for skill in card["skills"]] == ["process_query"]


async def test_a_streaming_client_sees_the_steps_and_then_the_answer(query_agent: str) -> None:
    async with official_client(query_agent) as client:
        request = SendMessageRequest(message=user_says(QUESTION, {"customer_id": 12345}))
        events = [event async for event in client.send_message(request)]
        assert events[0].HasField("task")
        states = [event.status_update.status.state for event in events if event.HasField("status_update")]
        assert states[0] == TaskState.TASK_STATE_WORKING
        assert states[-1] == TaskState.TASK_STATE_COMPLETED
        steps = [
            Step.model_validate(data)
            for event in events
            if event.HasField("status_update")
            for data in get_data_parts(event.status_update.status.message.parts)
        ]
        assert {step.name for step in steps if step.state == "done"} == {
            "context",
            "articles",
            "publish",
            "answer",
            "save",
        }
        [artifact] = [event.artifact_update.artifact for event in events if event.HasField("artifact_update")]
        assert "Forgot password?" in get_artifact_text(artifact)
        [result] = get_data_parts(artifact.parts)
        assert result["sources"][0]["slug"] == "reset-your-password"
        assert result["degraded"] == []

        task = await client.get_task(GetTaskRequest(id=events[0].task.id))
        assert task.status.state == TaskState.TASK_STATE_COMPLETED
        assert get_artifact_text(task.artifacts[0]) == get_artifact_text(artifact)
        listed = await client.list_tasks(ListTasksRequest())
        assert [entry.id for entry in listed.tasks] == [task.id]


async def test_a_client_that_does_not_stream_gets_the_finished_task(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        request = SendMessageRequest(message=user_says(QUESTION, {"customer_id": "12345"}))
        [event] = [event async for event in client.send_message(request)]
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert "Forgot password?" in get_artifact_text(event.task.artifacts[0])


async def test_the_agent_asks_back_who_the_customer_is(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says(QUESTION)))]
        assert event.task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert "customer" in get_message_text(event.task.status.message)
        answer = user_says("12345", task_id=event.task.id, context_id=event.task.context_id)
        [event] = [e async for e in client.send_message(SendMessageRequest(message=answer))]
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert "Forgot password?" in get_artifact_text(event.task.artifacts[0])


async def test_a_failure_is_a_failed_task_with_its_code(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        request = SendMessageRequest(message=user_says(QUESTION, {"customer_id": "99999999"}))
        [event] = [e async for e in client.send_message(request)]
        assert event.task.status.state == TaskState.TASK_STATE_FAILED
        [problem] = get_data_parts(event.task.status.message.parts)
        assert problem["code"] == "not_found"
        assert problem["request_id"]


@pytest.mark.parametrize("texts", [[""], ["  \n\t"], ["", " "], []])
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_message_that_says_nothing_is_refused_in_words(
    query_agent: str, texts: list[str], streaming: bool
) -> None:
    message = new_message([*map(new_text_part, texts), new_data_part({"customer_id": "12345"})], role=Role.ROLE_USER)
    if not texts:
        message = new_message([new_raw_part(b"picture", media_type="image/png")], role=Role.ROLE_USER)
    async with official_client(query_agent, streaming=streaming) as client:
        with pytest.raises(A2AError, match="says nothing: send a text part"):
            [event async for event in client.send_message(SendMessageRequest(message=message))]
        assert not (await client.list_tasks(ListTasksRequest())).tasks


async def test_data_alone_is_asked_for_the_question(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        message = new_message([new_data_part({"customer_id": "12345"})], role=Role.ROLE_USER)
        [event] = [e async for e in client.send_message(SendMessageRequest(message=message))]
        assert event.task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        answer = user_says(QUESTION, task_id=event.task.id, context_id=event.task.context_id)
        [event] = [e async for e in client.send_message(SendMessageRequest(message=answer))]
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert "Forgot password?" in get_artifact_text(event.task.artifacts[0])


async def test_the_customer_may_come_as_data_after_the_question(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says(QUESTION)))]
        parts = [new_data_part({"customer_id": "12345"})]
        answer = new_message(parts, role=Role.ROLE_USER, task_id=event.task.id, context_id=event.task.context_id)
        [event] = [e async for e in client.send_message(SendMessageRequest(message=answer))]
        assert "Forgot password?" in get_artifact_text(event.task.artifacts[0])


async def test_a_long_question_is_answered(support_gateway: Served) -> None:
    question = f"How do I reset my password? {'Thank you so much and have a nice day. ' * 17}"
    assert len(question) > 660
    async with KnowledgeAgent("knowledge-1", support_gateway.url) as knowledge:
        answer = await knowledge.answer(question)
        assert answer.sources[0].slug == "reset-your-password"
        endless = await knowledge.answer("password" * 1000)
        assert endless.degraded == []
    async with QueryAgent("query-1", support_gateway.url) as query:
        result = await query.process_query(f"{question}{'!' * 25_000}", "12345")
        assert result.sources[0].slug == "reset-your-password"
        assert (result.interaction_id is not None, result.degraded) == (True, [])


async def test_the_same_message_is_one_task_however_often_it_comes(query_agent: str) -> None:
    message = user_says(QUESTION, {"customer_id": "12345"})
    async with official_client(query_agent) as client, official_client(query_agent, streaming=False) as waiting:

        async def send(how: Any) -> str:
            events = [event async for event in how.send_message(SendMessageRequest(message=message))]
            task = await client.get_task(GetTaskRequest(id=events[0].task.id))
            assert task.status.state == TaskState.TASK_STATE_COMPLETED
            assert len(task.artifacts) == 1
            last = events[-1]
            ended = last.task if last.HasField("task") else last.status_update
            assert ended.status.state == TaskState.TASK_STATE_COMPLETED
            return str(task.id)

        at_once = await asyncio.gather(*(send(how) for how in (client, waiting, client, waiting)))
        later = [await send(client), await send(waiting)]
        assert len({*at_once, *later}) == 1
        assert len((await client.list_tasks(ListTasksRequest())).tasks) == 1
        other = user_says(QUESTION, {"customer_id": "12345"})
        [event] = [e async for e in waiting.send_message(SendMessageRequest(message=other))]
        assert event.task.id != at_once[0]


async def test_an_answer_to_a_question_of_the_agent_counts_once(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        first = user_says(QUESTION)
        [event] = [e async for e in client.send_message(SendMessageRequest(message=first))]
        [again] = [e async for e in client.send_message(SendMessageRequest(message=first))]
        assert again.task.id == event.task.id
        assert again.task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        answer = user_says("12345", task_id=event.task.id, context_id=event.task.context_id)
        [end] = [e async for e in client.send_message(SendMessageRequest(message=answer))]
        ends = [end, *[e async for e in client.send_message(SendMessageRequest(message=answer))]]
        assert [end.task.id for end in ends] == [event.task.id] * 2
        assert [len(end.task.artifacts) for end in ends] == [1, 1]
        late = user_says("12345", task_id=event.task.id)
        with pytest.raises(A2AError):  # the task is at its end
            [e async for e in client.send_message(SendMessageRequest(message=late))]
        elsewhere = user_says(QUESTION, {"customer_id": "12345"})
        elsewhere.message_id = late.message_id
        [event] = [e async for e in client.send_message(SendMessageRequest(message=elsewhere))]
        assert event.task.status.state == TaskState.TASK_STATE_COMPLETED  # what was refused does not count
        elsewhere.task_id = again.task.id
        with pytest.raises(A2AError, match="Another task"):
            [e async for e in client.send_message(SendMessageRequest(message=elsewhere))]


async def test_a_message_whose_answer_was_lost_goes_on_as_the_task_that_it_made(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    async with MCPClient(url, retry=FakeTime().policy()) as unused:
        dreamer = Dreamer(url, unused)
        async with serving(serve_agents({"": dreamer}, url), unused_port), official_client(url) as client:
            request = SendMessageRequest(message=user_says("sleep"))
            seen: list[str] = []
            for _ in range(2):
                with anyio.fail_after(30):
                    async with contextlib.aclosing(client.send_message(request)) as events:
                        async for event in events:
                            if event.HasField("task"):
                                seen.append(event.task.id)
                                break
            assert len(set(seen)) == 1
            assert dreamer.dreams == 1
            await client.cancel_task(CancelTaskRequest(id=seen[0]))


async def test_a_remote_agent_that_refuses_says_why(query_agent: str) -> None:
    with pytest.raises(CallFailed, match="says nothing") as failure:
        await RemoteAgent(query_agent).handle(AgentRequest(" "))
    assert failure.value.code == "agent_refused"
    assert (await RemoteAgent(query_agent).handle(AgentRequest("", {"customer_id": "1"}))).state == "input_required"


async def test_an_unknown_skill_is_rejected(query_agent: str) -> None:
    async with official_client(query_agent, streaming=False) as client:
        [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says("la", {"skill": "sing"})))]
        assert event.task.status.state == TaskState.TASK_STATE_REJECTED
        assert "process_query" in get_message_text(event.task.status.message)


async def test_a_remote_agent_is_asked_like_a_local_one(query_agent: str) -> None:
    steps: list[str] = []

    async def report(step: Step) -> None:
        steps.append(step.state)

    remote = RemoteAgent(query_agent)
    reply = await remote.handle(AgentRequest(QUESTION, {"customer_id": "12345"}, report=report))
    assert "Forgot password?" in reply.text
    assert isinstance(reply.data["interaction_id"], int)
    assert steps.count("done") == 5
    assert (await remote.handle(AgentRequest(QUESTION))).state == "input_required"
    assert (await remote.handle(AgentRequest("la", {"skill": "sing"}))).state == "rejected"
    with pytest.raises(CallFailed, match="99999999"):
        await remote.handle(AgentRequest(QUESTION, {"customer_id": "99999999"}))


async def test_a_remote_agent_that_is_away_is_an_outage(unused_port: int) -> None:
    with pytest.raises(ConnectionFailed):
        await RemoteAgent(f"http://127.0.0.1:{unused_port}").handle(AgentRequest("hello"))


class Dreamer(A2AAgent):
    """Never finishes."""

    def __init__(self, url: str, client: MCPClient) -> None:
        super().__init__("dreamer", "dreamer", url, client=client)
        self.add_handler(Skill("dream", "Dream", "Dreams."), self._dream)
        self.woken = asyncio.Event()
        self.dreams = 0

    async def _dream(self, request: AgentRequest) -> AgentReply:
        self.dreams += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.woken.set()
        raise AssertionError


class Parrot(A2AAgent):
    """Says it again."""

    def __init__(self, url: str, client: MCPClient) -> None:
        super().__init__("parrot", "parrot", url, client=client)
        self.add_handler(Skill("repeat", "Repeat", "Repeats."), self._repeat)

    async def _repeat(self, request: AgentRequest) -> AgentReply:
        return AgentReply(request.text)


async def test_a_task_can_be_cancelled(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    async with MCPClient(url, retry=FakeTime().policy()) as unused:
        dreamer = Dreamer(url, unused)
        async with serving(serve_agents({"": dreamer}, url), unused_port), official_client(url) as client:
            configuration = SendMessageConfiguration(return_immediately=True)
            async for event in client.send_message(
                SendMessageRequest(message=user_says("sleep"), configuration=configuration)
            ):
                if event.HasField("status_update"):
                    task_id = event.status_update.task_id
                    break
            task = await client.cancel_task(CancelTaskRequest(id=task_id))
            assert task.status.state == TaskState.TASK_STATE_CANCELED
            with anyio.fail_after(30):
                await dreamer.woken.wait()


async def test_only_the_tasks_that_changed_last_are_kept() -> None:
    tasks, context = RecentTasks(limit=2), ServerCallContext()
    for name in ("a", "b", "a", "c"):
        await tasks.save(Task(id=name), context)
    assert [name for name in "abc" if await tasks.get(name, context)] == ["a", "c"]


async def test_a_message_of_a_task_that_is_not_kept_any_longer_is_a_new_one(unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    async with MCPClient(url, retry=FakeTime().policy()) as unused:
        parrot = Parrot(url, unused)
        handler = OneTaskAMessage(AgentTask(parrot), agent_card(parrot, url), limit=2)
        first, context = SendMessageRequest(message=user_says("one")), ServerCallContext()
        made = [await handler.on_message_send(copy.deepcopy(first), context) for _ in range(2)]
        for text in ("two", "three"):
            await handler.on_message_send(SendMessageRequest(message=user_says(text)), context)
        made.append(await handler.on_message_send(copy.deepcopy(first), context))
        await handler.aclose()
    assert made[0].id == made[1].id != made[2].id  # type: ignore[union-attr]


async def test_large_tasks_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MOST_BYTES", 3_000)
    dropped: list[str] = []
    kept, context = RecentTasks(limit=100, on_drop=dropped.append), ServerCallContext()
    for name, size in [("a", 1_000), ("b", 1_000), ("c", 2_500), ("d", 10_000), ("e", 10)]:
        await kept.save(Task(id=name, history=[user_says("x" * size)]), context)
    assert [name for name in "abcde" if await kept.get(name, context)] == ["e"]
    assert dropped == ["a", "b", "c", "d"]


class Breaking(A2AAgent):
    """Fails as nobody foresaw."""

    def __init__(self, url: str) -> None:
        super().__init__("breaking", url)
        self.add_handler(Skill("break", "Break", "Breaks."), self.break_down)

    async def break_down(self, request: AgentRequest) -> AgentReply:
        raise KeyError("a secret of the inside")


@pytest.fixture
async def breaking(unused_port: int) -> AsyncGenerator[str]:
    url = f"http://127.0.0.1:{unused_port}"
    async with serving(serve_agents({"": Breaking(url)}, url), unused_port):
        yield url


async def test_what_nobody_foresaw_fails_the_task_and_tells_nothing_of_it(
    breaking: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with official_client(breaking, streaming=False) as client:
        [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says("hello")))]
    assert event.task.status.state == TaskState.TASK_STATE_FAILED
    assert get_data_parts(event.task.status.message.parts) == [{"success": False, "code": "internal_error"}]
    assert "secret" not in str(event)
    assert "a secret of the inside" in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, -32700),
        (b"<html>", 400, -32700),
        (b"[" * 100_000, 400, -32700),
        (b'{"a":' * 5_000, 400, -32700),
        (b'"\xff"', 400, -32700),
        (b'{"jsonrpc":"2.0","method":"x","id":' + b"9" * 5_000 + b"}", 400, -32700),
        (b" " * 1_048_577, 413, -32600),
        (b"[]", 200, -32600),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_body_that_says_nothing_is_refused_in_words(breaking: str, body: bytes, status: int, code: int) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.post(f"{breaking}/", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "codec" not in answer.text
    assert "recursion" not in answer.text


@pytest.mark.parametrize("message_id", ["", "x" * 257])
async def test_a_message_needs_an_id_of_its_own(breaking: str, message_id: str) -> None:
    message = user_says("hello")
    message.message_id = message_id
    async with official_client(breaking, streaming=False) as client:
        with pytest.raises(A2AError, match="messageId"):
            async for _ in client.send_message(SendMessageRequest(message=message)):
                pass


async def test_pages_of_other_sites_are_refused(query_agent: str) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        card = f"{query_agent}/.well-known/agent-card.json"
        assert (await http.get(card)).status_code == 200
        assert (await http.get(card, headers={"host": "rebound.example"})).status_code == 403
        assert (await http.get(card, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await http.get(card, headers={"origin": "http://[::x"})).status_code == 403
        assert (await http.get(card, headers={"origin": "http://localhost:3000"})).status_code == 200


async def test_all_agents_run_in_one_process(support_gateway: Served, unused_port: int) -> None:
    options = command_line().parse_args(["all", "--port", str(unused_port), "--gateway", support_gateway.url])
    app = application(options, {"gateway": {"uri": options.gateway}})
    async with serving(app, unused_port) as url:
        async with httpx.AsyncClient(timeout=30) as http:
            names = {
                path: (await http.get(f"{url}{path}/.well-known/agent-card.json")).json()["name"]
                for path in ("", "/query", "/knowledge", "/response")
            }
            health = await http.get(f"{url}/health")
        assert names == {
            "": "coordinator",
            "/query": "query-agent",
            "/knowledge": "knowledge-agent",
            "/response": "response-agent",
        }
        assert health.status_code == 200
        assert [agent["running"] for agent in health.json()["agents"]] == [True] * 4
        async with official_client(url, streaming=False) as client:
            request = SendMessageRequest(message=user_says(f"Customer 12345: {QUESTION}"))
            [event] = [e async for e in client.send_message(request)]
            [result] = get_data_parts(event.task.artifacts[0].parts)
            assert result["answered_by_agent"] == "query"
            assert result["handed_on"]["topic"] == "agent-responses"
        async with official_client(f"{url}/knowledge", streaming=False) as client:
            [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says("refund?")))]
            assert event.task.status.state == TaskState.TASK_STATE_COMPLETED


async def test_the_coordinator_leads_agents_that_run_elsewhere(query_agent: str, support_gateway: Served) -> None:
    port = free_port()
    options = command_line().parse_args(["coordinator", "--port", str(port), "--peer", f"query={query_agent}"])
    app = application(options, {"gateway": {"uri": support_gateway.url}})
    async with serving(app, port) as url, official_client(url) as client:
        request = SendMessageRequest(message=user_says(QUESTION, {"customer_id": "12345"}))
        events = [event async for event in client.send_message(request)]
        [artifact] = [event.artifact_update.artifact for event in events if event.HasField("artifact_update")]
        assert "Forgot password?" in get_artifact_text(artifact)
        steps = [
            data["name"]
            for event in events
            if event.HasField("status_update")
            for data in get_data_parts(event.status_update.status.message.parts)
            if data["state"] == "done"
        ]
        assert (steps[0], steps[-1]) == ("route", "hand_on")
        assert set(steps[1:-1]) == {"context", "articles", "publish", "answer", "save"}
        [event] = [e async for e in client.send_message(SendMessageRequest(message=user_says("refunds?")))][-1:]
        assert event.status_update.status.state == TaskState.TASK_STATE_REJECTED


@pytest.mark.parametrize(
    "arguments",
    [
        ["coordinator"],
        ["coordinator", "--peer", "cook=http://127.0.0.1:1"],
        ["query", "--peer", "query=http://x"],
        ["query", "--gateway", "localhost:8000"],
        [],
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command_line().parse_args(arguments)
